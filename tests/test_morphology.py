"""Largest and smallest numbers around each pixel, against windows as they are defined."""

from __future__ import annotations

import pytest
import torch

from defectgen.morphology import FEW, dilated, eroded

SHAPES = [(1, 1, 1, 1), (2, 1, 5, 3), (1, 2, 1, 9), (2, 1, 64, 64), (3, 2, 37, 41)]


def by_definition(x, reach, pick):
    """One number after another."""
    height, width = x.shape[2:]
    rows = []
    for i in range(height):
        for j in range(width):
            part = x[..., max(0, i - reach) : i + reach + 1, max(0, j - reach) : j + reach + 1]
            rows.append(pick(part, dim=(2, 3)))
    return torch.stack(rows, dim=2).view(x.shape)


@pytest.mark.parametrize("reach", [1, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_windows_end_at_the_border(shape, reach):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    kept = x.clone()
    assert torch.equal(dilated(x, reach), by_definition(x, reach, torch.amax))
    assert torch.equal(eroded(x, reach), by_definition(x, reach, torch.amin))
    assert torch.equal(x, kept)


def test_both_ways_of_computing_are_among_these():
    sizes = [torch.Size(shape).numel() for shape in SHAPES]
    assert min(sizes) < FEW <= max(sizes)


@pytest.mark.parametrize("side", [4, 64])
@pytest.mark.parametrize("change", [dilated, eroded])
def test_no_gradient(change, side):
    assert not change(torch.zeros(1, 1, side, side, requires_grad=True)).requires_grad


def test_planes_without_a_batch():
    x = torch.randn(1, 70, 80, generator=torch.Generator().manual_seed(0))
    assert torch.equal(dilated(x, 2), dilated(x[None], 2)[0])


def test_any_layout():
    x = torch.randn(2, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    wanted = dilated(x)
    assert torch.equal(dilated(x.contiguous(memory_format=torch.channels_last)), wanted)
    assert torch.equal(dilated(x.transpose(2, 3)), wanted.transpose(2, 3))
