"""Moves of a defect: what a policy allows, how they spread, and whose numbers they are."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from defectgen.augment.policy import POLICIES
from defectgen.moves import (
    MOVES,
    allowed_moves,
    draw_fields,
    draw_nudges,
    draw_tries,
    fields_of,
    joined,
    maps_of,
    moves_from,
    nudges_of,
)

EVERYTHING = moves_from("flip_x,flip_y,translate_int,scale,rotate,anisotropic,translate_frac")


def test_moves_are_what_the_policy_grants_and_turns_on_parts():
    assert allowed_moves(POLICIES["none"], turned=False) == ""
    assert allowed_moves(POLICIES["none"], turned=True) == "rotate"
    safe = allowed_moves(POLICIES["safe"], turned=False)
    assert safe == "translate_int,scale,translate_frac"
    assert moves_from(safe).scale
    assert not moves_from(safe).rotate
    assert moves_from("") == POLICIES["none"]


def test_nudges_are_small_moves_that_the_policy_allows():
    source, still = torch.Generator().manual_seed(0), torch.eye(3).repeat(9, 1, 1)
    maps = nudges_of(EVERYTHING, draw_nudges(2000, source), 100)
    shift, turn = maps[:, :2, 2], torch.atan2(maps[:, 1, 0], maps[:, 0, 0])
    size = maps[:, :2, :2].det().sqrt().log2()
    assert [float(x.std()) for x in (shift, turn, size)] == pytest.approx([5, 0.15, 0.05], rel=0.05)
    assert torch.equal(nudges_of(moves_from("flip_x"), draw_nudges(9, source), 100), still)
    only = nudges_of(moves_from("translate_int"), draw_nudges(9, source), 100)
    assert torch.equal(only[:, :, :2], still[:, :, :2])
    assert only[:, :2, 2].any()
    assert torch.equal(only, only.round())  # by whole pixels


def test_fields_bend_most_defects_by_a_share_of_the_side():
    fields = draw_fields(2000, 100, 0.02, torch.Generator().manual_seed(0))
    bent = fields.flatten(1).any(1)
    assert float(bent.float().mean()) == pytest.approx(MOVES, abs=0.03)
    assert float(fields[bent].std()) == pytest.approx(2.0, rel=0.05)  # 2 % of 100 px
    again = draw_fields(2000, 100, 0.04, torch.Generator().manual_seed(0))
    torch.testing.assert_close(again, 2 * fields)


def test_fields_stretch_and_squeeze_in_equal_parts():
    fields = draw_fields(500, 100, 0.02, torch.Generator().manual_seed(0))
    size = (100, 100)
    shifts = F.interpolate(fields, size=size, mode="bicubic", align_corners=True)
    wide = (shifts[:, 0, :, 1:] - shifts[:, 0, :, :-1])[:, :-1]
    high = (shifts[:, 1, 1:] - shifts[:, 1, :-1])[:, :, :-1]
    assert wide.std() > 0.08  # pixels are 8 % wider or narrower
    assert high.std() == pytest.approx(float(wide.std()), rel=0.1)
    assert (wide + high).std() < 0.35 * wide.std()  # their area nearly stays


@pytest.mark.parametrize("places", [1, 2, 16, 20, 64, 256])
def test_samples_beside_others_have_the_bits_they_have_alone(places):
    tries = [draw_tries(torch.ones(3), places, torch.Generator().manual_seed(k)) for k in range(7)]
    whole = joined(tries)
    maps = maps_of(EVERYTHING, whole, 64).view(7, places, 3, 3)
    fields = fields_of(whole.knots, whole.chance, 64, 0.03)
    for k, one in enumerate(tries):
        assert torch.equal(maps[k], maps_of(EVERYTHING, one, 64))
        assert torch.equal(fields[k], fields_of(one.knots, one.chance, 64, 0.03)[0])
