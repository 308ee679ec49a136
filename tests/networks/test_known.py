"""What a branch is told: planes of a mask, and the example in the exposure of its place."""

from __future__ import annotations

import pytest
import torch

from defectgen.networks import known as known_module
from defectgen.networks.known import (
    CONTRAST,
    GAIN,
    REACH,
    STRONGER,
    VISIBLE,
    KnownDefects,
    adapted,
    coarser,
    draw_contrast,
    exposure,
    mask_planes,
)

SIDE = 32


def square(low, high):
    masks = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    masks[:, :, low:high, low:high] = True
    return masks


def levels(*values):
    return torch.tensor(values)


def test_depth_is_the_distance_to_the_edge_in_cells():
    masks = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    masks[..., 16:] = True
    coverage, depth = mask_planes(masks, SIDE)[0]
    assert (coverage[:, 16:] == 1).all()
    assert (coverage[:, :16] == -1).all()
    row = depth[5] * REACH
    # 0 in the cells on both sides of the edge, then one more in each, up to the reach.
    expected = torch.tensor([0.0, 1, 2, 3, 4, 5, *[6.0] * 10])
    torch.testing.assert_close(row[16:], expected)
    torch.testing.assert_close(row, -row.flip(0))


def test_planes_of_a_coarser_resolution_keep_shares():
    coverage = mask_planes(square(8, 13), 8)[0, 0]
    assert coverage[2, 2] == 1  # pixels 8 to 11
    assert coverage[3, 2] == pytest.approx(2 * 0.25 - 1)  # of rows 12 to 15 one is covered
    assert coverage[0, 0] == -1


def test_the_finest_level_is_the_image_inside_the_mask():
    image, masks = torch.rand(1, 3, SIDE, SIDE) * 2 - 1, square(10, 20)
    torch.testing.assert_close(adapted(image, masks, None), image)
    torch.testing.assert_close(coarser(image, masks, levels(0)), image * masks)


def test_a_coarser_level_knows_means_only_and_nothing_from_outside():
    image, masks = torch.zeros(1, 1, SIDE, SIDE), square(10, 20)
    image[..., ::2] = 0.4  # stripes of one pixel: gone at level 1
    image[~masks] = 1e3
    example = coarser(image, masks, levels(1))
    torch.testing.assert_close(example[masks], torch.full((100,), 0.2))
    assert not example[~masks].any()


def test_levels_are_those_of_each_sample():
    image, masks = torch.rand(2, 1, SIDE, SIDE), square(10, 20).expand(2, -1, -1, -1)
    example = coarser(image, masks, levels(0, 1))
    alone = coarser(image[1:], masks[1:], levels(1))
    torch.testing.assert_close(example[0], image[0] * masks[0])
    torch.testing.assert_close(example[1:], alone)


@pytest.mark.parametrize("factor", [0.7, 1.5, 9.0])
def test_the_exposure_is_that_of_the_place_within_bounds(factor):
    brightness = 0.2 + 0.1 * torch.rand(1, 1, SIDE, SIDE)  # of 0 to 2
    scene = brightness * factor - 1
    image = brightness - 1
    shown = adapted(image, square(10, 20), scene)
    applied = min(factor, GAIN)
    torch.testing.assert_close(shown, brightness * applied - 1)


def test_a_mask_without_surroundings_keeps_its_exposure():
    image, masks = torch.rand(1, 1, SIDE, SIDE), square(0, SIDE)
    shown = adapted(image, masks, torch.ones_like(image), torch.tensor([CONTRAST]))
    torch.testing.assert_close(shown, image)
    empty = image[:0]
    assert adapted(empty, masks[:0], empty, torch.ones(0)).shape == empty.shape


def test_known_pairs_are_saved_with_the_weights():
    known = KnownDefects(2, 1, SIDE)
    masks = torch.cat([square(2, 8), square(20, 30)])
    images = torch.randint(256, (2, 1, SIDE, SIDE)) / 127.5 - 1
    known.set(masks, images, images * 0)
    other = KnownDefects(2, 1, SIDE)
    other.load_state_dict(known.state_dict())
    assert torch.equal(other.masks > 0, masks)
    assert torch.equal(other.pairs(torch.arange(2))[0], images)
    assert other.images.dtype == other.masks.dtype == torch.uint8
    assert not other.scenes.any()
    # As another device might round them: the same pairs; one level brighter: others.
    assert other.holds(masks, images + 1e-6)
    assert not other.holds(masks, images + 1 / 127.5)
    assert not other.holds(~masks, images)
    assert not other.holds(masks[:1], images[:1])


def test_what_lies_outside_does_not_shine_into_cut_cells():
    """A mask that covers cells by half, or a quarter: a constant defect stays constant."""
    masks = square(11, 20)
    image = torch.where(masks, 0.3, -1e3)
    example = coarser(image, masks, levels(1))
    torch.testing.assert_close(example[masks], torch.full((81,), 0.3), rtol=0, atol=1e-3)


