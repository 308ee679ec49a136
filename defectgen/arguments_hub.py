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
    """Arguments of ``zoo``."""
    actions = ("list", "show", "train", "publish")
    parser.add_argument("action", choices=actions, help="what to do")
    parser.add_argument("name", metavar="NAME", nargs="?", help="such as mvtec/bottle")
    parser.add_argument(
        "--data", metavar="PATH", help="the data set, or the folder of the category"
    )
    parser.add_argument(
        "--zoo", metavar="FILE", help="another list of the zoo (default: the installed one)"
    )
    parser.add_argument("--device", help="torch device (default: a GPU if there is one)")
    train = parser.add_argument_group("train")
    train.add_argument("--all", action="store_true", help="train every category that lies in PATH")
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
    send = parser.add_argument_group("publish")
    send.add_argument(
        "--from", dest="source", metavar="FOLDER", help="of the category, written by train"
    )
    send.add_argument("--license", metavar="ID", help="of the weights: cc-by-nc-sa-4.0")
    where = send.add_mutually_exclusive_group()
    where.add_argument("--namespace", metavar="OWNER", help="instead of the entry's owner")
    where.add_argument(
        "--repo-id", metavar="OWNER/NAME", help="of the backbone; branches are named after it"
    )
    send.add_argument("--private", action="store_true", help="only you see new repositories")
    parser.set_defaults(verbose=1)
