"""Defects that cover much of a texture."""

from __future__ import annotations

import pytest
import torch

from defectgen import regions
from defectgen.config import BackboneConfig, DefectConfig
from defectgen.moves import BEND, moves_from
from defectgen.networks.defect import DefectBranch
from defectgen.networks.known import KnownDefects
from defectgen.placement import KEPT, place_masks

SIDE = 64
MOVES = moves_from("flip_x,flip_y,translate_int")
#: Neither mirrored nor shifted; and the middle of the shifts.
STILL = torch.tensor([[0.9, 0.9, 0.5, 0.5]])


def half(count=1):
    """The left half of the picture: rows 0 to 63, columns 0 to 31."""
    masks = torch.zeros(count, 1, SIDE, SIDE, dtype=torch.bool)
    masks[..., : SIDE // 2] = True
    return masks


def noise(count=1, seed=0):
    return torch.randn(count, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) * 0.2


def moves(**given):
    """A row of numbers: ``down``, ``across`` pixels, mirrored about ``y``, ``x``."""
    row = STILL.clone()
    for k, name in enumerate("yx"):
        row[0, k] = 0.1 if given.get(name) else 0.9
    for k, name in ((2, "down"), (3, "across")):
        row[0, k] = 0.5 + given.get(name, 0) / (2 * regions.SHIFT * SIDE)
    return row


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
    images = torch.zeros(1, 1, SIDE, SIDE)
    images[0, 0, 40, 20] = 0.8
    found = regions.stirred(images, half(), moves(**given), MOVES)
    assert divmod(int(found.argmax()), SIDE) == (row, column)
    assert found.max() == pytest.approx(0.8, abs=0.02)
    assert (found > 0.1).sum() == 1


def test_what_the_policy_does_not_grant_moves_no_grain():
    images = noise()
    for names, row in (("flip_x", moves(y=True)), ("flip_y", moves(x=True))):
        alone = regions.stirred(images, half(), row, moves_from(names))
        torch.testing.assert_close(alone, images.clamp(-1, 1), rtol=0, atol=1e-6)
    shifted = regions.stirred(images, half(), moves(down=7), moves_from("flip_x,flip_y"))
    torch.testing.assert_close(shifted, images.clamp(-1, 1), rtol=0, atol=1e-6)


def test_the_edge_of_the_mask_and_what_lies_outside_stay():
    images = noise()
    found = regions.stirred(images, half(), moves(y=True, down=5), MOVES)
    assert torch.equal(found[..., 32:], images[..., 32:])
    torch.testing.assert_close(found[..., 31], images[..., 31].clamp(-1, 1), rtol=0, atol=1e-6)
    changed = (found - images).abs().mean((0, 1, 2))
    assert changed[:29].min() > 0.15  # deep inside everything is other grain
    assert 0 < changed[30] < changed[29] < changed[28]


def test_grain_comes_from_inside_the_mask_alone():
    images = noise()
    images[..., 32:] = 0.9  # bright ground
    found = regions.stirred(images, half(), moves(across=-12), MOVES)[..., :32]
    # What would come from the ground, or from beyond the border, stays: columns 20 to 31.
    torch.testing.assert_close(found[..., 20:], images[..., 20:32].clamp(-1, 1), rtol=0, atol=1e-6)
    assert found.max() < images[..., :32].max() + 0.2


def test_shading_stays_where_it_was():
    ramp = torch.linspace(-0.6, 0.6, SIDE).view(1, 1, SIDE, 1).expand(1, 1, SIDE, SIDE).clone()
    for row in (moves(down=9), moves(x=True)):
        found = regions.stirred(ramp + noise(), half(), row, MOVES)[..., 8:56, :24]
        down = found.mean((0, 1, 3))
        assert torch.corrcoef(torch.stack([down, ramp[0, 0, 8:56, 0]]))[0, 1] > 0.95
    flat = torch.full((1, 1, SIDE, SIDE), 0.3)
    found = regions.stirred(flat, half(), moves(y=True, down=9), MOVES)
    torch.testing.assert_close(found, flat, rtol=0, atol=1e-5)


def test_a_picture_does_not_depend_on_those_beside_it():
    images, masks = noise(3), half(3)
    masks[1] = half()[0].transpose(1, 2)
    even = torch.rand((3, 4), generator=torch.Generator().manual_seed(1))
    found = regions.stirred(images, masks, even, MOVES)
    for k in range(3):
        one = regions.stirred(images[k : k + 1], masks[k : k + 1], even[k : k + 1], MOVES)
        torch.testing.assert_close(found[k : k + 1], one, rtol=0, atol=1e-6)


def known(mask, *, texture, image=None):
    found = KnownDefects(1, 1, SIDE, texture=texture)
    image = noise() if image is None else image
    found.set(mask, image.clamp(-1, 1), torch.zeros(1, 1, SIDE, SIDE))
    return found


def placed(defects, count=32, names="flip_x,flip_y,translate_int"):
    sources = [torch.Generator().manual_seed(k) for k in range(count)]
    return place_masks(
        defects, moves_from(names), torch.ones(count, 1), None, sources, places=16, bend=BEND
    )


def test_grain_moves_in_regions_of_textures_alone():
    whole, moved = (placed(known(half(), texture=k), names="flip_y") for k in (False, True))
    assert torch.equal(moved.masks, whole.masks)
    changed = (moved.examples - whole.examples).abs().mean((1, 2))
    assert (changed[:, 31:] < 1e-6).all()  # the edge, and what is outside
    others = changed[:, :28].amin(1) > 0.05
    assert 0.25 < others.float().mean() < 0.75  # on a fair coin
    assert (changed[~others] < 1e-6).all()


def test_small_defects_are_the_same_of_textures_and_parts():
    mask = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    mask[..., 20:30, 20:40] = True
    one, other = (placed(known(mask, texture=texture)) for texture in (True, False))
    assert torch.equal(one.masks, other.masks)
    assert torch.equal(one.examples, other.examples)


def test_black_and_white_regions_stay_whole():
    image = (noise() > 0).float() * 2 - 1
    mask = half()
    mask[..., :3] = False  # cut by three borders of four
    one, other = (
        placed(known(mask, texture=k, image=image), names="flip_x") for k in (True, False)
    )
    assert torch.equal(one.examples, other.examples)


def test_a_region_of_a_texture_may_leave_the_picture_further_than_others():
    own = float(half().float().mean())
    shares = {
        texture: placed(known(half(), texture=texture), 64).masks.float().mean((1, 2, 3)) / own
        for texture in (True, False)
    }
    assert shares[False].min() >= KEPT - 1e-6
    assert regions.KEPT <= shares[True].min() < KEPT


def test_a_branch_knows_textures_by_the_grain_of_its_backbone():
    for fields in (0, 3):
        backbone = BackboneConfig(resolution=32, base_components=4, grain_fields=fields)
        branch = DefectBranch(backbone, DefectConfig(first_resolution=8, known=2))
        assert branch.known.texture == bool(fields)
