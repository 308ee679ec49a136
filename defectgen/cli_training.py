"""The commands that train: what could spoil their result is found out before it is made."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from defectgen.arguments import run_folder
from defectgen.console import disk_text
from defectgen.errors import ConfigError, DefectGenError
from defectgen.files import FOLDER_MARK, RESUME_NAME, check_replaceable, check_writable
from defectgen.locks import held

if TYPE_CHECKING:
    from defectgen.synthesizer import DefectSynthesizer


def backbone_text(arguments: argparse.Namespace) -> str:
    """Learn what a good part looks like, and say where the weights are."""
    from defectgen.backbone import Backbone
    from defectgen.cli_data import training_images

    _check_run(arguments)
    images = training_images(arguments)
    backbone = Backbone(
        arguments.resolution,
        channels=arguments.channels,
        preset=arguments.preset,
        augment=arguments.augment,
        **_shared(arguments),
    )
    backbone.fit(images, resume=arguments.resume)
    with _run_kept(arguments):
        backbone.save_pretrained(arguments.out)
    return f"backbone: {arguments.out}"


def fit_text(arguments: argparse.Namespace) -> str:
    """Learn one defect on a backbone, and say where the weights are."""
    from defectgen.cli_data import training_pairs

    _check_run(arguments)
    synth = _starting_point(arguments)
    pairs = training_pairs(arguments)
    synth.set_params(first_resolution=arguments.first_resolution, **_shared(arguments))
    synth.fit(*pairs, resume=arguments.resume)
    with _run_kept(arguments):
        synth.save_pretrained(arguments.out, include_backbone=arguments.include_backbone)
    return f"synthesizer: {arguments.out}"


def _shared(arguments: argparse.Namespace) -> dict[str, Any]:
    """Parameters that both trainings have, by the names of Python."""
    names = ("kimg", "batch_size", "precision", "seed", "device", "verbose")
    return {name: getattr(arguments, name) for name in names} | {"run_dir": run_folder(arguments)}


@contextmanager
def _run_kept(arguments: argparse.Namespace) -> Iterator[None]:
    """Say of a result that cannot be saved where its run lies."""
    try:
        yield
    except (DefectGenError, OSError) as error:
        text = disk_text(error) if isinstance(error, OSError) else str(error)
        run_dir = run_folder(arguments)
        if (run_dir / RESUME_NAME).is_file():
            text += (
                f"; {run_dir} holds the run up to its last resume file: name it with --run-dir, "
                "and give --resume and another --out"
            )
        raise DefectGenError(text) from error


def _starting_point(arguments: argparse.Namespace) -> DefectSynthesizer:
    """A new synthesizer on the backbone, or the one that --warm-start names."""
    from defectgen.backbone import Backbone
    from defectgen.synthesizer import DefectSynthesizer

    backbone = Backbone.from_pretrained(
        arguments.backbone, revision=arguments.revision, device=arguments.device
    )
    if arguments.warm_start is None:
        return DefectSynthesizer(backbone, preset=arguments.preset)
    synth = DefectSynthesizer.from_pretrained(arguments.warm_start, device=arguments.device)
    if synth.backbone_digest_ != backbone.digest():
        raise ConfigError(
            f"--warm-start: a branch of the same backbone; got {arguments.warm_start}, which "
            f"stands on another one than {arguments.backbone}; name its backbone"
        )
    # The backbone given, not the one found through the branch: saving refers to its folder.
    preset = synth.preset if arguments.preset is None else arguments.preset
    return synth.set_params(backbone=backbone, preset=preset, warm_start=True)


def _check_run(arguments: argparse.Namespace) -> None:
    """Find out before hours of training what would spoil its result."""
    from defectgen.weights import foreign_content

    out, run_dir = Path(arguments.out), run_folder(arguments)
    check_replaceable(out, foreign_content, "--out")
    check_writable(out, "--out", folder=True)
    if run_dir.resolve().is_relative_to(out.resolve()):
        raise ConfigError(
            f"--run-dir: must lie outside of --out, which is replaced as a whole; got {run_dir}; "
            "choose another folder"
        )
    if run_dir.is_dir():
        with held(run_dir, "--run-dir"):  # before its state is judged, which will change
            pass
    config, resume = out / FOLDER_MARK, run_dir / RESUME_NAME
    saved = config.is_file()
    if arguments.resume or not resume.is_file():
        return
    # Weights older than the run are those of an earlier one.
    if not saved or resume.stat().st_mtime > config.stat().st_mtime:
        raise ConfigError(
            f"--resume: {run_dir} holds a run whose result was never saved to {out}; give "
            "--resume to go on with it, remove it, or choose another --run-dir"
        )
