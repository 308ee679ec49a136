"""Train the weights that the package ships, from the embedded hazelnut images.

    OMP_NUM_THREADS=1 python examples/train_demo.py

Needs nothing but the package. Writes ``defectgen/assets/hazelnut/{backbone,synthesizer}``, in half
precision, with configuration, seed, kimg, minutes, scores and data digest in their ``config.json``.
Trains in ``--work`` with resume files: a run that was stopped goes on when started again, to the
same weights. One thread takes half an hour for the backbone and an hour for the defect.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path

import torch

from defectgen import Backbone, DefectBatch, DefectSynthesizer
from defectgen.adapter import save_synthesizer
from defectgen.data.example import ASSETS
from defectgen.data.images import load_images, load_pairs
from defectgen.metrics.swd import swd_scores
from defectgen.networks.defect import receptive_radius
from defectgen.scores import score_table
from defectgen.weights import save_folder

SAMPLES = 256


def main() -> None:
    """Train both, in order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone-kimg", type=float, default=50.0)
    parser.add_argument("--defect-kimg", type=float, default=80.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("out/train_demo"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    home = ASSETS / "hazelnut"
    backbone = train_backbone(home, arguments)
    train_synthesizer(home, backbone, arguments)


def train_backbone(home: Path, arguments: argparse.Namespace) -> Backbone:
    """Fit on the good images and ship generator and discriminator."""
    run_dir = arguments.work / "backbone"
    backbone = Backbone(
        64, kimg=arguments.backbone_kimg, run_dir=run_dir, seed=arguments.seed, verbose=2
    )
    began, stopped = time.perf_counter(), run_dir.exists()
    backbone.fit(home / "good", resume=True)
    backbone.config_.update(effort(began, stopped))
    real = load_images(home / "good", resolution=64, channels=3)
    samples = backbone.sample(SAMPLES, seed=arguments.seed)
    backbone.config_["scores"] = swd_scores(real.images, samples)
    target = home / "backbone"
    save_folder(target, "backbone", backbone.config_for_file(), backbone.tensors(), half=True)
    return Backbone.from_pretrained(target)


def train_synthesizer(home: Path, backbone: Backbone, arguments: argparse.Namespace) -> None:
    """Fit on the rounded backbone that is shipped, and ship branch and matching discriminator."""
    run_dir = arguments.work / "synthesizer"
    synth = DefectSynthesizer(
        backbone, kimg=arguments.defect_kimg, run_dir=run_dir, seed=arguments.seed, verbose=2
    )
    began, stopped = time.perf_counter(), run_dir.exists()
    synth.fit(home / "defect", home / "mask", resume=True)
    synth.config_.update(effort(began, stopped))
    parts = synth.iter_samples(SAMPLES, seed=arguments.seed, return_normals=True)
    samples = DefectBatch.concat(list(parts))
    real = load_pairs(home / "defect", home / "mask", resolution=64, channels=3)
    first = synth.branch_.resolutions[0]
    synth.config_["scores"] = score_table(real, samples, receptive_radius(first, 64))
    # The image discriminator stays behind: the one of the backbone starts the next fit, and the
    # shipped files stay small.
    synth.discriminator_ = None
    save_synthesizer(
        synth, home / "synthesizer", include_backbone=False, half=True, source="../backbone"
    )


def effort(began: float, stopped: bool) -> dict[str, float | int | None]:
    """What training took; of a run in several parts only the last is known: no minutes."""
    minutes = None if stopped else round((time.perf_counter() - began) / 60, 1)
    return {"minutes": minutes, "threads": torch.get_num_threads()}


if __name__ == "__main__":
    main()
