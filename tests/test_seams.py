"""Where a defect goes on photos of a product that the backbone has not learned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from defectgen import seams
from defectgen.augment.warp import within
from defectgen.moves import moves_from
from defectgen.networks.known import KnownDefects, exposure
from defectgen.placement import try_places
from defectgen.seams import place_on_photos, unlike

SIDE, PLACES = 64, 256
MOVES = moves_from("translate_int,scale")


def sources(count, first=0):
    return [torch.Generator().manual_seed(first + k) for k in range(count)]


def line(row, side=SIDE):
    """A dark line of an eighth of the side on white ground, its upper edge at this row."""
    picture = torch.ones(1, 1, side, side)
    picture[:, :, row : row + side // 8] = -1.0
    return picture


def gaps(side=SIDE, count=1):
    """Lines at other heights, each with a gap in the middle whose mask is a little larger."""
    known = KnownDefects(count, 1, side)
    unit = side // 64
    scenes = torch.cat([line(unit * (12 + 24 * k), side) for k in range(count)])
    images, masks = scenes.clone(), torch.zeros(count, 1, side, side, dtype=torch.bool)
    for k in range(count):
        top = unit * (12 + 24 * k)
        images[k, :, :, 29 * unit : 35 * unit] = 1.0
        masks[k, :, top - unit : top + 9 * unit, 28 * unit : 36 * unit] = True
    known.set(masks, images, scenes)
    return known


def placed_on(known, photos, count=24, weights=None, first=0):
    weights = torch.ones(count, len(known.masks)) if weights is None else weights
    some = torch.cat(photos)
    placed, turns, below = place_on_photos(
        known, MOVES, weights, [some] * count, sources(count, first), PLACES, bend=0.0
    )
    assert torch.equal(below, some[turns])
    return placed, turns


def cut(placed, photo):
    """Of the dark pixels of a photo, whether each mask covers some: (N,)."""
    return ((photo < 0) & placed.masks).flatten(1).any(1)


# -- how unlike two rings are --


def test_unlike_is_the_squared_difference_as_a_share_of_what_both_vary_by():
    source = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 3, 2, 16, 16, generator=source) * 2 - 1
    where = (torch.rand(3, 1, 16, 16, generator=source) < 0.4).float()
    gain = exposure(b, a, where)
    expected = []
    for one, other, ring, f in zip(
        a.numpy(), b.numpy(), where[:, 0].numpy() > 0, gain, strict=True
    ):
        x, y = one[:, ring].astype(np.float64), other[:, ring].astype(np.float64)
        x, y = (x + 1) * float(f) ** 0.5, (y + 1) / float(f) ** 0.5
        missed = ((x - y) ** 2).mean(1).sum()
        expected.append(missed / (x.var(1) + y.var(1) + seams.FLAT).sum())
    found = unlike(a, b, where)
    torch.testing.assert_close(found, torch.tensor(expected).float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(unlike(a, a, where), torch.zeros(3))


def test_empty_ground_is_no_likeness_of_a_line():
    """Though most of what surrounds a gap is empty, too."""
    ring = torch.ones(1, 1, SIDE, SIDE)
    own, empty, near = line(30), torch.ones(1, 1, SIDE, SIDE), line(33)
    assert (own - empty).abs().mean() < 0.3
    assert float(unlike(own, empty, ring)) > 0.9
    assert float(unlike(own, near, ring)) < 0.9
    source = torch.Generator().manual_seed(0)
    faint = empty + 0.05 * torch.randn(1, 1, SIDE, SIDE, generator=source)
    assert float(unlike(empty, faint, ring)) < 0.2


# -- which place, and which photo --


def test_a_gap_is_cut_into_a_line_and_not_into_empty_ground():
    known, empty, other = gaps(), torch.ones(1, 1, SIDE, SIDE), line(16)
    placed, turn = placed_on(known, [empty, other])
    assert turn.tolist() == [1] * 24
    assert cut(placed, other).float().mean() > 0.9
    # The ends of a line meet its surroundings: a gap goes through all of it.
    through = (placed.masks & (other < 0)).any(3).sum(2).flatten()
    assert (through >= 7).float().mean() > 0.8
    places = placed.masks.float().flatten(1).argmax(1) % SIDE
    assert len(set(places.tolist())) > 8


def test_any_of_the_photos_may_be_the_one():
    known = gaps()
    for order in ([line(16), torch.ones(1, 1, SIDE, SIDE)], [line(16), line(9)]):
        _, turn = placed_on(known, order)
        assert (turn == 0).any()
    assert (turn == 1).any()


def test_each_pair_comes_as_often_as_its_weight_says():
    """Not that which fits the photos best: then one photo's defect would be in all samples."""
    known = gaps(count=2)
    known.images[1] = 255 - known.images[1]
    known.scenes[1] = -known.scenes[1]
    placed, _ = placed_on(known, [line(16), line(12)], count=60)
    bright = ((placed.examples > 0) & placed.masks).sum((1, 2, 3))
    own = bright.float() / placed.masks.sum((1, 2, 3))
    assert 15 < int((own > 0.5).sum()) < 45


