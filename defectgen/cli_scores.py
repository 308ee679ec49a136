"""The commands that judge samples by real photos."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from defectgen.files import atomic_file, check_writable

if TYPE_CHECKING:
    from defectgen.synthesizer import DefectSynthesizer


def evaluate_text(arguments: argparse.Namespace) -> str:
    """Compare samples with real defects."""
    synth = _judged(arguments)
    found = synth.evaluate(
        arguments.real_imgs,
        arguments.real_masks,
        training=arguments.training,
        good_images=arguments.good_images,
        n=arguments.n,
        seed=arguments.seed,
    )
    _keep(found.to_dict(), arguments.json)
    return found.table()


def downstream_text(arguments: argparse.Namespace) -> str:
    """Compare detectors that learned with and without samples."""
    from defectgen.downstream import downstream_test

    photos, numbers = ("training", "test", "goods", "test_goods"), ("n", "repeats", "steps", "seed")
    given = {name: getattr(arguments, name) for name in (*photos, "on_goods", *numbers)}
    found = downstream_test(_judged(arguments), **given)
    _keep(found.to_dict(), arguments.json)
    return found.table()


def _judged(arguments: argparse.Namespace) -> DefectSynthesizer:
    """The synthesizer; before hours of measuring it is known where their result will go."""
    from defectgen.synthesizer import DefectSynthesizer

    if arguments.json is not None:
        check_writable(arguments.json, "--json", folder=False)
    synth = DefectSynthesizer.from_pretrained(
        arguments.model, revision=arguments.revision, device=arguments.device
    )
    return synth.set_params(precision=arguments.precision)


def _keep(scores: dict[str, Any], path: str | None) -> None:
    if path is not None:
        with atomic_file(Path(path)) as temporary:
            temporary.write_text(
                json.dumps(scores, indent=1) + "\n", encoding="utf-8", newline="\n"
            )
