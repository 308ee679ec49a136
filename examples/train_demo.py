"""Train the weights that the package ships, from the embedded hazelnut images.

    python examples/train_demo.py --backbone-kimg 150 --defect-kimg 150

Needs nothing but the package. Writes ``defectgen/assets/hazelnut/{backbone,synthesizer}``, in half
precision, with configuration, seed, kimg and data digest in their ``config.json``. Trains in
``--work`` with resume files: a killed run goes on when started again, and Ctrl-C ships what has
been learned so far and goes on to the next step.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from contextlib import suppress
from pathlib import Path

from defectgen import Backbone, DefectSynthesizer
from defectgen.adapter import save_synthesizer
from defectgen.batch import DefectBatch
from defectgen.data.example import ASSETS
from defectgen.data.images import load_pairs
from defectgen.networks.defect import receptive_radius
from defectgen.weights import save_folder


def main() -> None:
    """Train both, in order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone-kimg", type=float, default=36.0)
    parser.add_argument("--defect-kimg", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("out/train_demo"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    home = ASSETS / "hazelnut"
    backbone = train_backbone(home, arguments)
    train_synthesizer(home, backbone, arguments)


def train_backbone(home: Path, arguments: argparse.Namespace) -> Backbone:
    """Fit on the good images and ship generator and discriminator."""
    target, began = home / "backbone", time.perf_counter()
    run_dir = arguments.work / "backbone"
    backbone = Backbone(
        64, kimg=arguments.backbone_kimg, run_dir=run_dir, seed=arguments.seed, verbose=2
    )
    with suppress(KeyboardInterrupt):  # Ctrl-C ships what has been learned so far
        backbone.fit(home / "good", resume=True)
    backbone.config_["minutes"] = round((time.perf_counter() - began) / 60, 1)
    save_folder(target, "backbone", backbone.config_for_file(), backbone.tensors(), half=True)
    return Backbone.from_pretrained(target)


def train_synthesizer(home: Path, backbone: Backbone, arguments: argparse.Namespace) -> None:
    """Fit on the rounded backbone that is shipped, and ship branch and matching discriminator."""
    from defectgen.scores import score_table

    began = time.perf_counter()
    synth = DefectSynthesizer(
        backbone,
        kimg=arguments.defect_kimg,
        run_dir=arguments.work / "synthesizer",
        seed=arguments.seed,
        verbose=2,
    )
    with suppress(KeyboardInterrupt):
        synth.fit(home / "defect", home / "mask", resume=True)
    synth.config_["minutes"] = round((time.perf_counter() - began) / 60, 1)
    images, masks, normals = synth.sample(
        256, return_masks=True, return_normals=True, seed=arguments.seed
    )
    real = load_pairs(home / "defect", home / "mask", resolution=64, channels=3)
    first = synth.branch_.resolutions[0]
    batch = DefectBatch(images, masks, normals)
    synth.config_["scores"] = score_table(real, batch, receptive_radius(first, 64))
    # The image discriminator stays behind: the one of the backbone starts the next fit, and the
    # shipped files stay small.
    synth.discriminator_ = None
    save_synthesizer(
        synth, home / "synthesizer", include_backbone=False, half=True, source="../backbone"
    )


if __name__ == "__main__":
    main()
