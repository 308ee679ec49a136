"""Defects that cover much of a texture."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from defectgen import regions
from defectgen.config import BackboneConfig, DefectConfig
from defectgen.moves import BEND, moves_from
from defectgen.networks.defect import DefectBranch
from defectgen.networks.known import REGION, KnownDefects
from defectgen.placement import KEPT, moved_pairs, place_masks

SIDE = 64
MOVES = moves_from("flip_x,flip_y,translate_int")
#: Deep inside the left half, where all grain is another one.
DEEP = 26


def half():
    """The left half of the picture: rows 0 to 63, columns 0 to 31."""
    mask = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    mask[..., : SIDE // 2] = True
    return mask


def noise(seed=0, side=SIDE):
    return torch.randn(1, side, side, generator=torch.Generator().manual_seed(seed)) * 0.2


def spot(row, column):
    image = torch.zeros(1, SIDE, SIDE)
    image[0, row, column] = 0.8
    return image


def moves(**given):
    """Numbers: ``down``, ``across`` pixels, mirrored about ``y``, ``x``."""
    mirrored = [0.1 if given.get(name) else 0.9 for name in "yx"]
    shifts = [0.5 + given.get(name, 0) / (2 * 0.2 * SIDE) for name in ("down", "across")]
    return torch.tensor(mirrored + shifts)


@pytest.mark.parametrize(
    ("given", "row", "column"),
    [
        ({}, 40, 20),
        ({"y": True}, 23, 20),  # about the middle of the picture
        ({"x": True}, 40, 11),  # about the middle of the mask
        ({"down": 7}, 47, 20),
        ({"across": -6}, 40, 14),
        ({"y": True, "x": True, "down": -3, "across": 5}, 20, 16),
    ],
)
def test_grain_appears_at_another_place_and_no_longer_at_its_own(given, row, column):
    found = regions.stirred(spot(40, 20), half(), moves(**given), MOVES)
    assert divmod(int(found.argmax()), SIDE) == (row, column)
    assert found.max() == pytest.approx(0.8, abs=0.02)
    assert (found > 0.1).sum() == 1


def test_what_would_come_from_beyond_comes_mirrored():
    """Moved 9 down, rows 0 to 8 show what lies in rows 8 to 0."""
    found = regions.stirred(spot(2, 12), half(), moves(down=9), MOVES)
    assert {divmod(int(k), SIDE) for k in found.flatten().topk(2).indices} == {(11, 12), (6, 12)}
    assert (found > 0.1).sum() == 2


def test_grain_moves_by_a_fifth_of_the_side_at_most():
    for end, row in ((0.0, 32 - 13), (1 - 1e-6, 32 + 13)):
        even = torch.tensor([0.9, 0.9, end, 0.5])
        found = regions.stirred(spot(32, 12), half(), even, MOVES)
        assert divmod(int(found.argmax()), SIDE) == (row, 12)


@pytest.mark.parametrize(
    ("names", "given", "moved"),
    [
        ("flip_x", {"y": True}, False),
        ("flip_y", {"x": True}, False),
        ("flip_x,flip_y", {"down": 7, "across": 3}, False),
        ("translate_frac", {"down": 7}, True),
        ("translate_int", {"across": 3}, True),
    ],
)
def test_the_policy_says_what_moves(names, given, moved):
    image = noise()
    found = regions.stirred(image, half(), moves(**given), moves_from(names))
    assert torch.equal(found, image) == (not moved)


@pytest.mark.parametrize("axis", [1, 2])
def test_grain_moves_along_lines_and_not_across_them(axis):
    """Else those of the edge, which stay, would break off."""
    lines = noise()[:, :1] if axis == 1 else noise()[..., :1]
    image = lines.expand(1, SIDE, SIDE) + 0.5 * noise(1)
    along = {"y": True, "down": 9} if axis == 1 else {"x": True, "across": 9}
    across = {"x": True, "across": 9} if axis == 1 else {"y": True, "down": 9}
    assert torch.equal(regions.stirred(image, half(), moves(**across), MOVES), image)
    found = regions.stirred(image, half(), moves(**along), MOVES)
    assert (found - image)[..., :DEEP].abs().mean() > 0.05
    both = regions.stirred(image, half(), moves(**along, **across), MOVES)
    assert torch.equal(both, found)


def test_the_edge_of_the_mask_and_what_lies_outside_stay():
    image = noise()
    found = regions.stirred(image, half(), moves(y=True, down=5), MOVES)
    assert torch.equal(found[..., 32:], image[..., 32:])
    torch.testing.assert_close(found[..., 30:32], image[..., 30:32].clamp(-1, 1), rtol=0, atol=1e-6)
    changed = (found - image).abs().mean((0, 1))
    assert changed[:DEEP].min() > 0.12
    assert 0.01 < changed[29] < changed[28] < changed[27]


def test_grain_near_the_edge_of_the_mask_is_shown_nowhere_else():
    """Bright ground in a generous mask would be bright dots in the middle of the defect."""
    image = noise() * 0.1
    image[..., 31:] = 0.9
    for given in ({"across": -12}, {"across": 12, "x": True}):
        found = regions.stirred(image, half(), moves(**given), MOVES)[..., :DEEP]
        assert found.max() < 0.25


def test_no_edge_appears_where_grain_comes_from_beyond_the_border():
    kernel = torch.ones(1, 1, 7, 7) / 49
    smooth = F.conv2d(F.pad(noise()[None], 4 * [3], mode="reflect"), kernel)[0] * 5
    for given in ({"down": 9}, {"y": True, "down": 9}, {"across": 9}, {"x": True, "down": -7}):
        found = regions.stirred(smooth, torch.ones_like(half()), moves(**given), MOVES)
        for axis in (1, 2):
            steps, own = (x.diff(dim=axis).square().mean((0, 3 - axis)) for x in (found, smooth))
            assert steps.max() < 2 * own.max()


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("mask", [half(), torch.ones_like(half())])
def test_a_slope_in_the_light_stays(axis, mask):
    """Mirrored it would be dark where the light falls. Ground beside it does not shine in."""
    ramp = torch.linspace(-0.6, 0.6, SIDE).view((1, -1, 1) if axis == 1 else (1, 1, -1))
    image = torch.where(mask, ramp.expand(1, SIDE, SIDE), 1.0)
    for given in ({"y": True}, {"x": True}, {"down": 12}, {"across": 12}):
        found = regions.stirred(image, mask, moves(**given), MOVES)
        torch.testing.assert_close(found, image, rtol=0, atol=0.02)


def test_light_is_told_as_well_near_the_edge_of_the_mask():
    """Light that depends on the row alone has nothing to be mirrored left and right."""
    rows = torch.linspace(-1, 1, SIDE).square().view(1, -1, 1).expand(1, SIDE, SIDE)
    image = torch.where(half(), rows, 1.0)
    found = regions.stirred(image, half(), moves(x=True), MOVES)
    torch.testing.assert_close(found, image, rtol=0, atol=1e-3)


def test_a_shadow_stays_where_it_was():
    image = noise() * 0.2
    image -= torch.exp(-((torch.arange(SIDE) - 16) / 20).square()).view(1, SIDE, 1) * 0.6
    found = regions.stirred(image, half(), moves(y=True), MOVES)[..., :DEEP]
    assert found[:, :32].mean() < found[:, 32:].mean() - 0.25


def test_results_are_pictures():
    image = torch.where(noise() > 0, 1.0, -1.0) * 0.98
    found = regions.stirred(image, half(), moves(down=9), MOVES)
    assert found.abs().max() == 1.0


@pytest.mark.parametrize(("side", "channels"), [(8, 3), (16, 1), (32, 3), (128, 1)])
def test_any_side_and_colors(side, channels):
    image = torch.cat([noise(k, side) for k in range(channels)])
    mask = torch.zeros(1, side, side, dtype=torch.bool)
    mask[..., : 3 * side // 4, :] = True
    mask[..., side - 1, side - 1] = True  # a piece of one pixel
    found = regions.stirred(image, mask, moves(x=True), MOVES)
    assert found.shape == image.shape
    assert found.isfinite().all()
    assert torch.equal(found[:, ~mask[0]], image[:, ~mask[0]])
    assert not torch.equal(found, image)


# -- in samples --


def known(*masks, texture, image=None):
    found = KnownDefects(len(masks), 1, SIDE, texture=texture)
    image = noise() if image is None else image
    images = image[None].clamp(-1, 1).expand(len(masks), -1, -1, -1)
    found.set(torch.stack(masks), images, torch.zeros(1, 1, SIDE, SIDE))
    return found


def placed(defects, count=32, names="flip_x,flip_y,translate_int", pair=0, one=False):
    sources = [torch.Generator().manual_seed(k) for k in range(1 if one else count)]
    weights = torch.eye(len(defects.masks))[pair].expand(count, -1)
    scene = None
    return place_masks(
        defects, moves_from(names), weights, scene, sources, places=16, bend=BEND
    ), sources


def strip(share):
    mask = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    mask[..., : round(share * SIDE)] = True
    return mask


@pytest.mark.parametrize(("share", "region"), [(0.5, True), (0.25, True), (0.17, False)])
def test_grain_moves_in_regions_of_textures_alone(share, region):
    pairs = [placed(known(strip(share), texture=k), names="flip_y")[0] for k in (False, True)]
    whole, moved = pairs
    assert torch.equal(moved.masks, whole.masks)
    changed = (moved.examples - whole.examples).abs().mean((1, 2))
    others = changed[:, :8].amin(1) > 0.05
    if region:
        assert 0.25 < others.float().mean() < 0.75  # on a fair coin
    else:
        assert torch.equal(moved.examples, whole.examples)
    assert (changed[~others] < 1e-6).all()


def test_a_region_beside_a_small_defect_changes_only_itself():
    small = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    small[..., 20:30, 20:40] = True
    one, other = (placed(known(half(), small, texture=k), pair=1)[0] for k in (True, False))
    assert torch.equal(one.masks, other.masks)
    assert torch.equal(one.examples, other.examples)


def test_each_sample_has_the_bits_it_has_alone():
    defects = known(half(), texture=True)
    many = placed(defects, 6)[0]
    for k in range(6):
        source = torch.Generator().manual_seed(k)
        one = place_masks(defects, MOVES, torch.ones(1, 1), None, [source], places=16, bend=BEND)
        assert torch.equal(one.examples[0], many.examples[k])


def test_numbers_are_drawn_only_for_regions():
    """So that fits of all others, whose samples share a generator, stay what they were."""
    for share, same in ((0.17, True), (0.5, False)):
        after = [placed(known(strip(share), texture=k), one=True)[1][0] for k in (True, False)]
        assert torch.equal(*(torch.rand(4, generator=k) for k in after)) == same


def test_black_and_white_regions_keep_their_grain():
    image = torch.where(noise() > 0, 1.0, -1.0)
    one, other = (
        placed(known(half(), texture=k, image=image), names="flip_x")[0] for k in (True, False)
    )
    assert torch.equal(one.examples, other.examples)


def test_a_region_of_a_texture_may_leave_the_picture_further_than_others():
    own = float(half().float().mean())
    shares = {
        texture: placed(known(half(), texture=texture), 200, "translate_frac")[0]
        .masks.float()
        .mean((1, 2, 3))
        / own
        for texture in (True, False)
    }
    assert shares[False].min() >= KEPT - 0.02  # places are told by thumbnails
    assert 0.28 < shares[True].min() < 0.5
    maps = torch.eye(3).repeat(3, 1, 1)
    maps[:, 0, 2] = torch.tensor([4.0, 16.0, 26.0])
    moved = [
        moved_pairs(
            *(x.expand(3, 1, -1, -1) for x in (noise()[None], half()[None])),
            maps,
            torch.zeros(3, 2, 4, 4),
            texture=k,
        )[1]
        .float()
        .mean((1, 2, 3))
        / own
        for k in (False, True)
    ]
    torch.testing.assert_close(moved[0], torch.tensor([0.875, 1.0, 1.0]))
    torch.testing.assert_close(moved[1], torch.tensor([0.875, 0.5, 1.0]))


def test_a_region_that_mostly_left_the_picture_is_not_made_stronger():
    image = noise() * 0.1
    image[..., :20] += 0.1  # a difference that would be made stronger
    defects = known(strip(0.31), texture=True, image=image)
    found = placed(defects, 200, "translate_frac")[0]
    shares = found.masks.float().mean((1, 2, 3))
    level = found.examples.sum((1, 2, 3)) / found.masks.sum((1, 2, 3))
    few = shares < REGION
    assert few.sum() > 5
    assert level[few].mean() == pytest.approx(float(level[~few].mean()), abs=0.03)


def test_a_branch_knows_textures_by_the_grain_of_its_backbone():
    for fields in (0, 3):
        backbone = BackboneConfig(resolution=32, base_components=4, grain_fields=fields)
        branch = DefectBranch(backbone, DefectConfig(first_resolution=8, known=2))
        assert branch.known.texture == bool(fields)
