"""What a branch is told: planes of a mask, and the example in the exposure of its place."""

from __future__ import annotations

import pytest
import torch

from defectgen.networks.known import GAIN, REACH, KnownDefects, example_planes, mask_planes

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
    same, example = example_planes(image, masks, None, levels(0))
    assert same is image
    torch.testing.assert_close(example, image * masks)


def test_a_coarser_level_knows_means_only_and_nothing_from_outside():
    image, masks = torch.zeros(1, 1, SIDE, SIDE), square(10, 20)
    image[..., ::2] = 0.4  # stripes of one pixel: gone at level 1
    image[~masks] = 1e3
    _, example = example_planes(image, masks, None, levels(1))
    torch.testing.assert_close(example[masks], torch.full((100,), 0.2))
    assert not example[~masks].any()


def test_levels_are_those_of_each_sample():
    image, masks = torch.rand(2, 1, SIDE, SIDE), square(10, 20).expand(2, -1, -1, -1)
    _, example = example_planes(image, masks, None, levels(0, 1))
    _, alone = example_planes(image[1:], masks[1:], None, levels(1))
    torch.testing.assert_close(example[0], image[0] * masks[0])
    torch.testing.assert_close(example[1:], alone)


@pytest.mark.parametrize("factor", [0.7, 1.5, 9.0])
def test_the_exposure_is_that_of_the_place_within_bounds(factor):
    brightness = 0.2 + 0.1 * torch.rand(1, 1, SIDE, SIDE)  # of 0 to 2
    scene = brightness * factor - 1
    image = brightness - 1
    shown, example = example_planes(image, square(10, 20), scene, levels(0))
    applied = min(factor, GAIN)
    torch.testing.assert_close(shown, brightness * applied - 1)
    torch.testing.assert_close(example, shown * square(10, 20))


def test_a_mask_without_surroundings_keeps_its_exposure():
    image, masks = torch.rand(1, 1, SIDE, SIDE), square(0, SIDE)
    shown, _ = example_planes(image, masks, torch.ones_like(image), levels(0))
    torch.testing.assert_close(shown, image)


def test_known_pairs_are_saved_with_the_weights():
    known = KnownDefects(2, 1, SIDE)
    masks = torch.cat([square(2, 8), square(20, 30)])
    images = torch.rand(2, 1, SIDE, SIDE)
    known.set(masks, images, images * 0)
    other = KnownDefects(2, 1, SIDE)
    other.load_state_dict(known.state_dict())
    assert torch.equal(other.masks > 0, masks)
    assert torch.equal(other.images, images)
    assert not other.scenes.any()
