"""In which precision the blocks of a network compute; parameters stay float32 whatever it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from defectgen.errors import ConfigError

#: What a user may ask for: everything in float32, or features and convolutions in bfloat16 with
#: sums, styles, skip images and logits in float32.
PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16}

#: What a CPU must have one of for "auto" to take bfloat16: instructions that multiply in it.
FAST_BF16 = ("amx_bf16", "avx512_bf16")


class PreciseBlock(nn.Module):
    """A block that computes in a precision of its own.

    Attributes:
        in_half: compute in float16 on a GPU, as published for the top resolutions.
        low: compute in this dtype wherever it is; None leaves it to ``in_half`` and the input.
    """

    in_half: bool = False
    low: torch.dtype | None = None

    def working(self, like: Tensor) -> torch.dtype:
        """Dtype of this block's features, where latents or images are ``like``."""
        if like.dtype == torch.float64:
            return like.dtype
        if self.low is not None:
            return self.low
        return torch.float16 if self.in_half and like.is_cuda else like.dtype


@contextmanager
def in_precision(precision: str, *networks: nn.Module) -> Iterator[None]:
    """:func:`set_precision` for these networks inside a ``with`` block, and back afterwards."""
    blocks = [m for n in networks for m in n.modules() if isinstance(m, PreciseBlock)]
    before = [block.low for block in blocks]
    for network in networks:
        set_precision(network, precision)
    try:
        yield
    finally:
        for block, low in zip(blocks, before, strict=True):
            block.low = low


def check_precision(precision: str) -> None:
    """Raise ConfigError unless ``precision`` is a known name or "auto"."""
    names = ("auto", *PRECISIONS)
    if precision not in names:
        raise ConfigError(
            f"precision: one of {', '.join(names)}; got {precision!r}; choose one of these."
        )


def resolve_precision(precision: str, device: torch.device) -> str:
    """What "auto" means on this device; another name stays what it is.

    A fixed table: "bf16" on a CPU with one of :data:`FAST_BF16`, else "fp32" (on a GPU too, where
    nothing was measured yet).

    Raises:
        ConfigError: for an unknown name.
    """
    check_precision(precision)
    if precision != "auto":
        return precision
    # An older PyTorch does not tell what the CPU has; then nothing is assumed.
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    fast = device.type == "cpu" and any(known.get(name) for name in FAST_BF16)
    return "bf16" if fast else "fp32"


def set_precision(network: nn.Module, precision: str) -> None:
    """Let every block of a generator, branch or discriminator compute in this precision.

    Args:
        network: changed in place; its parameters are not.
        precision: a key of :data:`PRECISIONS`.
    """
    for module in network.modules():
        if isinstance(module, PreciseBlock):
            module.low = PRECISIONS[precision]