def test_a_sample_is_the_same_alone_and_among_others():
    known, photos = gaps(count=2), [line(16), line(40), line(9)]
    whole, turn = placed_on(known, photos, count=6)
    for k in (0, 4):
        alone, own = placed_on(known, photos, count=1, first=k)
        assert int(own) == int(turn[k])
        assert torch.equal(alone.masks[0], whole.masks[k])
        assert torch.equal(alone.examples[0], whole.examples[k])


def off(placed, turn, rows, unit=1):
    """How many rows a mask lies beside where its line says, (N,): one above the line's edge."""
    tops = placed.masks.flatten(1).float().argmax(1) // placed.masks.shape[-1]
    wanted = torch.tensor([rows[t] for t in turn.tolist()]) * unit - unit
    return (tops - wanted).abs().float() / unit


def test_looking_closely_is_what_finds_the_place(monkeypatch):
    """A scene of which little is known does not tell a row from the next one."""
    known, rows = gaps(), (8, 11, 14, 17)
    known.scenes.copy_(F.avg_pool2d(known.scenes, 7, 1, 3, count_include_pad=False))
    photos = [line(row) for row in rows]
    close = off(*placed_on(known, photos), rows).mean()
    monkeypatch.setattr(seams, "CLOSE", 1)
    hasty = off(*placed_on(known, photos), rows).mean()
    assert close < 0.5 * hasty


def test_large_pictures_are_compared_small(monkeypatch):
    """Memory of the comparison is bounded, and it finds what it finds in small ones."""
    side, seen = 256, []
    monkeypatch.setattr(
        seams, "unlike", lambda *given: seen.append(given[0].shape) or unlike(*given)
    )
    other = line(4 * 16, side)
    placed, turn = placed_on(gaps(side), [torch.ones(1, 1, side, side), other], count=6)
    assert {shape[-1] for shape in seen} == {seams.SIDE}
    assert turn.tolist() == [1] * 6
    assert off(placed, turn, (0, 16), unit=4).mean() < 1


@pytest.mark.parametrize("few", [1, 2])
def test_with_hardly_a_place_the_own_one_is_left(few):
    """Whatever the photos show, a mask is never empty and never outside."""
    known = gaps()
    placed, turn, _ = place_on_photos(
        known, MOVES, torch.ones(4, 1), [-line(5)] * 4, sources(4), few, bend=0.0
    )
    assert placed.masks.flatten(1).any(1).all()
    assert turn.tolist() == [0, 0, 0, 0]
    if few == 1:
        assert torch.equal(placed.masks, (known.masks > 0).expand(4, -1, -1, -1))


def test_the_same_photo_twice_is_no_second_one(monkeypatch):
    """`sampling` shows each once; even if it did not, the best place is the best place."""
    known, photo = gaps(), line(16)
    monkeypatch.setattr(seams, "CLOSE", 10_000)
    once, _ = placed_on(known, [photo], count=6)
    again, turn = placed_on(known, [photo, photo], count=6)
    assert torch.equal(once.masks, again.masks)
    assert turn.tolist() == [0] * 6


