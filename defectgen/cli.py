"""The command ``defectgen``: what the classes do, for those who would rather not write Python."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from defectgen.arguments import command_line, run_folder
from defectgen.console import messages_on_stderr
from defectgen.errors import ConfigError, DefectGenError
from defectgen.files import FOLDER_MARK, RESUME_NAME, check_replaceable, check_writable, run_beside

if TYPE_CHECKING:
    from defectgen.synthesizer import DefectSynthesizer

# The commands import what is heavy themselves, so that --help answers at once.

OK, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments without the name of the program; None takes those of the process.

    Returns:
        0 on success, 1 on an error of data, weights or disk, 2 on wrong arguments (one sentence on
        stderr), 130 on Ctrl-C. What argparse finds wrong leaves with `SystemExit(2)`.
    """
    arguments = command_line().parse_args(argv)
    command = COMMANDS[arguments.command]
    with messages_on_stderr():
        try:
            command(arguments)
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever read the output has enough; nor shall the interpreter flush the rest at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        except ConfigError as error:
            return _fail(f"defectgen: {error}", WRONG)
        except (DefectGenError, OSError) as error:
            return _fail(f"defectgen: {error}", FAILED)
        except KeyboardInterrupt:
            return _fail(f"defectgen: interrupted; {_how_to_go_on(arguments)}", INTERRUPTED)
    return OK


def _fail(sentence: str, code: int) -> int:
    print(sentence, file=sys.stderr)
    return code


def _how_to_go_on(arguments: argparse.Namespace) -> str:
    if arguments.command in ("train-backbone", "fit"):
        run_dir = run_folder(arguments)
        if (run_dir / RESUME_NAME).is_file():
            return f"{run_dir} holds the run; give the same command with --resume to go on."
    if arguments.command == "demo":
        runs = run_beside(arguments.out)
        if any(runs.glob(f"*/{RESUME_NAME}")):
            return f"{runs} holds the run; give the same command again to go on."
    if arguments.command == "sample" and Path(arguments.out).is_dir():
        return f"{arguments.out} holds a set that is not complete; remove it before you start anew."
    if arguments.command == "zoo" and arguments.action == "publish":
        return "the list is as it was; give the same command again."
    if arguments.command == "zoo":
        return f"{arguments.out} holds what is done; give the same command again to go on."
    return "nothing was kept; give the command again to start anew."


# -- commands --------------------------------------------------------------------------------------


def _demo(arguments: argparse.Namespace) -> None:
    from defectgen.demo import demo
    from defectgen.demo_report import score_lines

    result = demo(arguments.out, kimg=arguments.kimg, seed=arguments.seed)
    print("\n".join(score_lines(result)))
    print(f"samples, contact sheet and report.md: {result.folder}")


def _train_backbone(arguments: argparse.Namespace) -> None:
    from defectgen.backbone import Backbone

    _check_run(arguments)
    backbone = Backbone(
        arguments.resolution,
        channels=arguments.channels,
        preset=arguments.preset,
        kimg=arguments.kimg,
        augment=arguments.augment,
        batch_size=arguments.batch_size,
        precision=arguments.precision,
        run_dir=run_folder(arguments),
        seed=arguments.seed,
        device=arguments.device,
        verbose=arguments.verbose,
    )
    backbone.fit(arguments.good_images, resume=arguments.resume)
    backbone.save_pretrained(arguments.out)
    print(f"backbone: {arguments.out}")


def _fit(arguments: argparse.Namespace) -> None:
    _check_run(arguments)
    synth = _starting_point(arguments)
    synth.set_params(
        kimg=arguments.kimg,
        batch_size=arguments.batch_size,
        precision=arguments.precision,
        first_resolution=arguments.first_resolution,
        run_dir=run_folder(arguments),
        seed=arguments.seed,
        device=arguments.device,
        verbose=arguments.verbose,
    )
    synth.fit(arguments.defect_imgs, arguments.masks, resume=arguments.resume)
    synth.save_pretrained(arguments.out, include_backbone=arguments.include_backbone)
    print(f"synthesizer: {arguments.out}")


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


