"""The resume file: a training's whole state as tensors and plain types, for the same version."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from defectgen.errors import WeightsError
from defectgen.files import atomic_file

# Raised when the content changes its meaning; no migrations, because a training is short-lived.
RESUME_VERSION = 1
_MARK = "defectgen_resume"


def save_resume(path: str | os.PathLike[str], payload: dict[str, Any]) -> None:
    """Write the state of a training, replacing an older file only when the new one is complete.

    Args:
        path: The file to write.
        payload: Nested dicts (keys str or int), lists and tuples of dense tensors, None, bool, int,
            float and str. Tensors are stored on the CPU, without history and sharing.

    Raises:
        WeightsError: the payload holds anything else. Nothing is written.
        OSError: the file system refuses.
    """
    content = {_MARK: RESUME_VERSION, "payload": _plain(payload, "payload")}
    # An open file: of a path that cannot be written torch only says "unexpected pos".
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # Its writer fails once more while it closes, and hides what the system said.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_resume(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file written by `save_resume`; no code in it can run.

    Args:
        path: The file.

    Returns:
        The payload, with all tensors on the CPU.

    Raises:
        WeightsError: the file is missing, damaged, foreign or of another version.
    """
    file = Path(path)
    if not file.is_file():
        raise WeightsError(f"path: must be an existing resume file; got {str(file)!r}; check it")
    _check_archive(file)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # Whatever it is: the restricted loader documents no set of errors.
        reason = str(error).strip().partition("\n")[0]
        raise _refused(
            file, f"content that is not plain ({type(error).__name__}: {reason})"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("payload"), dict):
        raise _refused(file, "a torch file of something else")
    version = content.get(_MARK)
    if version != RESUME_VERSION:
        raise _refused(file, f"a file of version {version!r}, not {RESUME_VERSION}")
    payload: dict[str, Any] = content["payload"]
    return payload


def _check_archive(file: Path) -> None:
    """Check every checksum, which torch does not, and that nothing unpacks to more than it is."""
    try:
        with zipfile.ZipFile(file) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise _refused(file, "a compressed archive")
            bad = archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError) as error:
        raise _refused(file, f"a damaged or foreign file ({error})") from error
    if bad is not None:
        raise _refused(file, f"a wrong checksum at {bad}")


def _refused(file: Path, found: str) -> WeightsError:
    return WeightsError(
        f"path: must be a whole resume file of this version of defectgen; got {found} in "
        f"{str(file)!r}; take another copy, or train from the start"
    )


def _plain(value: object, where: str) -> object:
    """Return a copy of nested plain data whose tensors are on the CPU, dense and on their own."""
    if isinstance(value, Tensor):
        if type(value) not in (Tensor, nn.Parameter) or value.layout != torch.strided:
            raise _not_plain(where, f"a {type(value).__name__} of layout {value.layout}")
        # A copy, so that of a view only its own part is written.
        return value.detach().to("cpu").clone(memory_format=torch.contiguous_format)
    if isinstance(value, dict):
        bad = [key for key in value if type(key) not in (str, int)]
        if bad:
            raise _not_plain(where, f"the key {bad[0]!r}")
        return {key: _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    # The exact type: of a named tuple the loader would know no class.
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        items = [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
        return items if type(value) is list else tuple(items)
    # The exact type: numpy.float64 is a float too, but would be stored as an object of numpy.
    if value is not None and type(value) not in (bool, int, float, str):
        raise _not_plain(where, f"a {type(value).__name__}")
    return value


def _not_plain(where: str, found: str) -> WeightsError:
    return WeightsError(
        f"payload: must hold tensors, None, bool, int, float, str, and lists, tuples and dicts of "
        f"them; got {found} at {where}; convert it"
    )
