"""The command ``defectgen``: what the classes do, for those who would rather not write Python."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from defectgen.arguments import command_line, run_folder
from defectgen.console import disk_text, messages_on_stderr
from defectgen.errors import ConfigError, DefectGenError
from defectgen.files import RESUME_NAME, check_fillable, run_beside
from defectgen.system import WINDOWS

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
    # Names of files are printed, whatever a pipe or an older console has no letters for.
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    with messages_on_stderr():
        try:
            command(arguments)
        except ConfigError as error:
            return _fail(f"defectgen: {error}", WRONG)
        except DefectGenError as error:
            return _fail(f"defectgen: {error}", FAILED)
        except OSError as error:
            begun = getattr(arguments, "began", False) or _demo_run(arguments) is not None
            more = f"; {_how_to_go_on(arguments)}" if begun else ""
            return _fail(f"defectgen: {disk_text(error)}{more}", FAILED)
        except KeyboardInterrupt:
            return _fail(f"defectgen: interrupted; {_how_to_go_on(arguments)}", INTERRUPTED)
    return OK


def _show(text: str) -> None:
    """Print a result; whoever read the output may have had enough, and the work goes on."""
    try:
        print(text, flush=True)
    except OSError as error:
        # Windows calls a broken pipe an invalid argument.
        if not isinstance(error, BrokenPipeError) and not (WINDOWS and error.errno == errno.EINVAL):
            raise
        with suppress(OSError):  # or the interpreter would complain when it flushes at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(sentence: str, code: int) -> int:
    print(sentence, file=sys.stderr)
    return code


def _demo_run(arguments: argparse.Namespace) -> Path | None:
    """The folder of a demo's run that could go on."""
    runs = run_beside(arguments.out) if arguments.command == "demo" else None
    return runs if runs is not None and any(runs.glob(f"*/{RESUME_NAME}")) else None


def _how_to_go_on(arguments: argparse.Namespace) -> str:
    if arguments.command in ("train-backbone", "fit"):
        run_dir = run_folder(arguments)
        if (run_dir / RESUME_NAME).is_file():
            return f"{run_dir} holds the run; give the same command with --resume to go on."
    if (runs := _demo_run(arguments)) is not None:
        return f"{runs} holds the run; give the same command again to go on."
    if getattr(arguments, "began", False) and Path(arguments.out).is_dir():
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
    _show("\n".join(score_lines(result)))
    _show(f"samples, contact sheet and report.md: {result.folder}")


def _train_backbone(arguments: argparse.Namespace) -> None:
    from defectgen.cli_training import backbone_text

    _show(backbone_text(arguments))


def _fit(arguments: argparse.Namespace) -> None:
    from defectgen.cli_training import fit_text

    _show(fit_text(arguments))


def _sample(arguments: argparse.Namespace) -> None:
    from tqdm.auto import tqdm

    from defectgen.adapter import synthesizer_tensors
    from defectgen.backgrounds import known_of, read_photos
    from defectgen.checks import check_range
    from defectgen.cli_data import defect_of, training_images
    from defectgen.networks.precision import resolve_precision
    from defectgen.rng import fresh_seed
    from defectgen.synthesizer import DefectSynthesizer
    from defectgen.weights import tensor_digest
    from defectgen.writer import check_empty, write_samples

    defect = defect_of(arguments)
    usual = {"layout": "auto", "category": None, "split": None, "square": None, "drop_bad": False}
    lone = [f"--{k.replace('_', '-')}" for k, v in usual.items() if getattr(arguments, k) != v]
    if lone and arguments.good_images is None:
        raise ConfigError(
            f"{lone[0]}: belongs to --good-images; got it alone; leave it out, or add --good-images"
        )
    check_range("-n", arguments.n, low=1, integer=True)
    check_empty(Path(arguments.out), "--out")
    check_fillable(arguments.out, "--out")
    synth = DefectSynthesizer.from_pretrained(
        arguments.model, revision=arguments.revision, device=arguments.device
    )
    device = synth.backbone_.fitted().mapping.w_avg.device
    precision = resolve_precision(arguments.precision, device)
    synth.set_params(precision=precision)
    seed = fresh_seed() if arguments.seed is None else arguments.seed
    draw = partial(
        synth.iter_samples,
        arguments.n,
        return_normals=arguments.normals,
        seed=seed,
        truncation_psi=arguments.truncation_psi,
        batch_size=arguments.batch_size,
    )
    photos, batches = None, draw()  # which checks the numbers before photos are read
    if arguments.good_images is not None:
        known_of(synth.branch_, "--good-images")
        found = training_images(arguments, "--good-images")
        photos = read_photos(synth.backbone_.fitted(), synth.branch_, found, "--good-images")
        batches = draw(good_images=photos)
    metadata = {
        "truncation_psi": arguments.truncation_psi,
        "precision": precision,
        "model_digest": tensor_digest(synthesizer_tensors(synth)),
        "backbone_digest": synth.backbone_digest_,
    }
    if photos is not None:
        metadata["good_images_digest"] = photos.digest
    arguments.began = True  # and was new or empty before: what is there now is of this command
    shown = tqdm(batches, desc="batches", disable=None)
    count = write_samples(
        shown,
        arguments.out,
        metadata=metadata,
        layout=arguments.format,
        defect=defect,
    )
    _show(f"{count} samples from seed {seed}: {arguments.out}")


def _evaluate(arguments: argparse.Namespace) -> None:
    from defectgen.cli_scores import evaluate_text

    _show(evaluate_text(arguments))


def _downstream(arguments: argparse.Namespace) -> None:
    from defectgen.cli_scores import downstream_text

    _show(downstream_text(arguments))


def _info(arguments: argparse.Namespace) -> None:
    from defectgen.info import describe

    _show("\n".join(describe(arguments.name, revision=arguments.revision)))


def _data(arguments: argparse.Namespace) -> None:
    from defectgen.cli_data import check_reports, report_text
    from defectgen.data_check import require_usable

    reports = check_reports(arguments)
    _show(report_text(reports, arguments.sheet))
    require_usable(reports)


def _windows(arguments: argparse.Namespace) -> None:
    from defectgen.cli_windows import windows_text
    from defectgen.writer import check_empty

    check_empty(Path(arguments.out), "--out")
    check_fillable(arguments.out, "--out")
    arguments.began = True
    _show(windows_text(arguments))


def _push(arguments: argparse.Namespace) -> None:
    from defectgen.cli_hub import push_text

    _show(push_text(arguments))


def _zoo(arguments: argparse.Namespace) -> None:
    from defectgen.cli_hub import zoo_text

    _show(zoo_text(arguments))


def _kernels(arguments: argparse.Namespace) -> None:
    from defectgen.ops import _build, _dispatch

    if arguments.force and arguments.action != "build":
        raise ConfigError("--force: belongs to 'build'; got it alone; say 'kernels build --force'")
    errors = _build.build_all(arguments.force) if arguments.action == "build" else []
    _show("\n".join(_dispatch.describe()))
    if errors:
        raise errors[0]


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "demo": _demo,
    "train-backbone": _train_backbone,
    "fit": _fit,
    "sample": _sample,
    "evaluate": _evaluate,
    "downstream": _downstream,
    "info": _info,
    "push": _push,
    "data": _data,
    "windows": _windows,
    "zoo": _zoo,
    "kernels": _kernels,
}
