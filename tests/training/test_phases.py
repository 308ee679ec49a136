"""When a phase runs, and what optimizer it runs with."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from defectgen.training.phases import Batch, Phase, lazy_adam, warm_adam


def phase(**fields):
    return Phase(
        name="test", optimizers=("opt",), loss=lambda batch: (torch.zeros(()), {}), **fields
    )


def parameters():
    return nn.Linear(2, 1).parameters()


@pytest.mark.parametrize("interval", [1, 2, 3, 16])
def test_phase_is_due_every_interval_from_the_first_iteration_on(interval):
    due = [k for k in range(50) if phase(interval=interval).due(k, 4 * k)]
    assert due == list(range(0, 50, interval))


def test_window_begins_with_first_and_ends_before_last():
    windowed = phase(first=8, last=16)
    assert [n for n in range(0, 24, 4) if windowed.due(n // 4, n)] == [8, 12]


def test_windows_that_meet_leave_no_gap_and_no_overlap():
    warm, rest = phase(last=10), phase(first=10)
    for images in range(0, 24, 4):  # the border lies inside an iteration
        assert warm.due(0, images) != rest.due(0, images)


def test_an_empty_window_is_never_due():
    assert not any(phase(last=0).due(k, 4 * k) for k in range(20))


def test_interval_counts_iterations_of_the_run_not_of_the_window():
    late = phase(interval=4, first=20)
    assert [k for k in range(20) if late.due(k, 4 * k)] == [8, 12, 16]


@pytest.mark.parametrize(
    ("interval", "rate", "beta2"),
    # The published pairs for 0.0025 and 0.99: every 4 iterations, every 16, never.
    [(4, 0.002, 0.99199), (16, 0.0023529, 0.99059), (0, 0.0025, 0.99)],
)
def test_lazy_adam_is_corrected_for_the_extra_steps(interval, rate, beta2):
    (group,) = lazy_adam(parameters(), rate=0.0025, beta2=0.99, interval=interval).param_groups
    assert group["lr"] == pytest.approx(rate, rel=1e-4)
    assert group["betas"] == (0.0, pytest.approx(beta2, abs=1e-5))
    assert group["eps"] == 1e-8
    assert group["weight_decay"] == 0


def test_warm_adam_takes_the_rate_as_it_is_and_has_momentum():
    (group,) = warm_adam(parameters(), 0.01).param_groups
    assert group["lr"] == 0.01
    assert group["betas"][0] > 0


@pytest.mark.parametrize(
    "make",
    [lambda p: lazy_adam(p, rate=0.01, beta2=0.99, interval=0), lambda p: warm_adam(p, 0.01)],
)
def test_gradients_may_lie_otherwise_than_parameters(make):
    # Those of convolutions come back channels last.
    wanted = torch.arange(-30.0, 30.0).reshape(2, 5, 2, 3)
    ways = [
        wanted,
        wanted.contiguous(memory_format=torch.channels_last),
        torch.ones(()).expand_as(wanted),
    ]
    for gradient in ways:
        layer = nn.Parameter(torch.zeros_like(wanted))
        optimizer = make([layer])
        layer.grad = gradient
        optimizer.step()
        # The first step of Adam is one rate long, against the sign of each number.
        assert torch.allclose(layer.detach(), -0.01 * gradient.sign(), atol=1e-6)


def test_records_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        phase().interval = 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        Batch(torch.zeros(1), torch.zeros(1)).masks = torch.zeros(1)
