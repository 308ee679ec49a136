"""Train the backbone that the package ships, from the embedded hazelnut images.

    OMP_NUM_THREADS=1 python examples/train_demo.py

Needs nothing but the package. Writes ``defectgen/assets/hazelnut/backbone``, in half precision,
with configuration, seed, kimg, minutes, scores and data digest in its ``config.json``. Trains in
``--work`` with a resume file: a run that was stopped goes on when started again, to the same
weights.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path

import torch

from defectgen import Backbone
from defectgen.data.example import example_folders
from defectgen.data.images import load_images
from defectgen.metrics.swd import swd_scores
from defectgen.weights import save_folder

SAMPLES = 256


def main() -> None:
    """Fit on the good images and ship generator and discriminator."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kimg", type=float, default=36.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("out/train_demo"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    example, run_dir, seed = example_folders(), arguments.work, arguments.seed
    backbone = Backbone(
        64, kimg=arguments.kimg, precision="bf16", run_dir=run_dir, seed=seed, verbose=2
    )
    began, stopped = time.perf_counter(), run_dir.exists()
    backbone.fit(example.good, resume=True)
    # Of a run in several parts only the last is known: no minutes.
    minutes = None if stopped else round((time.perf_counter() - began) / 60, 1)
    backbone.config_.update(minutes=minutes, threads=torch.get_num_threads())
    real = load_images(example.good, resolution=64, channels=3)
    backbone.config_["scores"] = swd_scores(real.images, backbone.sample(SAMPLES, seed=seed))
    config, tensors = backbone.config_for_file(), backbone.tensors()
    save_folder(example.backbone, "backbone", config, tensors, half=True)


if __name__ == "__main__":
    main()
