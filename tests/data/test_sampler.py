from __future__ import annotations

from collections import Counter

import pytest
import torch

from defectgen.data.sampler import InfiniteSampler
from defectgen.errors import ConfigError


def stream(sampler: InfiniteSampler, iterations: int) -> list[int]:
    parts = [sampler.indices(i) for i in range(iterations)]
    return [int(index) for index in torch.cat(parts)]


@pytest.mark.parametrize(("n", "batch_size"), [(10, 4), (7, 7), (3, 8), (1, 5), (100, 1)])
def test_every_epoch_holds_every_image_once(n: int, batch_size: int) -> None:
    drawn = stream(InfiniteSampler(n, batch_size, seed=3), iterations=3 * n)
    for start in range(0, len(drawn), n):
        assert sorted(drawn[start : start + n]) == list(range(n))


def test_iteration_is_a_pure_function() -> None:
    one, two = InfiniteSampler(10, 4, seed=0), InfiniteSampler(10, 4, seed=0)
    forward = [one.indices(i) for i in range(20)]
    for i in (17, 3, 3, 19, 0):
        assert torch.equal(two.indices(i), forward[i])


def test_result_can_be_changed_without_harm() -> None:
    sampler = InfiniteSampler(10, 4, seed=0)
    first = sampler.indices(0)
    kept = first.clone()
    first.zero_()
    assert torch.equal(sampler.indices(0), kept)


def test_shape_and_type() -> None:
    indices = InfiniteSampler(10, 4, seed=0).indices(2)
    assert indices.shape == (4,)
    assert indices.dtype == torch.int64


def test_epochs_and_seeds_differ() -> None:
    drawn = stream(InfiniteSampler(50, 50, seed=0), 2)
    assert drawn[:50] != drawn[50:]
    assert drawn != stream(InfiniteSampler(50, 50, seed=1), 2)
    assert drawn[:50] != list(range(50))


def test_first_places_are_spread_over_the_images() -> None:
    firsts = Counter(int(InfiniteSampler(5, 5, seed=s).indices(0)[0]) for s in range(500))
    # Binomial(500, 1/5): mean 100, deviation 9; the bounds are 5 deviations away.
    assert set(firsts) == set(range(5))
    assert all(55 < count < 145 for count in firsts.values())


def test_global_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    InfiniteSampler(10, 4, seed=0).indices(5)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_late_iterations_cost_nothing() -> None:
    assert InfiniteSampler(10, 4, seed=0).indices(10**12).shape == (4,)


def test_refuses_wrong_numbers() -> None:
    for n, batch_size in ((0, 1), (1, 0), (2.0, 1), (1, True)):
        with pytest.raises(ConfigError, match="must be an integer"):
            InfiniteSampler(n, batch_size, seed=0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="iteration"):
        InfiniteSampler(1, 1, seed=0).indices(-1)
