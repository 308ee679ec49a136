"""Speed on a GPU: native kernels, the reference, and the reference under torch.compile.

    python benchmarks/gpu.py                      # everything, in about five minutes
    python benchmarks/gpu.py --device cpu --tiny  # a dry run of every line, without meaning

Every figure is the median of repeated calls by the clock of the GPU, after calls that do not count.
Sampling and training use the published networks at 256 px with random weights. What torch.compile
does is left out when the time is up. An interrupt ends it: what was measured till then is saved.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PARTS = ("ops", "sampling", "backbone", "defect", "compiled")


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="dry run: tiny tensors, one repeat")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS, help="parts to measure")
    parser.add_argument("--repeats", type=int, default=20, help="calls that count")
    parser.add_argument("--minutes", type=float, default=4.0, help="then skip what is optional")
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/gpu-...-COMMIT.json")
    return parser.parse_args(words)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    import torch

    from benchmarks.gpu_measure import Clock, gpu
    from benchmarks.gpu_networks import Sampler, measure_compiled, measure_training
    from benchmarks.gpu_ops import measure as measure_ops
    from benchmarks.measure import commit
    from defectgen.errors import DefectGenError

    torch.backends.cudnn.benchmark = True  # shapes do not change
    warm, repeats = (1, 1) if given.tiny else (5, given.repeats)
    clock = Clock(given.device, warm, repeats, given.minutes)
    raw: dict[str, Any] = {"commit": commit(), "machine": gpu(clock.device), "tiny": given.tiny}
    raw["failed"] = {}
    raw["copy_gb_s"] = clock.copy_rate(2**12 if given.tiny else 2**29)
    jobs = {
        "ops": lambda: measure_ops(clock, given.tiny),
        "sampling": lambda: Sampler(clock, given.tiny).measure(),
        "backbone": lambda: measure_training(clock, "backbone", given.tiny),
        "defect": lambda: measure_training(clock, "defect", given.tiny),
        "compiled": lambda: measure_compiled(clock, given.tiny),
    }
    for name, job in jobs.items():
        if name not in given.only:
            continue
        try:
            raw[name] = job()
        except (RuntimeError, DefectGenError) as error:  # the other parts count all the same
            raw["failed"][name] = str(error)
        except KeyboardInterrupt:
            raw["failed"][name] = "interrupted"
            break
        clock.sweep()
        print(f"{'failed' if name in raw['failed'] else 'measured'}: {name}", file=sys.stderr)
    return raw


def main(words: list[str] | None = None) -> int:
    """Measure, print, save; 1 if a part failed."""
    given = arguments(words)

    from benchmarks.gpu_measure import slug
    from benchmarks.gpu_table import lines_of, render

    raw = measure(given)
    lines = lines_of(raw)
    print(render(lines, raw))
    name = f"gpu-{slug(raw['machine']['device'])}-{raw['commit']}.json"
    target = given.json or ROOT / "benchmarks" / "results" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({**raw, "lines": lines}, indent=1) + "\n")
    print(f"saved: {target}", file=sys.stderr)
    for name, error in raw["failed"].items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    return 1 if raw["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
