"""Native 3x3 convolutions against PyTorch's, one table, every figure from this run.

    python benchmarks/convolutions.py [--precision bf16]

In each of five turns each contender runs once before its clock starts; the best time counts.
Error: the largest one against float64, ours divided by PyTorch's. Shapes are those of the networks
at 64 px in batches of 16, and of the published ones at 256 px in batches of 4; channels last, kept
memory. "samples" is forward as samples have it, so that no bit depends on pixels beyond the taps.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

#: batch, channels in and out, side of the larger plane, stride
SHAPES = [
    *((16, 16, 16, 64, 1), (16, 32, 32, 64, 1), (16, 64, 64, 32, 1), (16, 128, 128, 16, 1)),
    *((16, 128, 128, 8, 1), (16, 32, 64, 65, 2), (16, 64, 128, 33, 2), (16, 128, 128, 17, 2)),
    *((4, 64, 64, 256, 1), (4, 128, 128, 128, 1), (4, 256, 256, 64, 1), (4, 512, 512, 32, 1)),
    *((4, 512, 512, 16, 1), (1, 512, 512, 8, 1), (4, 64, 128, 257, 2), (4, 256, 512, 65, 2)),
    *((4, 512, 512, 8, 1), (4, 512, 512, 17, 2)),
]


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()

    import torch

    from benchmarks.measure import commit, machine, matrix_rates, seconds
    from defectgen.memory import kept_memory
    from defectgen.networks.precision import PRECISIONS
    from defectgen.ops import use_kernels
    from defectgen.ops._dispatch import native
    from defectgen.ops.convolution import _Map

    torch.set_num_threads(given.threads)
    with use_kernels("fused"):
        native("cpu")
    raw = {"commit": commit(), "machine": machine(), "rates": matrix_rates()}
    raw |= {"precision": given.precision, "lines": []}
    dtype = PRECISIONS[given.precision] or torch.float32
    print(json.dumps({key: raw[key] for key in raw if key != "lines"}))
    print("| batch, in, out, side, stride | map | PyTorch, ms | ours, ms | ratio | error |")
    print("|---|---|---:|---:|---:|---:|")
    for batch, ins, outs, side, stride in SHAPES:
        how = _Map(stride, 1 if stride == 1 else 0, False)
        small = side if stride == 1 else (side - 3) // stride + 1
        x, dy, weight = (
            torch.randn(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)
            for shape in ((batch, ins, side, side), (batch, outs, small, small), (outs, ins, 3, 3))
        )

        def run(mode, name, tensors, how=how):
            with use_kernels(mode):
                if name in ("forward", "samples"):
                    return how.run(tensors[0], tensors[2], local=name == "samples")
                return how.gradients(*tensors, name == "features", name == "weights")[
                    name == "weights"
                ]

        given_to_all = x, dy, weight
        in_double = tuple(tensor.double() for tensor in given_to_all)
        maps = ("forward", "samples", "features", "weights") if stride == 1 else ("weights",)
        for name in maps:
            pair = {
                who: partial(run, mode, name, given_to_all)
                for who, mode in (("theirs", "reference"), ("ours", "fused"))
            }
            wanted = run("reference", name, in_double)
            error = {who: float((call() - wanted).abs().max()) for who, call in pair.items()}
            with kept_memory():
                took = seconds(pair, 5)
            line = {"shape": [batch, ins, outs, side, stride], "map": name}
            raw["lines"].append({**line, "seconds": took, "error": error})
            shape = ", ".join(map(str, line["shape"]))
            times = " | ".join(f"{1e3 * took[who]:.2f}" for who in ("theirs", "ours"))
            ratios = f"{took['theirs'] / took['ours']:.2f} | {error['ours'] / error['theirs']:.2f}"
            print(f"| {shape} | {name} | {times} | {ratios} |", flush=True)
    if given.json:
        given.json.write_text(json.dumps(raw, indent=1) + "\n")


if __name__ == "__main__":
    main()