def _sample(arguments: argparse.Namespace) -> None:
    from tqdm.auto import tqdm

    from defectgen.adapter import synthesizer_tensors
    from defectgen.networks.precision import resolve_precision
    from defectgen.rng import fresh_seed
    from defectgen.synthesizer import DefectSynthesizer
    from defectgen.weights import tensor_digest
    from defectgen.writer import DEFECT, write_samples

    if arguments.defect is not None and arguments.format != "mvtec":
        raise ConfigError(
            f"--defect: belongs to --format mvtec; got {arguments.defect!r} with --format "
            f"{arguments.format}; leave it out, or add --format mvtec"
        )
    synth = DefectSynthesizer.from_pretrained(
        arguments.model, revision=arguments.revision, device=arguments.device
    )
    device = synth.backbone_.fitted().mapping.w_avg.device
    precision = resolve_precision(arguments.precision, device)
    synth.set_params(precision=precision)
    seed = fresh_seed() if arguments.seed is None else arguments.seed
    batches = synth.iter_samples(
        arguments.n,
        return_normals=arguments.normals,
        seed=seed,
        truncation_psi=arguments.truncation_psi,
        batch_size=arguments.batch_size,
    )
    metadata = {
        "truncation_psi": arguments.truncation_psi,
        "precision": precision,
        "model_digest": tensor_digest(synthesizer_tensors(synth)),
        "backbone_digest": synth.backbone_digest_,
    }
    shown = tqdm(batches, desc="batches", disable=None)
    count = write_samples(
        shown,
        arguments.out,
        metadata=metadata,
        layout=arguments.format,
        defect=arguments.defect or DEFECT,
    )
    print(f"{count} samples from seed {seed}: {arguments.out}")


def _evaluate(arguments: argparse.Namespace) -> None:
    import json

    from defectgen.files import atomic_file
    from defectgen.synthesizer import DefectSynthesizer

    synth = DefectSynthesizer.from_pretrained(
        arguments.model, revision=arguments.revision, device=arguments.device
    )
    synth.set_params(precision=arguments.precision)
    if arguments.json is not None:
        check_writable(arguments.json, "--json", folder=False)
    found = synth.evaluate(
        arguments.real_imgs,
        arguments.real_masks,
        training=arguments.training,
        n=arguments.n,
        seed=arguments.seed,
    )
    print(found.table(), flush=True)
    if arguments.json is not None:
        with atomic_file(Path(arguments.json)) as temporary:
            temporary.write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")


def _info(arguments: argparse.Namespace) -> None:
    from defectgen.info import describe

    print("\n".join(describe(arguments.name, revision=arguments.revision)))


def _data(arguments: argparse.Namespace) -> None:
    from defectgen.data_check import check_data, describe, require_usable

    reports = check_data(
        arguments.path,
        layout=arguments.layout,
        category=arguments.category,
        square=arguments.square,
        sheet=arguments.sheet,
    )
    print("\n".join(describe(reports, arguments.sheet)))
    require_usable(reports)


def _push(arguments: argparse.Namespace) -> None:
    from defectgen.cli_hub import push_text

    print(push_text(arguments))


def _zoo(arguments: argparse.Namespace) -> None:
    from defectgen.cli_hub import zoo_text

    print(zoo_text(arguments))


def _kernels(arguments: argparse.Namespace) -> None:
    from defectgen.ops import _build, _dispatch

    if arguments.force and arguments.action != "build":
        raise ConfigError("--force: belongs to 'build'; got it alone; say 'kernels build --force'")
    errors = _build.build_all(arguments.force) if arguments.action == "build" else []
    print("\n".join(_dispatch.describe()))
    if errors:
        raise errors[0]


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "demo": _demo,
    "train-backbone": _train_backbone,
    "fit": _fit,
    "sample": _sample,
    "evaluate": _evaluate,
    "info": _info,
    "push": _push,
    "data": _data,
    "zoo": _zoo,
    "kernels": _kernels,
}
