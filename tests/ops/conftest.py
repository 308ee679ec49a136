from __future__ import annotations

import pytest
import torch

#: Largest relative and absolute error of an op against its definition in float64.
TOLERANCES = {
    torch.float64: 1e-12,
    torch.float32: 2e-5,
    torch.float16: 1e-2,
    torch.bfloat16: 8e-2,
}


@pytest.fixture
def normal():
    """normal(*shape): standard normal float64 numbers, the same in every run of a test."""
    source = torch.Generator().manual_seed(0)

    def draw(*shape, dtype=torch.float64):
        return torch.randn(shape, generator=source, dtype=torch.float64).to(dtype)

    return draw


@pytest.fixture
def same():
    """same(got, wanted): equal shape, and values equal as far as the dtype of ``got`` can tell."""

    def check(got, wanted):
        wanted = torch.as_tensor(wanted, dtype=torch.float64)
        tolerance = TOLERANCES[got.dtype]
        torch.testing.assert_close(
            got.detach().cpu().double(), wanted, rtol=tolerance, atol=tolerance
        )

    return check
