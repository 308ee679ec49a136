"""Which of the places tried a defect takes."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from defectgen.networks.known import THUMBNAIL, KnownDefects
from defectgen.places import choice, differences

SIDE = 64
NONE = torch.zeros(2, 4, dtype=torch.bool)
ONE_PAIR = torch.zeros(2, 4, dtype=torch.long)


@pytest.fixture
def known():
    """Of a scene half dark, half bright: that tells the contrast."""
    found = KnownDefects(1, 1, SIDE)
    scene = torch.full((1, 1, SIDE, SIDE), -0.8)
    scene[..., SIDE // 2 :] = 0.8
    found.set(scene > 1, scene, scene)
    return found


def test_of_places_like_the_own_one_the_first_is_taken_else_one_nearly_the_best():
    score = torch.tensor([[0.9, 0.19, 0.15, 0.1], [0.9, 0.6, 0.5, 0.55]])
    chosen = partial(choice, score, score)
    assert chosen(NONE, ONE_PAIR, NONE, NONE).tolist() == [1, 2]
    home = NONE.clone()
    home[:, 1:3] = True
    # Where nothing is like it, a place elsewhere that is nearly as good as the best one.
    assert chosen(NONE, ONE_PAIR, NONE, home).tolist() == [3, 3]
    lost = torch.tensor([[True, True, True, False]]).expand(2, 4)
    assert chosen(lost, ONE_PAIR, NONE, home).tolist() == [3, 3]


def test_where_no_place_is_like_the_own_one_they_are_compared_in_one_light():
    score = torch.tensor([[0.5, 0.6, 0.7, 0.9], [0.15, 0.6, 0.7, 0.9]])
    lit = torch.tensor([[0.5, 0.45, 0.4, 0.1]]).expand(2, 4)
    found = choice(score, lit, NONE, ONE_PAIR, NONE, NONE)
    assert found.tolist() == [3, 0]  # the second has one that is like it as it is
    home = torch.tensor([[True, False, False, False]]).expand(2, 4)
    assert choice(score, lit + 1, NONE, ONE_PAIR, NONE, home).tolist() == [3, 0]
    # In one light, the best; far worse ones do not become better by lying elsewhere.
    home = torch.tensor([[False, True, True, True]]).expand(2, 4)
    assert choice(score, lit, NONE, ONE_PAIR, NONE, home)[0] == 3


def test_of_places_elsewhere_only_those_nearly_the_best_are_taken():
    lit = torch.tensor([[0.5, 0.69, 0.9, 0.9], [0.5, 0.71, 0.9, 0.9]])  # 1.4 times is 0.7
    home = torch.tensor([[True, False, False, False]]).expand(2, 4)
    assert choice(lit + 1, lit, NONE, ONE_PAIR, NONE, home).tolist() == [1, 0]


def test_one_light_is_not_asked_where_the_unmoved_place_fits():
    score = torch.tensor([[1.5, 0.0, 1.5, 1.5], [1.5, 0.3, 1.5, 1.5]])
    lit, still = torch.tensor([[0.1, 0.0, 0.2, 0.2]]).expand(2, 4), NONE.clone()
    still[:, 1] = True
    assert choice(score, lit, NONE, ONE_PAIR, still, NONE).tolist() == [1, 0]


def test_a_pair_that_fits_nowhere_leaves_the_sample_to_the_nearest_one():
    score = torch.tensor([[0.9, 0.3, 0.2, 0.8], [0.5, 0.45, 0.42, 0.5]])
    pairs = torch.tensor([[0, 1, 2, 0]]).expand(2, 4)
    # Of pairs as they are, in whatever light.
    found = choice(score, score.flip(1), NONE, pairs, NONE, NONE)
    assert found.tolist() == [2, 0]  # the second is hardly farther than the nearest: it stays


def test_places_are_compared_as_they_are_and_in_one_light(known):
    """A place like the own one, but half as bright: it differs, in its own light it does not."""
    there = torch.zeros(3, 1, THUMBNAIL, THUMBNAIL)
    there[:, :, 5:9, 5:9] = 1
    own = torch.rand(3, 1, THUMBNAIL, THUMBNAIL, generator=torch.Generator().manual_seed(0))
    here = torch.stack([(own[0] + 1) / 2 - 1, own[1], (own[2] + 1) / 8 - 1])
    plain, lit = differences(here, own, there, known)
    assert plain[0] > 0.1
    assert plain[1] == 0
    torch.testing.assert_close(lit[:2], torch.zeros(2), atol=1e-5, rtol=0)
    assert lit[2] > 0.1  # more than an exposure is adapted by


def test_in_one_light_a_dark_place_is_no_nearer_than_a_bright_one(known):
    there = torch.ones(8, 1, THUMBNAIL, THUMBNAIL)
    source = torch.Generator().manual_seed(0)
    here, own = torch.rand(2, 8, 1, THUMBNAIL, THUMBNAIL, generator=source)
    own = own * 0.9 - 0.6
    found = differences(here, own, there, known)
    torch.testing.assert_close(found, differences(own, here, there, known), rtol=0.02, atol=0)
    assert (found[1] < found[0]).all()
