"""The arguments of the commands that deal with hubs: zoo and push, and --revision of the others."""

from __future__ import annotations

import argparse


def add_revision(parser: argparse.ArgumentParser) -> None:
    """The argument of every command that takes a name of weights."""
    parser.add_argument(
        "--revision",
        metavar="REV",
        help="branch, tag or commit of a repository (default: the newest of its main branch)",
    )


def add_push_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``push``; the token comes from the environment only."""
    parser.add_argument("folder", metavar="FOLDER", help="weights folder, of either kind")
    parser.add_argument("repo_id", metavar="REPO_ID", help="owner/name; made if there is none")
    parser.add_argument(
        "--license", required=True, metavar="ID", help="of the weights: cc-by-4.0, other"
    )
    parser.add_argument(
        "--private",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="only you see a new repository; weights hold training photos (default: private)",
    )
    parser.add_argument(
        "--training-data",
        metavar="TEXT",
        help="for the card: what the photos show, whose they are, under which terms",
    )


def add_zoo_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions of ``zoo``, each with its own arguments."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--zoo", metavar="FILE", help="another list of the zoo (default: the installed one)"
    )
    name = argparse.ArgumentParser(add_help=False)
    name.add_argument("name", metavar="NAME", help="such as mvtec/bottle")
    photos = argparse.ArgumentParser(add_help=False)
    photos.add_argument(
        "--data", required=True, metavar="PATH", help="the data set, or the folder of the category"
    )
    photos.add_argument("--device", help="torch device (default: a GPU if there is one)")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", parents=[common], help="a line for every category")
    actions.add_parser("show", parents=[name, common], help="all that is known of one")
    train = actions.add_parser(
        "train", parents=[common, photos], help="run the whole experiment for one, or for all"
    )
    _add_train_arguments(train)
    publish = actions.add_parser(
        "publish", parents=[name, common, photos], help="evaluate, push, and pin what was trained"
    )
    _add_publish_arguments(publish)
    parser.set_defaults(verbose=1)


def _add_train_arguments(train: argparse.ArgumentParser) -> None:
    which = train.add_mutually_exclusive_group(required=True)
    which.add_argument("name", metavar="NAME", nargs="?", help="such as mvtec/bottle")
    which.add_argument("--all", action="store_true", help="every category that lies in PATH")
    train.add_argument("--out", default="out/zoo", metavar="DIR", help="default: out/zoo")
    train.add_argument("--resolution", type=int, metavar="R", help="pixels (default: the entry's)")
    train.add_argument("--kimg", type=float, metavar="K", help="budget of the backbone")
    train.add_argument("--defect-kimg", type=float, metavar="K", help="budget of each defect")
    train.add_argument("--seed", type=int, default=0, help="of everything (default: 0)")
    train.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="of features and convolutions; auto: bf16 where the CPU has it (default: auto)",
    )


def _add_publish_arguments(publish: argparse.ArgumentParser) -> None:
    publish.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="FOLDER",
        help="of the category, written by train",
    )
    publish.add_argument(
        "--license", required=True, metavar="ID", help="of the weights: cc-by-nc-sa-4.0"
    )
    where = publish.add_mutually_exclusive_group()
    where.add_argument("--namespace", metavar="OWNER", help="instead of the entry's owner")
    where.add_argument(
        "--repo-id", metavar="OWNER/NAME", help="of the backbone; branches are named after it"
    )
    publish.add_argument("--private", action="store_true", help="only you see the repositories")
