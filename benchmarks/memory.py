"""Peak memory of one job, measured in a process of its own: ``python -m benchmarks.memory JOB``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def peak(job: str, *words: str) -> float:
    """Peak resident memory of a job, GiB."""
    command = [sys.executable, "-m", "benchmarks.memory", job, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stderr}")
    return float(done.stdout.split()[-1])


def sampling(count: str) -> None:
    """Draw from a synthesizer that was fitted for one iteration and throw the batches away."""
    from defectgen import DefectSynthesizer
    from defectgen.data.example import example_folders

    example = example_folders()
    synth = DefectSynthesizer(example.backbone, kimg=0.016, seed=0, verbose=0, device="cpu")
    synth.fit(example.defects, example.masks)
    for _ in synth.iter_samples(int(count), seed=0):
        pass


def training(stage: str, precision: str, batch: str) -> None:
    """One step of every phase at 256 px, twice."""
    from benchmarks.cases import LARGE, Case
    from defectgen.memory import kept_memory
    from defectgen.networks.precision import in_precision

    case = Case(LARGE, textbook=False, batch=int(batch))
    with kept_memory(), in_precision(precision):
        for _ in range(2):
            for _, step in case.phases(stage).values():
                step()


if __name__ == "__main__":
    {"sampling": sampling, "training": training}[sys.argv[1]](*sys.argv[2:])
    # Of this program alone: getrusage would count what the process was before it became this one.
    status = Path("/proc/self/status").read_text().splitlines()
    print(next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 2**20)
