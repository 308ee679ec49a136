"""One run of real, tiny networks; as a program, a run that kills itself in the middle.

    python run_to_kill.py backbone|synthesizer RUN_DIR ITERATION [BACKBONE_FOLDER]

The numbers are changed so that everything that has to survive is busy within a few iterations:
a short warm start, an augmentation probability that is high at once, lazy terms every other
iteration. Dies by SIGKILL when ITERATION iterations are done, in the midst of a phase of the next.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

import defectgen.backbone
import defectgen.defect_fit
import defectgen.synthesizer
from defectgen import Backbone, DefectSynthesizer, sampling
from defectgen.augment.pipe import AdaptiveProbability
from defectgen.losses import discriminator_logistic
from defectgen.training import backbone_task, callbacks, defect_start, defect_task

BATCH, ITERATIONS, WARM = 4, 13, 4
BUSY = {
    "warm_kimg": WARM * BATCH / 1000,
    "r1_interval": 2,
    "path_interval": 2,
    "ada_kimg": 0.5,
    "ada_interval": 2,  # not a divisor of the iterations between two resume files
}
FIRST_P = 0.4  # whichever way it moves from there, it stays above 0


def make_busy(patch) -> None:
    """Shrink the networks and fill the run; ``patch`` is like setattr."""
    sizes = {"z_dim": 8, "w_dim": 16, "channel_base": 256, "channel_max": 16}
    judge = {"match_channel_base": 256, "match_channel_max": 16}

    def changed(module, name, fields):
        original = getattr(module, name)
        patch(module, name, lambda *a, **k: replace(original(*a, **k), **fields))

    changed(defectgen.backbone, "backbone_config", sizes)
    changed(defectgen.defect_fit, "defect_config", judge)
    changed(defectgen.backbone, "backbone_training", BUSY)
    changed(defectgen.synthesizer, "defect_training", BUSY)
    for task in (backbone_task, defect_task):
        patch(task, "AdaptiveProbability", partial(AdaptiveProbability, p=FIRST_P))
    patch(defect_start, "START_CANDIDATES", 32)
    patch(sampling, "PHOTOS", 2)
    patch(callbacks, "RESUME_TICKS", 3)
    patch(callbacks, "SHEET_TICKS", 6)


def pictures(n: int):
    """Images uint8 (n, 3, 32, 32) and masks bool (n, 1, 32, 32), the same in every process."""
    source = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 3, 32, 32), generator=source).to(torch.uint8)
    masks = torch.zeros(n, 1, 32, 32, dtype=torch.bool)
    masks[:, :, 8:20, 10:22] = True
    return images, masks


def fit(kind: str, run_dir: Path, backbone: Path | None, *, resume: bool):
    """Run, or continue, the one run of this kind."""
    images, masks = pictures(10)
    numbers = {
        "kimg": ITERATIONS * BATCH / 1000, "batch_size": BATCH, "seed": 6, "device": "cpu",
        "verbose": 0, "run_dir": run_dir,
    }  # fmt: skip
    if kind == "backbone":
        return Backbone(32, augment="bgc", **numbers).fit(images, resume=resume)
    return DefectSynthesizer(backbone, **numbers).fit(images, masks, resume=resume)


def die_at(iteration: int) -> None:
    """SIGKILL in the discriminator's loss of the iteration that follows this many."""
    done = 0

    def count(self, state) -> None:
        nonlocal done
        done = state.iteration

    def deadly(*args):
        if done == iteration:
            os.kill(os.getpid(), signal.SIGKILL)
        return discriminator_logistic(*args)

    callbacks.RunFolder.on_iteration = count
    defectgen.losses.discriminator_logistic = deadly


if __name__ == "__main__":
    torch.set_num_threads(1)
    kind, folder, when, *rest = sys.argv[1:]
    make_busy(setattr)
    die_at(int(when))
    fit(kind, Path(folder), Path(rest[0]) if rest else None, resume=False)
