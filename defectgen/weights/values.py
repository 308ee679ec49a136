"""The tensors of a weights folder: which are allowed, what is stored, and their digest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256

import torch
from torch import Tensor

from defectgen.errors import WeightsError

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_PICTURES = (torch.uint8, torch.int16)  # large enough to keep their type in a file


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return "sha256:" and 64 hexadecimal digits over names, shapes and values.

    Floating tensors count as float32 and integer ones as int64, little-endian, in name order, so
    that neither the order of the mapping nor the device nor an exact cast changes the digest.

    Args:
        tensors: Floating or integer tensors of any shape.

    Raises:
        WeightsError: a tensor is of another type (bool, complex, sparse, quantized).
    """
    digest = sha256()
    for name in sorted(tensors):
        value = canonical(name, tensors[name])
        code = "<f4" if value.is_floating_point() else "<i8"
        # As JSON, so that no name can imitate the end of its own field.
        digest.update(json.dumps([name, list(value.shape), code]).encode())
        digest.update(value.reshape(-1).numpy().astype(code, copy=False).data)
    return "sha256:" + digest.hexdigest()


def canonical(name: str, tensor: Tensor) -> Tensor:
    """Return the tensor on the CPU, dense and without history, as float32 or int64.

    Args:
        name: Its name, for the message.
        tensor: A floating or integer tensor; memory may be shared with the result.

    Raises:
        WeightsError: the tensor is of another type.
    """
    if tensor.dtype not in _FLOATS + _INTEGERS or tensor.layout != torch.strided:
        raise WeightsError(
            f"tensors: must be dense numbers, floating or integer; got {name!r} of type "
            f"{tensor.dtype} and layout {tensor.layout}; convert it or leave it out"
        )
    dtype = torch.float32 if tensor.dtype in _FLOATS else torch.int64
    return tensor.detach().to(device="cpu", dtype=dtype).contiguous()


def storable(name: str, tensor: Tensor, half: bool) -> Tensor:
    """Return a copy as it goes into the file: float32 (or float16), uint8, int16, or int64.

    Raises:
        WeightsError: the tensor is of another type, or a value is not finite once rounded.
    """
    value = canonical(name, tensor)
    if half and value.is_floating_point():
        value = value.to(torch.float16)
    if tensor.dtype in _PICTURES:
        value = value.to(tensor.dtype)
    # A copy of its own: safetensors refuses tensors that share memory, and views store too much.
    value = value.clone(memory_format=torch.contiguous_format)
    check_finite({name: value}, "train on from an older state, or store without half=True")
    return value


def check_finite(tensors: Mapping[str, Tensor], advice: str) -> None:
    """Raise `WeightsError` with the advice if any tensor holds NaN or infinity."""
    bad = [name for name in sorted(tensors) if not bool(torch.isfinite(tensors[name]).all())]
    if bad:
        raise WeightsError(
            f"tensors: values must be finite; got NaN or inf in {listed(bad)}; {advice}"
        )


def listed(problems: list[str]) -> str:
    """Join the first five and count the rest, so that a message stays readable."""
    rest = len(problems) - 5
    return ", ".join(problems[:5]) + (f" and {rest} more" if rest > 0 else "")
