"""Which files of a repository are read, and the checks they pass before anything uses them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from defectgen.errors import WeightsError
from defectgen.files import FOLDER_MARK
from defectgen.hub.names import HubSource
from defectgen.hub.sums import MAX_SUMS_BYTES, SUMS_FILE, check_sum, read_sums
from defectgen.weights import (
    BACKBONE_FOLDER,
    MAX_CONFIG_BYTES,
    MAX_FILE_BYTES,
    TENSOR_FILE,
    check_header,
    entries_of,
    read_config,
)


def check_contents(
    folder: Path, kind: str | None, digest: str | None, obtain: Callable[[str, int], None]
) -> None:
    """Obtain and check every file that will be read, the small ones first.

    Names come from here and never from the files, so that none of these can lead elsewhere.

    Args:
        folder: where the files are, or will be.
        kind: what config.json must say; None takes either.
        digest: of SHA256SUMS, or None.
        obtain: brings a file of at most so many bytes into the folder, or raises.

    Raises:
        WeightsError: a file is missing, another than SHA256SUMS says, of another kind, or no
            plain safetensors; or the backbone of a synthesizer is named by a path.
    """
    obtain(SUMS_FILE, MAX_SUMS_BYTES)
    sums = read_sums(folder, digest)
    obtain(FOLDER_MARK, MAX_CONFIG_BYTES)
    check_sum(folder, FOLDER_MARK, sums)
    config = read_config(folder, kind)
    with entries_of(folder):
        names = list(_others(config))
    for name in names:
        weights = name.endswith(TENSOR_FILE)
        obtain(name, MAX_FILE_BYTES if weights else MAX_CONFIG_BYTES)
        check_sum(folder, name, sums)
        if weights:
            check_header(folder / name)


def present(folder: Path) -> Callable[[str, int], None]:
    """An ``obtain`` that brings nothing: the file has to be there."""

    def look(name: str, _limit: int) -> None:
        if not (folder / name).is_file():
            raise WeightsError(
                f"folder: must hold {name}; got one without it; download it again, with a network"
            )

    return look


def _others(config: dict[str, Any]) -> Iterator[str]:
    """The files that a config.json asks for beside itself."""
    yield TENSOR_FILE
    if config["kind"] != "synthesizer":
        return
    entry = config["backbone"]
    if entry["included"]:
        yield f"{BACKBONE_FOLDER}/{FOLDER_MARK}"
        yield f"{BACKBONE_FOLDER}/{TENSOR_FILE}"
    elif isinstance(entry["source"], dict):
        HubSource.from_dict(entry["source"])
    else:
        raise WeightsError(
            "backbone: a downloaded synthesizer must hold its backbone or name a repository and a "
            f"commit; got the path {entry['source']!r}, which is not read; publish it with "
            "push_to_hub"
        )