@pytest.mark.parametrize("side", [SIDE, 256, 512])
def test_a_scratch_of_one_pixel_has_surroundings(side, monkeypatch):
    """In a small picture, too: with none its place would look like any other."""
    known, rings = gaps(side), []
    known.masks.zero_()
    known.masks[..., side // 4, side // 4 : side // 2] = 1
    monkeypatch.setattr(seams, "unlike", lambda *given: rings.append(given[2]) or unlike(*given))
    placed, _ = placed_on(known, [line(side // 4, side), line(side // 8, side)], count=2)
    assert placed.masks.flatten(1).any(1).all()
    shares = torch.cat(rings).flatten(1).any(1).float()
    assert shares.mean() > 0.8


def test_a_place_without_surroundings_is_never_the_best(monkeypatch):
    """A mask that fills its photo but for a rim leaves none where it is made larger."""
    known, rings = gaps(), []
    known.masks.fill_(1)
    known.masks[..., :4, :] = 0
    monkeypatch.setattr(seams, "unlike", lambda *given: rings.append(given[2]) or unlike(*given))
    placed, _ = placed_on(known, [-line(30)], count=6)
    left = torch.cat(rings).flatten(1).any(1)
    assert left.any()
    assert not left.all()
    assert (~placed.masks).flatten(1).any(1).all()


def test_what_is_mirrored_at_a_border_is_no_surroundings(monkeypatch):
    known, inside, rings = gaps(), [], []
    known.masks.zero_()
    known.masks[..., 10:20, :9] = 1
    monkeypatch.setattr(seams, "within", lambda *given: inside.append(within(*given)) or inside[-1])
    monkeypatch.setattr(seams, "unlike", lambda *given: rings.append(given[2]) or unlike(*given))
    placed_on(known, [line(16)], count=2)
    beyond, where = ~torch.cat(inside), torch.cat(rings)
    assert beyond.any()
    assert where.any()
    assert not (where * beyond).any()


def test_places_that_lose_the_defect_are_not_looked_at():
    known = gaps()
    tried = try_places(known, MOVES, torch.ones(1, 1), sources(1), 32, bend=0.0, alone=True)
    for left in (5, 20):
        lost = torch.ones(1, 32, dtype=torch.bool)
        lost[0, left] = False
        found = seams._best(known, tried._replace(lost=lost), line(16), range(32))
        assert found == (0, left)


def test_the_inside_of_a_defect_does_not_count():
    """What it hides is another one: a hole in a line is not looked for where there is none."""
    known, other = gaps(), line(16)
    known.images[known.masks > 0] = 0  # a black blot instead of a gap
    blot = torch.full_like(other, -1.0)
    placed, turn = placed_on(known, [blot, other], count=12)
    assert turn.tolist() == [1] * 12
    assert (off(placed, turn, (0, 16)) < 1).float().mean() > 0.7


def test_a_darker_photo_of_the_same_thing_fits():
    """A defect takes the light of its place later; empty ground does not look like its line."""
    known, empty = gaps(), torch.full((1, 1, SIDE, SIDE), 0.9)
    known.images.copy_((known.images.float() * 0.8 + 20).byte())
    known.scenes.copy_((known.scenes + 1) * 0.8 + 0.16 - 1)
    dark = (line(16) * 0.8 + 1 + 0.16) * 0.45 - 1
    _, turn = placed_on(known, [empty, dark])
    assert (turn == 1).float().mean() > 0.9


def test_a_defect_is_adapted_to_the_photo_that_it_takes():
    known = gaps()
    known.images.copy_((known.images.float() * 0.5 + 60).byte())  # gray, so of no two levels
    known.scenes.copy_(known.scenes * 0.5)
    bright, dark = (0.5 * line(16) + 1) - 1, (0.5 * line(16) + 1) * 0.6 - 1
    for photos, wanted in (([torch.zeros_like(dark), dark], dark), ([dark * 0, bright], bright)):
        placed, turn = placed_on(known, photos, count=8)
        assert turn.tolist() == [1] * 8
        light = (placed.examples + 1)[placed.masks].median()
        ground = (wanted + 1).max()
        assert float(light / ground) == pytest.approx(1, abs=0.15)


def test_pieces_that_are_left_out_have_no_surroundings():
    """So of two pieces the one beside which lies what no photo has is left out."""
    known, other = gaps(), line(16)
    known.masks[0, :, 44:52, 6:12] = 1
    known.images[0, :, 44:52, 6:12] = 0
    known.images[0, :, 40:44, 4:14] = 0
    placed, turn = placed_on(known, [torch.ones_like(other), other], count=24)
    assert not placed.masks[:, 0, 36:].any()
    assert (off(placed, turn, (0, 16)) < 1).float().mean() > 0.7


def test_no_place_takes_a_defect_out_of_the_picture():
    known = gaps()
    known.masks.zero_()
    known.masks[..., 11:21, :9] = 1
    known.images[..., :9] = 255
    placed, _ = placed_on(known, [line(16), line(9)], count=40)
    kept = placed.masks.sum((1, 2, 3)) / known.masks.sum()
    assert (kept > 0.75).all()