def test_the_coarser_level_is_smooth_and_keeps_the_brightness():
    masks = square(8, 24)
    image = torch.rand(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    example = coarser(image, masks, levels(1))
    inside, grain = example[..., 8:24, 8:24], image[..., 8:24, 8:24]
    steps = [(part[..., 1:] - part[..., :-1]).abs().mean() for part in (inside, grain)]
    assert steps[0] < 0.5 * steps[1]
    assert float(inside.mean()) == pytest.approx(float(grain.mean()), abs=0.02)


def test_exposure_is_never_darkened_beyond_the_bound():
    brightness = torch.full((1, 3, SIDE, SIDE), 1.0)
    shown = adapted(brightness - 1, square(10, 20), brightness * 0.1 - 1)
    torch.testing.assert_close(shown, brightness / GAIN - 1)


def test_only_the_ring_around_the_mask_tells_the_exposure():
    """What lies under the mask, or far away, may be as bright as it likes."""
    image, masks = torch.full((1, 1, SIDE, SIDE), -0.5), square(12, 18)
    scene = torch.full_like(image, -0.25)  # 0.75 instead of 0.5
    scene[..., 12:18, 12:18] = 1.0
    scene[..., :8] = scene[..., 22:] = 1.0
    shown = adapted(image, masks, scene)
    torch.testing.assert_close(shown, torch.full_like(image, 0.5 * 1.5 - 1))


def test_a_part_that_lies_a_little_elsewhere_is_not_in_another_exposure():
    """A ring across the edge of a dark part: what of it is bright here was dark there."""
    image, scene = torch.full((1, 1, SIDE, SIDE), 0.9), torch.full((1, 1, SIDE, SIDE), 0.9)
    image[..., :16], scene[..., :14] = -0.6, -0.6
    shown = adapted(image, square(10, 20), scene)
    torch.testing.assert_close(shown, image)


def test_the_exposure_is_that_of_the_part_where_most_of_a_ring_is_black():
    """A bright bar of 4 pixels across the mask, on black that holds nothing but noise."""
    image = torch.rand(1, 1, SIDE, SIDE) * 0.03 - 1
    scene = torch.rand(1, 1, SIDE, SIDE) * 0.03 - 1
    image[..., 13:17, :], scene[..., 13:17, :] = -0.2, 0.8 * 1.4 - 1.0
    shown = adapted(image, square(10, 20), scene)
    torch.testing.assert_close(shown + 1, (image + 1) * 1.4)


@pytest.mark.parametrize("contrast", [CONTRAST, 1 / CONTRAST])
def test_contrast_is_about_what_is_there_without_the_defect(contrast, monkeypatch):
    """Half of the mask lies on a dark part, half beside it: what shows no defect stays."""
    scene = torch.full((1, 1, SIDE, SIDE), 0.5)
    scene[..., :15] = -0.5
    image = scene.clone()
    image[..., 11, 11] = -0.3  # the defect
    monkeypatch.setattr(known_module, "VISIBLE", 0.0)
    shown = adapted(image, square(10, 20), scene, torch.tensor([contrast]))
    flat = [*range(13), *range(17, SIDE)]  # the mean across the edge is another
    expected = image.clone()
    expected[..., 11, 11] = -0.5 + 0.2 * contrast
    torch.testing.assert_close(shown[..., flat], expected[..., flat])


def test_depth_goes_on_where_the_picture_ends():
    """A defect cut by the border is deep there: its edge is not in the picture."""
    masks = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    masks[..., :10] = True
    depth = mask_planes(masks, SIDE)[0, 1] * REACH
    torch.testing.assert_close(depth[:, 0], torch.full((SIDE,), float(REACH)))
    assert (depth[:, 9] == 0).all()


def test_contrast_is_about_the_surroundings_and_of_each_sample():
    """A defect of 0.5 on 0.1: at 1.5 times the contrast it is 0.7, and what is beside it stays."""
    masks = square(10, 20).expand(2, -1, -1, -1)
    image = torch.where(masks, 0.5, 0.1)
    shown = adapted(image, masks, None, torch.tensor([1.5, 0.5]))
    torch.testing.assert_close(shown[0], torch.where(masks[0], 0.7, 0.1))
    torch.testing.assert_close(shown[1], torch.where(masks[1], 0.3, 0.1))
    # After the exposure: both together keep the surroundings those of the place.
    both = adapted(image, masks, torch.full_like(image, -0.12), torch.tensor([1.5, 1.5]))
    torch.testing.assert_close(both[:, :, 0, 0], torch.full((2, 1), -0.12))
    torch.testing.assert_close(both[:, :, 15, 15], torch.full((2, 1), -0.12 + 1.5 * 0.4 * 0.8))


@pytest.mark.parametrize("change", [0.05, 0.09, 0.12, 0.5])
@pytest.mark.parametrize("contrast", [CONTRAST, 1 / CONTRAST])
def test_what_can_hardly_be_seen_is_shown_stronger(change, contrast):
    masks = square(10, 20)
    image = torch.where(masks, change, 0.0)
    shown = adapted(image, masks, None, torch.tensor([contrast]))
    factor = max(contrast, min(VISIBLE / change, STRONGER))
    torch.testing.assert_close(shown, image * factor)


@pytest.mark.parametrize(("edge", "stronger"), [(14, True), (15, False)])
def test_a_region_is_seen_however_faint_it_is(edge, stronger):
    """0.19 and 0.22 of the picture."""
    masks = square(0, edge)
    image = torch.where(masks, 0.08, 0.0)
    shown = adapted(image, masks, None, torch.tensor([1.0]))
    torch.testing.assert_close(shown, image * (VISIBLE / 0.08 if stronger else 1.0))


def test_contrast_stays_in_range_and_is_even_in_its_logarithm():
    image = torch.where(square(10, 20), 0.9, -0.5)
    assert float(adapted(image, square(10, 20), None, torch.tensor([1.5])).max()) == 1.0
    drawn = (
        draw_contrast(4000, torch.Generator().manual_seed(0)).log() / torch.tensor(CONTRAST).log()
    )
    assert float(drawn.abs().max()) <= 1
    assert float(drawn.mean()) == pytest.approx(0, abs=0.05)
    assert float(drawn.std()) == pytest.approx(3**-0.5, abs=0.02)  # of a uniform one on -1 to 1


def test_what_can_hardly_be_seen_is_told_of_each_sample_in_the_light_of_its_place():
    masks = torch.cat([square(10, 20), square(4, 24)])
    scene = torch.full((2, 3, SIDE, SIDE), -0.2)
    image = torch.where(masks, torch.tensor([0.12, 0.6]).view(2, 1, 1, 1), 0.0).repeat(1, 3, 1, 1)
    contrast = torch.tensor([1.0, 1.0])
    shown = adapted(image, masks, scene, contrast)
    for k in range(2):
        alone = adapted(image[k : k + 1], masks[k : k + 1], scene[k : k + 1], contrast[k : k + 1])
        torch.testing.assert_close(shown[k : k + 1], alone)
    # 0.12 in the light of the place is 0.096, which can hardly be seen; the strong one stays.
    assert float(shown[0, 0, 15, 15]) == pytest.approx(-0.2 + VISIBLE, abs=1e-4)
    assert float(shown[1, 0, 15, 15]) == pytest.approx(-0.2 + 0.6 * 0.8, abs=1e-4)


def test_the_exposure_is_the_weighted_median_of_what_counts():
    """One factor after the other, until half of the weight is reached."""
    here, there = torch.rand(9, 3, 6, 6) * 2 - 1, torch.rand(9, 3, 6, 6) * 2 - 1
    where = (torch.rand(9, 1, 6, 6) < torch.linspace(0.1, 1.0, 9).view(-1, 1, 1, 1)).float()
    where[:, :, 2, 3] = 1.0  # something counts, in some only this
    where[0], where[0, :, 2, 3] = 0.0, 1.0
    wanted = []
    for one, other, counts in zip(here.double(), there.double(), where, strict=True):
        bright = [(some + 1).mean(0)[counts[0] > 0].clamp_min(0.02) for some in (one, other)]
        pairs = sorted(
            (a / b, min(a, b)) for a, b in zip(*map(torch.Tensor.tolist, bright), strict=True)
        )
        weights = [weight for _, weight in pairs]
        reached = next(k for k in range(len(pairs)) if sum(weights[: k + 1]) >= sum(weights) / 2)
        wanted.append(pairs[reached][0])
    torch.testing.assert_close(exposure(here, there, where), torch.tensor(wanted))
    nothing = exposure(here, there, where * 0)
    assert nothing.isfinite().all()
    assert exposure(here[:0], there[:0], where[:0]).shape == (0,)


# -- black and white photos --


def binary(count=3, channels=1, side=SIDE):
    source = torch.Generator().manual_seed(0)
    cells = torch.rand(count, channels, 8, 8, generator=source).round() * 2 - 1
    return torch.nn.functional.interpolate(cells, size=side)


def remembered(images, masks):
    found = KnownDefects(len(images), images.shape[1], images.shape[-1])
    found.set(masks, images, images)
    return found


@pytest.mark.parametrize("side", [SIDE, 256])
def test_black_and_white_photos_are_told_from_all_others(side):
    masks = torch.zeros(3, 1, side, side, dtype=torch.bool)
    masks[..., : side // 4, : side // 4] = True
    images = binary(side=side)
    assert remembered(images, masks).levels == (-1, 1)
    soft = remembered(images * 0.92, masks).levels  # as a camera or JPEG leaves them
    assert soft == pytest.approx((-0.92, 0.92), abs=1 / 127)
    assert remembered(images * 0.8, masks).levels is None
    # Black and white defects on gray ground.
    assert remembered(torch.where(masks, images, 0.3 * images), masks).levels is None
    colors = binary(channels=3, side=side)
    assert remembered(colors, masks).levels == (-1, 1)
    assert remembered(colors * 0.85, masks).levels is None


@pytest.mark.parametrize(("ground", "defect"), [(-1.0, -0.3), (1.0, 0.5), (-1.0, 1.0)])
def test_ground_of_one_level_alone_tells_nothing(ground, defect):
    """A gray speck in a generous mask is a few pixels, which black or white would erase."""
    image, masks = torch.full((1, 1, SIDE, SIDE), ground), square(4, 26)
    image[..., 10:14, 10:15] = defect
    known = remembered(image, masks)
    assert (known.levels is None) == (abs(defect) < 1)
    assert bool((known.shown(image, masks, None) != ground).any())
    assert remembered(torch.full_like(image, ground), masks).levels is None
    # Other things that are black and white do not make a gray defect so.
    image[..., 28:, :] = -ground
    assert (remembered(image, masks).levels is None) == (abs(defect) < 1)


def test_few_small_defects_decide_too():
    """However small and wherever they lie: every pixel of a mask counts."""
    images = binary(side=512)
    masks = torch.zeros(3, 1, 512, 512, dtype=torch.bool)
    edge = int((images[0, 0, 5].diff() != 0).nonzero()[0])
    masks[..., 5:8, edge : edge + 3] = True
    images[1:] = images[:1]
    assert remembered(images, masks).levels == (-1, 1)
    assert remembered(torch.where(masks, 0.2 * images, images), masks).levels is None


def test_levels_are_those_of_what_is_remembered_now():
    masks = square(8, 24).expand(3, -1, -1, -1)
    known = remembered(binary(), masks)
    assert known.levels == (-1, 1)
    gray = remembered(0.5 * binary(), masks)
    assert gray.levels is None
    known.load_state_dict(gray.state_dict())
    assert known.levels is None
    known.set(masks, binary(), binary())
    assert known.levels == (-1, 1)


def test_no_defect_on_black_and_white_photos_is_gray():
    """Its levels are those of the photos: others would show its mask."""
    masks = square(8, 24).expand(3, -1, -1, -1)
    known = remembered(0.92 * binary(), masks)
    moved = torch.nn.functional.avg_pool2d(known.pairs(torch.arange(3))[0], 3, 1, 1)
    moved[0, 0, 12, 12] = 0.0
    assert (moved.abs() < 0.8).any()
    shown = known.shown(moved, masks, torch.zeros_like(moved), torch.tensor([0.7, 1.0, 1.5]))
    assert sorted(shown.unique().tolist()) == pytest.approx([-0.92, 0.92], abs=1 / 127)
    clear = moved.abs() > 0.01
    assert ((shown > 0) == (moved > 0))[clear].all()


def test_others_are_adapted_to_their_place():
    source = torch.Generator().manual_seed(1)
    images, scenes = torch.rand(2, 3, 2, SIDE, SIDE, generator=source) * 1.6 - 0.8
    masks, contrast = square(10, 20).expand(3, -1, -1, -1), torch.tensor([0.7, 1.0, 1.5])
    known = remembered(images, masks)
    expected = adapted(images, masks, scenes, contrast)
    assert torch.equal(known.shown(images, masks, scenes, contrast), expected)
    assert not torch.equal(expected, images)


def test_what_a_backbone_has_learned_is_asked_again_for_other_pairs():
    known = KnownDefects(1, 1, SIDE)
    for change in (
        lambda: known.set(known.masks > 0, known.images.float(), known.scenes),
        lambda: known.load_state_dict(known.state_dict()),
    ):
        known.learned = True
        change()
        assert known.learned is None


def test_a_region_that_moved_is_no_more_visible_for_having_become_small():
    image = torch.full((2, 1, SIDE, SIDE), 0.05)
    masks = torch.zeros(2, 1, SIDE, SIDE, dtype=torch.bool)
    masks[..., : SIDE // 2, : SIDE // 4] = True
    found = adapted(
        torch.where(masks, image, 0.0), masks, torch.zeros_like(image), torch.ones(2),
        torch.tensor([True, False]),
    )  # fmt: skip
    assert found[0][masks[0]].mean() == pytest.approx(0.05, abs=1e-3)
    assert found[1][masks[1]].mean() == pytest.approx(0.1, abs=1e-3)
