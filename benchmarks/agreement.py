"""Does training in bfloat16 end where float32 ends? The demo's data in both, on some seeds.

    python benchmarks/agreement.py --seeds 0 1    # about a quarter of an hour on two cores

Prints the scores of 64 samples each, and how far the loss curves of the two precisions lie apart,
as a share of how far those of two seeds lie apart (mean absolute difference over the ticks).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PRECISIONS = ("fp32", "bf16")
SHOWN = ("area_real", "area_generated", "change_iou", "swd_real", "swd_generated")


def trained(precision: str, seed: int, kimg: float) -> tuple[dict[str, float], list[dict]]:
    """Scores and history of one run."""
    from defectgen import Backbone, DefectSynthesizer
    from defectgen.batch import DefectBatch
    from defectgen.data.example import example_folders
    from defectgen.data.images import load_pairs
    from defectgen.networks.defect import receptive_radius
    from defectgen.scores import score_table

    example = example_folders()
    synth = DefectSynthesizer(
        Backbone.from_pretrained(example.backbone), kimg=kimg, seed=seed, precision=precision
    ).fit(example.defects, example.masks)
    real = load_pairs(example.defects, example.masks, resolution=64, channels=3)
    samples = DefectBatch.concat(list(synth.iter_samples(64, seed=0, return_normals=True)))
    return score_table(real, samples, receptive_radius(16, 64)), synth.history_


def distance(first: list[dict], second: list[dict], key: str) -> float:
    """Mean absolute difference of two curves at the ticks where both have a value."""
    both = [(a[key], b[key]) for a, b in zip(first, second, strict=True) if key in a and key in b]
    return sum(abs(a - b) for a, b in both) / max(len(both), 1)


def main() -> None:
    """Train, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--kimg", type=float, default=8.0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    runs = {(p, s): trained(p, s, given.kimg) for s in given.seeds for p in PRECISIONS}
    print("| | " + " | ".join(f"{p}, seed {s}" for p, s in runs) + " |")
    print("|---|" + "---:|" * len(runs))
    for name in SHOWN:
        cells = [f"{x[0][name]:.4g}" if name in x[0] else "undefined" for x in runs.values()]
        print(f"| {name} | " + " | ".join(cells) + " |")
    if len(given.seeds) > 1:
        one, two = given.seeds[:2]
        keys = [k for k in runs["fp32", one][1][-1] if k.startswith("loss/")]
        for key in keys:
            apart = distance(runs["fp32", one][1], runs["fp32", two][1], key)
            shares = [
                distance(runs["fp32", s][1], runs["bf16", s][1], key) / apart for s in given.seeds
            ]
            print(f"{key}: precisions differ by {max(shares):.0%} of what seeds differ by")
    if given.json:
        results = {f"{p} {s}": {"scores": a, "history": b} for (p, s), (a, b) in runs.items()}
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
