"""A category of the zoo from photos to a stranger's machine: train, publish, pull, compare.

    export HF_ENDPOINT=http://127.0.0.1:8000 HF_TOKEN=...
    python examples/zoo_round_trip.py --namespace tester

Talks to the hub that ``HF_ENDPOINT`` names, and refuses to run without it: this is a rehearsal, in
which the shipped hazelnuts at 32 px stand for those of MVTec AD, trained for one iteration. The
tests run it against a hub on loopback. ``--data PATH`` takes the folder of MVTec AD instead. The
list of the zoo that it changes is a copy in ``--work``.
"""

from __future__ import annotations

import argparse
import os
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from defectgen import Backbone, DefectSynthesizer
from defectgen.data.example import example_folders
from defectgen.experiment_settings import Settings
from defectgen.publish import Terms, publish, repository
from defectgen.registry import ZOO_FILE, use_zoo, write_record, zoo_record
from defectgen.zoo import train

NAME, DEFECT = "mvtec/hazelnut", "print"
RESOLUTION, KIMG, SAMPLES = 32, 0.016, 16


def write_hazelnuts(data: Path) -> None:
    """The shipped photos in the layout of MVTec AD; paint on a nut is called a print."""
    example, home = example_folders(), data / "hazelnut"
    parts = {
        home / "train/good": (example.good, ""),
        home / f"test/{DEFECT}": (example.defects, ""),
        home / f"ground_truth/{DEFECT}": (example.masks, "_mask"),
    }
    for target, (source, ending) in parts.items():
        target.mkdir(parents=True, exist_ok=True)
        for path in source.iterdir():
            shutil.copyfile(path, target / f"{path.stem}{ending}.png")


def main() -> None:
    """Train, publish, pull, sample, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--namespace", required=True, help="owner of the repositories")
    parser.add_argument("--data", type=Path, help="MVTec AD (default: the shipped hazelnuts)")
    parser.add_argument("--work", type=Path, default=Path("out/zoo_round_trip"))
    arguments = parser.parse_args()
    if "HF_ENDPOINT" not in os.environ:
        parser.error("HF_ENDPOINT: must name a hub for rehearsals; got none; set it")
    work, data = arguments.work, arguments.data
    if data is None:
        data = work / "mvtec"
        write_hazelnuts(data)
    work.mkdir(parents=True, exist_ok=True)
    zoo = work / "zoo.json"
    zoo.write_bytes(ZOO_FILE.read_bytes())
    with use_zoo(zoo):
        # Of this size, so that the experiment is that of its entry.
        write_record(replace(zoo_record(NAME), resolution=RESOLUTION))
        short = Settings(kimg=KIMG, defect_kimg=KIMG, samples=SAMPLES)
        settings = replace(short, precision="fp32", device="cpu", verbose=0)
        train([NAME], data, work / "out", settings)
        local = work / "out" / NAME
        print(f"trained: {local}")
        repo_id = repository(zoo_record(NAME), arguments.namespace, None)
        entry = publish(NAME, data, local, Terms("cc-by-nc-sa-4.0", repo_id), device="cpu")
        print(f"published: {entry.repo_id} at {entry.revision}, {len(entry.branches)} branches")
        names = {NAME: "backbone"} | {f"{NAME}/{slug}": slug for slug in entry.branches}
        for name, folder in names.items():
            cls = Backbone if name == NAME else DefectSynthesizer
            there = cls.from_pretrained(name, cache_dir=work / "cache", device="cpu")
            own = cls.from_pretrained(local / folder, device="cpu")
            images, others = (one.sample(SAMPLES, seed=0) for one in (there, own))
            if not torch.equal(images, others):
                raise SystemExit(f"{name}: samples must be those of {folder}; got others")
            print(f"pulled: {name}, {SAMPLES} samples byte for byte those of {folder}")


if __name__ == "__main__":
    main()
