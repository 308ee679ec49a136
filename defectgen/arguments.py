"""The arguments of the command line: the names of the Python arguments, and help with examples."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from defectgen import __version__
from defectgen.arguments_data import (
    Parser,
    add_backgrounds,
    add_check_arguments,
    add_defect_images,
    add_good_images,
)
from defectgen.arguments_hub import add_push_arguments, add_revision, add_zoo_arguments
from defectgen.arguments_scores import add_downstream_arguments, add_evaluate_arguments
from defectgen.arguments_windows import WINDOWS, add_windows_arguments
from defectgen.files import run_beside


def command_line() -> argparse.ArgumentParser:
    """The parser of the whole command; ``command`` names the command in what it returns."""
    parser = argparse.ArgumentParser(
        prog="defectgen",
        description="Turn ten photos of a defect into a labelled training set.",
        epilog="defectgen COMMAND --help lists the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"defectgen {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=Parser
    )
    adders = (_add_demo, _add_backbone, _add_fit, _add_sample, _add_evaluate, _add_downstream)
    for add in (*adders, _add_info, _add_push, _add_data, _add_zoo, _add_kernels):
        add(commands)
    add_windows_arguments(_command(commands, *WINDOWS))
    return parser


def _command(commands: Any, name: str, text: str, examples: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=text,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def _add_demo(commands: Any) -> None:
    parser = _command(
        commands,
        "demo",
        "Learn the defect of the shipped example in some minutes, sample it, score it, and report.",
        "  defectgen demo\n  defectgen demo --kimg 20 --out out/longer",
    )
    parser.add_argument("--out", default="out/demo", help="output folder (default: %(default)s)")
    parser.add_argument(
        "--kimg", type=float, help="thousands of training images (default: one to three minutes)"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")


def _add_backbone(commands: Any) -> None:
    parser = _command(
        commands,
        "train-backbone",
        "Learn what a good part looks like.",
        "  defectgen train-backbone photos/good --out models/product\n"
        "  defectgen train-backbone photos/good --out models/product --resolution 256 --resume\n"
        "  defectgen train-backbone mvtec --category bottle --out models/bottle",
    )
    add_good_images(parser)
    parser.add_argument("--resolution", type=int, help="pixels (default: from the photos)")
    parser.add_argument(
        "--channels", type=int, choices=(1, 3), default=3, help="3 RGB (default), 1 gray"
    )
    parser.add_argument(
        "--augment",
        default="auto",
        metavar="POLICY",
        help="auto (default), none, safe or bgc",
    )
    _add_training(parser, "default: 36 below 128 px, 500 from there up, 1.2 and 16.7 for a texture")


def _add_fit(commands: Any) -> None:
    parser = _command(
        commands,
        "fit",
        "Learn one defect from photos and masks, on a frozen backbone.",
        "  defectgen fit models/product photos/scratch photos/scratch_masks --out models/scratch\n"
        "  defectgen fit models/product photos/scratch photos/scratch_masks --out models/scratch2 "
        "\\\n      --warm-start models/scratch --kimg 10\n"
        "  defectgen fit models/bottle mvtec/bottle --defect broken_large --out models/broken",
    )
    parser.add_argument(
        "backbone", metavar="BACKBONE", help="folder, name of the zoo or repository of the backbone"
    )
    add_revision(parser)
    add_defect_images(parser)
    parser.add_argument(
        "--warm-start", metavar="FOLDER", help="continue from the branch saved in this folder"
    )
    parser.add_argument(
        "--include-backbone",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="save a self-contained folder, or the branch alone (default: what is possible)",
    )
    parser.add_argument(
        "--first-resolution",
        type=int,
        metavar="PIXELS",
        help="where the branch begins; larger for smaller defects (default: a quarter)",
    )
    _add_training(parser, "default: 8 below 128 px, 200 from there up")


def _add_training(parser: argparse.ArgumentParser, kimg: str) -> None:
    parser.add_argument("--out", required=True, metavar="DIR", help="weights folder to write")
    parser.add_argument("--preset", choices=("dfmgan",), help="the published recipe")
    parser.add_argument("--kimg", type=float, help=f"thousands of training images ({kimg})")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images per step (default: 16)")
    _add_precision(parser)
    parser.add_argument(
        "--run-dir", metavar="DIR", help="history, sheets, resume file (default: OUT.run)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in --run-dir")
    parser.add_argument("--seed", type=int, help="default: drawn and kept in config.json")
    parser.add_argument("--device", help="torch device (default: a GPU if there is one)")
    parser.add_argument(
        "--verbose",
        type=int,
        choices=(0, 1, 2),
        default=1,
        help="progress bar: 0 none, 1 on a terminal (default), 2 always; lines come anyway",
    )


def _add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="fp32",
        help="of features and convolutions; auto: bf16 where the CPU has it (default: fp32)",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="folder, name of the zoo or repository of a synthesizer"
    )
    add_revision(parser)


def _add_sample(commands: Any) -> None:
    parser = _command(
        commands,
        "sample",
        "Write pairs of defect image and mask.",
        "  defectgen sample models/scratch -n 1000 --out out/scratch\n"
        "  defectgen sample models/scratch -n 1000 --out out/on --good-images photos/good\n"
        "  defectgen sample models/scratch -n 8 --out out/few --normals --seed 1\n"
        "  defectgen sample models/scratch -n 200 --out out/part --format mvtec --normals",
    )
    _add_model(parser)
    parser.add_argument("-n", type=int, required=True, metavar="N", help="how many pairs")
    parser.add_argument("--out", required=True, metavar="DIR", help="new or empty folder")
    add_backgrounds(parser, of_data_sets=True)
    parser.add_argument("--seed", type=int, help="sample i has the seed SEED + i (default: drawn)")
    parser.add_argument(
        "--truncation-psi",
        type=float,
        default=1.0,
        metavar="PSI",
        help="1 full variety (default), 0 the mean",
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="samples per forward pass")
    _add_precision(parser)
    parser.add_argument(
        "--normals", action="store_true", help="also the same parts without the defect"
    )
    parser.add_argument(
        "--format",
        choices=("plain", "mvtec"),
        default="plain",
        help="folders images, masks, normals (default), or those of MVTec AD",
    )
    parser.add_argument(
        "--defect", metavar="NAME", help="type of defect in mvtec's folders (default: defect)"
    )
    parser.add_argument("--device", help="torch device (default: a GPU if there is one)")


def _add_evaluate(commands: Any) -> None:
    parser = _command(
        commands,
        "evaluate",
        "Compare samples with real defects that were not trained on.",
        "  defectgen evaluate models/scratch test/scratch test/masks\n"
        "  defectgen evaluate models/scratch test/scratch test/masks --training photos/scratch "
        "photos/masks --json scores.json",
    )
    _add_model(parser)
    add_evaluate_arguments(parser)
    _add_judge(parser)


def _add_downstream(commands: Any) -> None:
    parser = _command(
        commands,
        "downstream",
        "Does a detector get better with samples? Train small ones with and without.",
        "  defectgen downstream models/scratch --training photos/scratch photos/masks "
        "--test test/scratch test/masks --goods photos/good",
    )
    _add_model(parser)
    add_downstream_arguments(parser)
    _add_judge(parser)


def _add_judge(parser: argparse.ArgumentParser) -> None:
    """What both commands that judge samples take."""
    parser.add_argument("-n", type=int, default=200, metavar="N", help="samples (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="sample i has the seed SEED + i")
    parser.add_argument("--json", metavar="FILE", help="write the scores there, too")
    _add_precision(parser)
    parser.add_argument("--device", help="torch device (default: a GPU if there is one)")


def _add_info(commands: Any) -> None:
    parser = _command(
        commands,
        "info",
        "Say what weights are, and check that they are whole.",
        "  defectgen info models/scratch\n  defectgen info acme/casting --revision v1\n"
        "  defectgen info demo",
    )
    parser.add_argument("name", metavar="NAME", help="folder, name of the zoo, or repository")
    add_revision(parser)


def _add_push(commands: Any) -> None:
    parser = _command(
        commands,
        "push",
        "Publish a weights folder with a model card; HF_TOKEN in the environment lets you.",
        "  defectgen push models/scratch acme/scratch --license other\n"
        "  defectgen push models/product acme/product --license cc-by-4.0 --no-private "
        '\\\n      --training-data "300 photos of castings, by Acme, free to share."',
    )
    add_push_arguments(parser)


def _add_data(commands: Any) -> None:
    parser = _command(
        commands,
        "data",
        "Say what a data set holds, and everything that is wrong with it.",
        "  defectgen data check photos --sheet sheet.png\n"
        "  defectgen data check mvtec --category bottle\n"
        "  defectgen data check visa --layout visa",
    )
    add_check_arguments(parser)


def _add_zoo(commands: Any) -> None:
    parser = _command(
        commands,
        "zoo",
        "MVTec AD and VisA, category by category: what is known, trained, published.",
        "  defectgen zoo list\n  defectgen zoo show mvtec/bottle\n"
        "  defectgen zoo train mvtec/bottle --data mvtec --out out/zoo\n"
        "  torchrun --nproc-per-node 4 -m defectgen zoo train --all --data mvtec\n"
        "  defectgen zoo publish mvtec/bottle --data mvtec --from out/zoo/mvtec/bottle "
        "--license cc-by-nc-sa-4.0",
    )
    add_zoo_arguments(parser)


def _add_kernels(commands: Any) -> None:
    parser = _command(
        commands,
        "kernels",
        "Say whether the native kernels are in use, and why; or compile them ahead of time.",
        "  defectgen kernels\n  defectgen kernels build\n  defectgen kernels build --force",
    )
    parser.add_argument("action", metavar="build", nargs="?", choices=("build",), help="compile")
    parser.add_argument(
        "--force", action="store_true", help="compile again, and retry what failed before"
    )


def run_folder(arguments: argparse.Namespace) -> Path:
    """The run folder given, or the one beside the output."""
    return run_beside(arguments.out) if arguments.run_dir is None else Path(arguments.run_dir)
