"""SHA256SUMS: the sha256 of every file of a repository, in the format that `sha256sum -c` reads."""

from __future__ import annotations

import re
from pathlib import Path

from defectgen.errors import ConfigError, WeightsError
from defectgen.files import read_text, sha256_file

SUMS_FILE = "SHA256SUMS"
MAX_SUMS_BYTES = 1 << 16
_LINE = re.compile(r"([0-9a-f]{64}) [ *](\S(?:.*\S)?)")


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS over all files below a folder, in the order of their names."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    lines = [f"{sha256_file(folder / name)}  {name}\n" for name in names if name != SUMS_FILE]
    (folder / SUMS_FILE).write_text("".join(lines), encoding="utf-8", newline="\n")


def read_sums(folder: Path, digest: str | None = None) -> dict[str, str]:
    """Read SHA256SUMS of a folder: name -> 64 hexadecimal digits.

    Args:
        folder: where it lies.
        digest: "sha256:" and the digits that SHA256SUMS itself must have; None asks for none.

    Raises:
        WeightsError: it is missing, another one, too large, no such list, or names a file outside.
    """
    path = folder / SUMS_FILE
    if not path.is_file():
        raise WeightsError(
            f"folder: must hold {SUMS_FILE}; got one without it; publish it with push_to_hub"
        )
    found = f"sha256:{sha256_file(path)}"
    if digest is not None and found != digest:
        raise WeightsError(
            f"digest: {SUMS_FILE} must have {digest}; got {found}; do not use these weights unless "
            "you know why they changed"
        )
    try:
        lines = read_text(path, MAX_SUMS_BYTES).splitlines()
        matches = [_LINE.fullmatch(line) for line in lines]
        sums = {match[2]: match[1] for match in matches if match}
    except ConfigError as error:
        raise _bad(f"something else ({error})") from error
    for name in sums:
        # Nothing is joined to these names; a list that tries is not one of ours.
        if set(name.split("/")) & {"", ".", ".."} or set(name) & set("\\:\0"):
            raise _bad(f"the name {name!r}, which leads outside")
    if len(sums) != len(lines):
        raise _bad("another line, or a name twice")
    return sums


def check_sum(folder: Path, name: str, sums: dict[str, str]) -> None:
    """Check one file against the list.

    Raises:
        WeightsError: the list does not name it, it is missing, or it is another file.
    """
    if name not in sums:
        raise _bad(f"none for {name}")
    path = folder / name
    if not path.is_file():
        raise WeightsError(f"folder: must hold {name}; got one without it; publish it again")
    found = sha256_file(path)
    if found != sums[name]:
        raise WeightsError(
            f"folder: {name} must have the sha256 {sums[name]}; got {found}; download it again, "
            "and do not use it if that repeats"
        )


def _bad(found: str) -> WeightsError:
    return WeightsError(
        f"folder: {SUMS_FILE} must be lines of a sha256, two spaces and the name of a file inside; "
        f"got {found}; publish it with push_to_hub"
    )
