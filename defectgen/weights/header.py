"""Check of a safetensors file before anything parses it: what its header claims, it must hold."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from defectgen.errors import WeightsError

MAX_HEADER_BYTES = 16 << 20
MAX_TENSOR_BYTES = 4 << 30
# Types by their names in the header, with the bytes of one element. No bool, complex or float8.
_SIZES = {
    **{"F16": 2, "BF16": 2, "F32": 4, "F64": 8},
    **{"U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8},
}
_LENGTH_BYTES = 8
#: No file of ours is larger.
MAX_FILE_BYTES = _LENGTH_BYTES + MAX_HEADER_BYTES + MAX_TENSOR_BYTES


def damaged(path: Path, found: str) -> WeightsError:
    """Return the error for a file that is not what was once saved."""
    return WeightsError(
        f"folder: {path.name} must be the whole file that was saved; got {found} in {str(path)!r}; "
        "copy or download it again"
    )


def check_header(path: Path) -> None:
    """Check that a safetensors file is whole, of a sensible size and of plain number types.

    Args:
        path: The file.

    Raises:
        WeightsError: it is missing, another kind of file (a pickle, say), cut off, over 4 GB, or
            its header is not JSON, holds another type or does not describe exactly its content.
    """
    if not path.is_file():
        raise WeightsError(
            f"folder: must hold {path.name}; got {str(path.parent)!r} without it; "
            "copy or download the whole folder again"
        )
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(_LENGTH_BYTES + 1)
        length = int.from_bytes(first[:_LENGTH_BYTES], "little")
        if first[_LENGTH_BYTES:] != b"{" or length > MAX_HEADER_BYTES:
            raise damaged(path, _kind_of_file(first))
        if size < _LENGTH_BYTES + length:
            raise damaged(path, f"{size} bytes, fewer than its header alone needs")
        file.seek(_LENGTH_BYTES)
        header = _parse(path, file.read(length))
    claimed = _claimed_bytes(path, header)
    if claimed > MAX_TENSOR_BYTES:
        raise damaged(path, f"{claimed} bytes of tensors, more than the {MAX_TENSOR_BYTES} allowed")
    held = size - _LENGTH_BYTES - length
    if claimed != held:
        raise damaged(path, f"{held} bytes of tensors where its header claims {claimed}")


def _kind_of_file(first: bytes) -> str:
    # Only to say more than "damaged": none of these files is read any further.
    if first.startswith(b"PK\x03\x04"):
        return "a zip archive (perhaps a torch.save file; only safetensors is read)"
    if len(first) > 1 and first[0] == 0x80 and first[1] <= 5:
        return "a pickle (never read, because it can run code; only safetensors is)"
    return "something other than safetensors"


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise damaged(path, "a header that is not JSON") from error
    if not isinstance(header, dict):
        raise damaged(path, "a header that is not a JSON object")
    header.pop("__metadata__", None)
    return header


def _claimed_bytes(path: Path, header: dict[str, Any]) -> int:
    """Return the sum over all tensors, which must follow each other without gap or overlap."""
    spans = sorted(_span(path, name, entry) for name, entry in header.items())
    end = 0
    for start, stop in spans:
        if start != end:
            raise damaged(path, f"tensors that leave a gap or overlap at byte {start}")
        end = stop
    return end


def _span(path: Path, name: str, entry: object) -> tuple[int, int]:
    """Return first byte and end of one tensor, after checking them against shape and type."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise damaged(path, f"an incomplete description of the tensor {name!r}")
    width = _SIZES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if width is None:
        raise damaged(path, f"the tensor {name!r} of type {entry['dtype']!r}, not a plain number")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        raise damaged(path, f"a shape or place of the tensor {name!r} that is no list of sizes")
    start, stop = offsets
    if stop - start != math.prod(shape) * width:
        raise damaged(path, f"the tensor {name!r} with {stop - start} bytes for shape {shape}")
    return start, stop


def _sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
