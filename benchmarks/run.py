"""Speed on a CPU against the textbook formulation: one table, every figure from this run.

    python benchmarks/run.py                 # everything, about a quarter of an hour on two cores
    python benchmarks/run.py --only "64 px"  # one size, or "memory"

Ratios are between contenders that took turns in this process. In each of two turns (five at 64 px)
each contender runs once before its clock starts; the best time counts. Sampling is what
`Backbone.sample` does, from seeds to images in [0, 1], four batches in a call. Training is one
adversarial iteration, lazy terms spread over their interval, with augmentation "bgc" at p = 0.3.
"textbook" is benchmarks/textbook.py as PyTorch runs it; "kept" is the same with the memory setting
of defectgen/memory.py, to tell its part from that of the rest. At 256 px a ratio is judged against
the plain textbook if that reaches its share of the matrix rate, else against the kept one. A
processor that only emulates bfloat16 is measured in float32 alone; the other lines say so.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("256 px", "64 px", "memory"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2, help="turns of a training step at 256 px")
    parser.add_argument("--kernels", choices=("auto", "fused", "reference"), default="auto")
    parser.add_argument(
        "--json", type=Path, help="default: benchmarks/results/cpu-COMMIT.json, none with --only"
    )
    return parser.parse_args()


def contexts():
    """Contender -> context it runs in."""
    from defectgen.memory import kept_memory
    from defectgen.networks.precision import in_precision
    from defectgen.ops._dispatch import use_kernels

    @contextmanager
    def textbook(kept):
        with ExitStack() as stack:
            stack.enter_context(use_kernels("reference"))
            if kept:
                stack.enter_context(kept_memory())
            yield

    @contextmanager
    def ours(precision):
        with kept_memory(), in_precision(precision):
            yield

    return {
        "textbook": lambda: textbook(False),
        "kept": lambda: textbook(True),
        "fp32": lambda: ours("fp32"),
        "bf16": lambda: ours("bf16"),
    }


def measure_sampling(base, ours, repeats):
    """Seconds per image of every contender, and how far the pictures are apart."""
    from benchmarks.cases import SAMPLE_BATCHES
    from benchmarks.measure import precisions, seconds

    inside, count = contexts(), SAMPLE_BATCHES * ours.batch
    runs = dict.fromkeys(("textbook", "kept"), base.sample)
    took = seconds({**runs, **dict.fromkeys(precisions(), ours.sample)}, repeats, inside)
    ours.network.load_state_dict(base.network.state_dict())
    seeds = tuple(range(ours.batch))
    wanted = base.images_of(seeds)
    found = {}
    for name in precisions():
        with inside[name]():
            found[name] = ours.images_of(seeds)
    result = {
        "seconds": {k: v / count for k, v in took.items()},
        "difference_fp32": float((found["fp32"] - wanted).abs().max()),
    }
    if "bf16" in found:
        error = (found["bf16"].clamp(-1, 1) - wanted.clamp(-1, 1)).square().mean()
        result["psnr_bf16"] = 10 * math.log10(4 / float(error))
    return result


def measure_training(base, ours, stage, repeats):
    """Seconds and GFLOP per image of one iteration, lazy terms spread over their interval."""
    from benchmarks.measure import flop, precisions, seconds

    inside = contexts()
    result = {"seconds": {}, "gflop": 0.0, "phases": {}}
    mine = ours.phases(stage)
    for name, (interval, step) in base.phases(stage).items():
        runs = dict.fromkeys(("textbook", "kept"), step)
        took = seconds({**runs, **dict.fromkeys(precisions(), mine[name][1])}, repeats, inside)
        share = interval * ours.batch
        with base.without_augmentation():
            work = flop(step) / share
        result["gflop"] += work
        result["phases"][name] = {"gflop": work, **{k: v / share for k, v in took.items()}}
        for key, value in took.items():
            result["seconds"][key] = result["seconds"].get(key, 0.0) + value / share
        print(f"  {stage}, {name}: {result['phases'][name]}", file=sys.stderr)
    return result


def main() -> None:
    """Measure, print, save."""
    given = arguments()
    os.environ["DEFECTGEN_KERNELS"] = given.kernels

    import torch

    from benchmarks.cases import LARGE, SMALL, Case
    from benchmarks.measure import commit, flop, machine, matrix_rates, precisions
    from benchmarks.table import memory_lines, render, size_lines

    torch.set_num_threads(given.threads)
    raw = {"commit": commit(), "machine": machine(), "rates": matrix_rates(), "sizes": {}}
    print(raw["rates"], file=sys.stderr)
    lines = []
    for size in (LARGE, SMALL):
        if given.only and not size.name.startswith(given.only):
            continue
        base, ours = Case(size, textbook=True), Case(size, textbook=False)
        repeats = given.repeats if size is LARGE else 5
        found = {"gflop": flop(base.graph_pass)}
        found["sampling"] = measure_sampling(base, ours, max(3, repeats))
        for stage in ("backbone", "defect"):
            found[stage] = measure_training(base, ours, stage, repeats)
        raw["sizes"][size.name] = found
        lines += size_lines(size.name, found, raw["rates"])
    if given.only in (None, "memory"):
        raw["memory"], more = memory_lines(precisions())
        lines += more
    print(render(lines, raw))
    target = given.json
    if target is None and given.only is None:
        target = ROOT / "benchmarks" / "results" / f"cpu-{raw['commit']}.json"
    if target is None:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({**raw, "lines": lines}, indent=1) + "\n")
    print(f"saved: {target}", file=sys.stderr)


if __name__ == "__main__":
    main()
