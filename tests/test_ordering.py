"""Sorting of rows: as PyTorch's stable sort, values, positions, and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from defectgen.ordering import sort_rows, sorted_rows


def normal(*shape, dtype=torch.float64):
    """Standard normal numbers, the same in every run."""
    source = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=source, dtype=torch.float64).to(dtype)


SHAPES = [(5, 300), (2, 3, 4, 17), (4, 1), (0, 7), (3, 0)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_positions_are_those_of_a_stable_sort(shape, dtype):
    x = (normal(*shape, dtype=dtype) * 4).round()  # many are equal
    wanted = x.sort(dim=-1, stable=True)
    values, order = sort_rows(x)
    assert torch.equal(values, wanted.values)
    assert torch.equal(order, wanted.indices)
    assert torch.equal(sorted_rows(x), wanted.values)
    assert values.dtype == dtype


def test_rows_may_lie_anyhow_and_are_not_changed():
    x = normal(6, 40, dtype=torch.float32)
    kept = x.clone()
    assert torch.equal(sort_rows(x.T)[0], kept.T.sort(dim=-1).values)
    assert torch.equal(sorted_rows(x.T), kept.T.sort(dim=-1).values)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("sort", [sorted_rows, lambda x: sort_rows(x)[0]])
def test_infinities_and_the_smallest_numbers(sort):
    tiny = 2.0**-149
    wanted = [-math.inf, -(2.0**127), -1.0, -tiny, 0.0, tiny, 1.0, 2.0**127, math.inf]
    x = torch.tensor(wanted)[torch.tensor([3, 8, 0, 5, 1, 7, 2, 6, 4])]
    assert sort(x).tolist() == wanted


def test_gradients():
    x = normal(3, 6).requires_grad_()
    assert gradcheck(sorted_rows, x)
    assert gradgradcheck(sorted_rows, x)


@pytest.mark.parametrize("sort", [sorted_rows, lambda x: sort_rows(x)[0]])
def test_gradients_of_single_precision_go_back_to_where_numbers_were(sort):
    x = normal(4, 9, dtype=torch.float32).requires_grad_()
    weight = normal(4, 9, dtype=torch.float32)
    (found,) = torch.autograd.grad((sort(x) * weight).sum(), x)
    (wanted,) = torch.autograd.grad((x.sort(dim=-1).values * weight).sum(), x)
    assert torch.equal(found, wanted)


def test_second_gradients_of_single_precision():
    x = normal(4, 9, dtype=torch.float32).requires_grad_()
    weight = normal(4, 9, dtype=torch.float32)

    def twice(sort):
        (first,) = torch.autograd.grad((sort(x) ** 3 * weight).sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    torch.testing.assert_close(twice(sorted_rows), twice(lambda x: x.sort(dim=-1).values))
