"""Where a defect goes."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from defectgen import placement
from defectgen.augment.warp import within
from defectgen.moves import BEND, draw_fields, moves_from
from defectgen.networks.known import KnownDefects
from defectgen.pieces import some_pieces
from defectgen.placement import moved_pairs

SIDE = 64
place_masks = partial(placement.place_masks, bend=BEND)
EVERYTHING = moves_from("flip_x,flip_y,translate_int,scale,rotate,anisotropic,translate_frac")


def sources(count, first=0):
    return [torch.Generator().manual_seed(first + k) for k in range(count)]


def still(count):
    return torch.eye(3).repeat(count, 1, 1), torch.zeros(count, 2, 4, 4)


@pytest.fixture
def known():
    """A square at the top left of a dark half, and a wide bar at the bottom of the bright one."""
    found = KnownDefects(2, 1, SIDE)
    masks = torch.zeros(2, 1, SIDE, SIDE, dtype=torch.bool)
    masks[0, :, 8:18, 8:18] = True
    masks[1, :, 40:46, 36:60] = True
    scene = torch.full((2, 1, SIDE, SIDE), -0.8)
    scene[..., SIDE // 2 :] = 0.8
    found.set(masks, torch.where(masks, 0.0, scene), scene)
    return found


def one_hot(pair, count):
    return torch.eye(2)[pair].expand(count, 2)


def test_no_moves_and_no_bending_change_nothing(known):
    before, shapes = known.pairs(torch.arange(2))
    images, masks = moved_pairs(before, shapes, *still(2))
    torch.testing.assert_close(images, before, rtol=0, atol=1e-5)
    assert torch.equal(masks, known.masks > 0)


def test_image_and_mask_move_together():
    masks = torch.zeros(200, 1, SIDE, SIDE, dtype=torch.bool)
    masks[:, :, 24:40, 20:36] = True
    images = masks.float() * 2 - 1
    draw = torch.Generator().manual_seed(0)
    from defectgen.augment.geometry import draw_matrices

    maps = draw_matrices(EVERYTHING, 200, SIDE, p=1.0, generator=draw)
    moved, there = moved_pairs(images, masks, maps, draw_fields(200, SIDE, 0.02, draw))
    inside = (moved > 0) & there
    both = (moved > 0) | there
    iou = inside.sum((1, 2, 3)) / both.sum((1, 2, 3))
    assert iou.median() > 0.9
    assert there.any((1, 2, 3)).all()
    assert not torch.equal(there, masks)


def test_a_mask_that_would_leave_the_picture_stays():
    masks = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    masks[..., :10, :10] = True
    maps, fields = still(1)
    maps[0, 0, 2] = 30.0  # the picture moves 30 px to the left
    images, moved = moved_pairs(masks.float(), masks, maps, fields)
    assert torch.equal(moved, masks)
    assert torch.equal(images, masks.float())


def test_a_defect_does_not_go_on_mirrored_beyond_the_border():
    masks = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    masks[..., 10:30] = True
    maps, fields = still(1)
    maps[0, 0, 2] = -20.0  # to the right: columns 0 to 19 come from outside
    _, moved = moved_pairs(masks.float(), masks, maps, fields)
    assert moved[..., 30:50].all()
    assert not moved[..., :30].any()
    assert torch.equal(within(maps, SIDE)[0, 0, 0], torch.arange(SIDE) >= 20)


def test_the_gap_that_a_small_move_leaves_at_the_border_is_filled():
    masks = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    masks[..., :30, 28:34] = True  # from the upper border
    images, shapes = masks.float() * 2 - 1, masks.float()
    maps, fields = still(1)
    maps[0, 1, 2] = -5.0  # downwards
    moved, there = moved_pairs(images, shapes, maps, fields)
    assert there[..., :35, 28:34].all()
    assert (moved[there] > 0.9).float().mean() > 0.9
    assert torch.equal(shapes, masks.float())  # what was given is as it was
    maps[0, 1, 2] = -20.0
    assert not moved_pairs(images, shapes, maps, fields)[1][..., :13, :].any()


@pytest.mark.parametrize("moves", [EVERYTHING, moves_from("flip_x,flip_y,translate_int,scale")])
def test_what_the_border_cuts_stays_at_a_border(known, moves):
    """A line from the upper border, one from side to side, and a spot that nothing cuts."""
    masks = torch.zeros_like(known.masks)
    masks[0, :, :24, 30:34] = 1
    masks[1, :, 30:34] = 1
    scene, _ = known.pairs(torch.arange(2))
    known.set(masks > 0, scene, scene)
    near = round(0.06 * SIDE)  # bent by as much
    line = place_masks(known, moves, one_hot(0, 100), None, sources(100), 64).masks
    frame = torch.ones(SIDE, SIDE, dtype=torch.bool)
    frame[near:-near, near:-near] = False
    assert (line & frame).any((1, 2, 3)).all()
    assert len(torch.unique(line.flatten(1), dim=0)) > 50
    across = place_masks(
        known,
        moves_from("flip_x,flip_y,translate_int,scale"),
        one_hot(1, 100),
        None,
        sources(100),
        64,
    ).masks
    assert across[..., :near].any((1, 2, 3)).all()
    assert across[..., -near:].any((1, 2, 3)).all()

    masks[0] = 0
    masks[0, :, 20:24, 30:34] = 1
    known.set(masks > 0, scene, scene)
    spot = place_masks(known, moves, one_hot(0, 100), None, sources(100), 64).masks
    assert not (spot & frame).any((1, 2, 3)).all()


def test_one_stroke_beside_the_part_is_not_outweighed_by_many_on_it():
    """Of two places the one with a little difference all over, not that with much in one corner."""
    known = KnownDefects(1, 1, SIDE)
    masks = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    masks[..., 16:48, 16:24] = True
    flat = torch.zeros(1, 1, SIDE, SIDE)
    known.set(masks, flat, flat)
    there = torch.zeros(60, 1, SIDE, SIDE)
    there[..., 12:24, : SIDE // 2] = 0.5  # three of ten rows of cells: 0.15 in the mean
    there[..., SIDE // 2 :] = 0.2
    placed = place_masks(known, moves_from("flip_x"), torch.ones(60, 1), there, sources(60))
    assert placed.masks[..., SIDE // 2 :].any((1, 2, 3)).float().mean() > 0.9


def test_placed_masks_have_the_shape_of_their_pair_and_are_never_empty(known):
    for pair, area in ((0, 100), (1, 144)):
        placed = place_masks(known, EVERYTHING, one_hot(pair, 64), None, sources(64))
        areas = placed.masks.float().sum((1, 2, 3))
        assert areas.min() > 0
        assert float(areas.median()) == pytest.approx(area, rel=0.25)
        assert not placed.examples[~placed.masks].any()


@pytest.mark.parametrize("places", [16, 64, 256])
def test_a_sample_depends_on_its_own_generator_only(known, places):
    masks = known.masks > 0
    masks[0, :, 40:50, 8:20] = True  # a second piece
    masks[1, :, :12, 50:56] = True  # one that the border cuts
    images, _ = known.pairs(torch.arange(2))
    known.set(masks, torch.where(masks, 0.3, images), images)
    weights = torch.full((6, 2), 0.5)
    scenes = torch.rand(6, 1, SIDE, SIDE)
    whole = place_masks(known, EVERYTHING, weights, scenes, sources(6), places)
    alone = place_masks(known, EVERYTHING, weights[4:5], scenes[4:5], sources(1, 4), places)
    assert torch.equal(whole.masks[4:5], alone.masks)
    torch.testing.assert_close(whole.examples[4:5], alone.examples)
    again = place_masks(known, EVERYTHING, weights, scenes, sources(6), places)
    assert torch.equal(whole.masks, again.masks)


def test_places_look_like_the_own_place(known):
    """The square was on the dark half: on mirrored scenes it goes to the other side."""
    dark_right = torch.full((100, 1, SIDE, SIDE), 0.8)
    dark_right[..., SIDE // 2 :] = -0.8
    placed = place_masks(known, EVERYTHING, one_hot(0, 100), dark_right, sources(100))
    blind = place_masks(known, EVERYTHING, one_hot(0, 100), None, sources(100))

    def on_dark(masks):
        return float(masks[..., SIDE // 2 :].sum() / masks.sum())

    assert on_dark(placed.masks) > 0.85
    assert on_dark(blind.masks) < 0.7


def test_without_moves_masks_only_bend(known):
    placed = place_masks(known, moves_from(""), one_hot(1, 30), None, sources(30))
    both = (placed.masks & (known.masks[1:2] > 0)).sum((1, 2, 3))
    assert (both > 0.4 * 144).all()


def ring_and_spot():
    """A bright ring with a dark middle; a spot on the ring, and one in the middle of it all."""
    row, column = torch.meshgrid(2 * [torch.arange(SIDE) - (SIDE - 1) / 2], indexing="ij")
    radius = (row.square() + column.square()).sqrt()
    scene = torch.where((radius > 16) & (radius < 28), 0.8, -0.8).view(1, 1, SIDE, SIDE)
    masks = torch.zeros(2, 1, SIDE, SIDE, dtype=torch.bool)
    masks[0, :, 28:36, 6:14] = True
    masks[1, 0] = radius < 8
    known = KnownDefects(2, 1, SIDE)
    scenes = scene.repeat(2, 1, 1, 1)
    known.set(masks, torch.where(masks, 0.0, scenes), scenes)
    return known, scene


def test_a_defect_goes_around_the_middle_of_a_round_part():
    """The spot turns up on all sides, on the ring, and seldom where it was."""
    known, scene = ring_and_spot()
    moves = moves_from("translate_int,scale,rotate,translate_frac")
    scenes = scene.expand(100, -1, -1, -1)
    placed = place_masks(known, moves, one_hot(0, 100), scenes, sources(100)).masks
    on_ring = (placed & (scene > 0)).sum((1, 2, 3)) / placed.sum((1, 2, 3))
    assert float(on_ring.quantile(0.1)) > 0.8
    sides = [placed[..., :14, :], placed[..., -14:, :], placed[..., :14], placed[..., -14:]]
    assert min(float(side.any(3).any(2).float().mean()) for side in sides) > 0.05
    own = (placed & (known.masks[:1] > 0)).sum((1, 2, 3)) > 0.5 * 64
    assert own.float().mean() < 0.1


def test_defects_that_fit_nowhere_else_appear_as_often_as_their_weights_say():
    known, scene = ring_and_spot()
    moves = moves_from("translate_int,rotate,translate_frac")
    weights = torch.tensor([[0.25, 0.75]]).expand(200, 2)
    placed = place_masks(known, moves, weights, scene.expand(200, -1, -1, -1), sources(200)).masks
    central = placed[:, 0, 30:34, 30:34].flatten(1).any(1).float().mean()
    assert float(central) == pytest.approx(0.75, abs=0.1)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_another_pair_that_fits_better_does_not_take_the_place_of_the_one_drawn(share):
    """What surrounded the first pair looks a little different here; the second fits anywhere."""
    known = KnownDefects(2, 1, SIDE)
    masks = torch.zeros(2, 1, SIDE, SIDE, dtype=torch.bool)
    masks[0, :, 8:14, 8:14] = True
    masks[1, :, 30:50, 30:50] = True
    own = torch.full((2, 1, SIDE, SIDE), -0.5)
    own[..., :8] = 0.8  # for a contrast
    scenes = own[1:].expand(200, -1, -1, -1)
    own[0] += 0.1  # a quarter of the contrast
    known.set(masks, torch.where(masks, 0.0, own), own)
    weights = torch.tensor([[share, 1 - share]]).expand(200, 2)
    moves = moves_from("translate_int,translate_frac")
    placed = place_masks(known, moves, weights, scenes, sources(200)).masks
    small = placed.sum((1, 2, 3)) < 100
    assert float(small.float().mean()) == pytest.approx(share, abs=0.1)
    own[0] += 0.6  # nowhere anything like it: then the other one, all the same
    known.set(masks, torch.where(masks, 0.0, own), own)
    placed = place_masks(known, moves, weights, scenes, sources(200)).masks
    assert (placed.sum((1, 2, 3)) > 100).all()


def test_flips_only_leave_half_as_they_are_where_scenes_are_unknown(known):
    moves = moves_from("flip_x")
    placed = place_masks(known, moves, one_hot(0, 100), None, sources(100)).masks
    left = placed[..., : SIDE // 2].any(3).any(2).float().mean()
    assert 0.3 < float(left) < 0.8


@pytest.mark.parametrize("dark", [-0.8, -0.1])  # beyond what an exposure is adapted by, and within
def test_where_a_flip_fits_nowhere_a_defect_stays(known, dark):
    scene = torch.full((2, 1, SIDE, SIDE), dark)
    scene[..., SIDE // 2 :] = 0.8
    known.set(known.masks > 0, torch.where(known.masks > 0, 0.0, scene), scene)
    scenes = known.pairs(torch.tensor([0]))[0].expand(40, -1, -1, -1)
    placed = place_masks(known, moves_from("flip_x"), one_hot(0, 40), scenes, sources(40)).masks
    assert not placed[..., SIDE // 2 :].any()


def test_where_no_place_is_like_the_own_a_defect_stays_near_it(known):
    """A scene with one dark spot, as large as the square's surroundings: nothing else fits."""
    masks = torch.zeros_like(known.masks)
    masks[:, :, 28:36, 28:36] = 1
    scene = torch.full((2, 1, SIDE, SIDE), 0.8)
    scene[..., 20:44, 20:44] = -0.8
    known.set(masks > 0, torch.where(masks > 0, 0.0, scene), scene)
    scenes = scene[:1].expand(40, -1, -1, -1)
    moves = moves_from("translate_frac")
    placed = place_masks(known, moves, one_hot(0, 40), scenes, sources(40), bend=0.0).masks
    assert placed[..., 20:44, 20:44].sum() > 0.95 * placed.sum()
    own = placed == (masks[:1] > 0)
    assert own.flatten(1).all(1).float().mean() < 0.5  # most are a little away from it
    assert len(torch.unique(placed.flatten(1), dim=0)) > 15


@pytest.mark.parametrize("places", [1, 2, 8])
def test_where_all_moves_lose_the_defect_it_stays(known, places):
    """A frame along the border: smaller, it would leave the border; larger, the picture."""
    masks = torch.zeros_like(known.masks)
    masks[0, :, 2:-2, 2:-2] = 1
    masks[0, :, 3:-3, 3:-3] = 0
    masks[0, :, :, ::9] = 1
    scene, _ = known.pairs(torch.arange(2))
    known.set(masks > 0, scene, scene)
    placed = place_masks(known, moves_from("scale"), one_hot(0, 60), None, sources(60), places)
    columns = placed.masks.any(2)[:, 0]
    assert columns[:, :9].any(1).all()
    assert columns[:, -9:].any(1).all()


@pytest.mark.parametrize(("width", "alone"), [(16, "upper"), (44, "lower")])
def test_pieces_of_a_defect_appear_together_and_alone(known, width, alone):
    """A stroke with two specks beside it, and a second stroke: alone is the larger one only."""
    masks = torch.zeros_like(known.masks)
    masks[:, :, 8:16, 8:40] = 1
    masks[:, :, 17, 41] = masks[:, :, 18, 44] = 1
    masks[:, :, 40:48, 8 : 8 + width] = 1
    scene, _ = known.pairs(torch.arange(2))
    known.set(masks > 0, scene, scene)
    found = place_masks(known, moves_from(""), one_hot(0, 800), None, sources(800), 8).masks
    upper, lower = found[..., :28, :].any((1, 2, 3)), found[..., 28:, :].any((1, 2, 3))
    speck = found[..., :28, 38:].any((1, 2, 3))
    shares = [float(x.float().mean()) for x in (upper & lower, upper & ~lower, lower & ~upper)]
    expected = [0.75, 0.25, 0.0] if alone == "upper" else [0.75, 0.0, 0.25]
    assert shares == pytest.approx(expected, abs=0.05)
    assert not (speck & ~upper).any()
    assert (speck & upper).sum() > 0.9 * upper.sum()


def test_an_end_at_the_border_that_is_left_out_binds_nothing(known):
    masks = torch.zeros_like(known.masks)
    masks[0, :, 24:40, 24:40] = 1
    masks[0, :, :6, 30:34] = 1
    scene, _ = known.pairs(torch.arange(2))
    known.set(masks > 0, scene, scene)
    moves = moves_from("translate_frac")
    found = place_masks(known, moves, one_hot(0, 200), None, sources(200), 64).masks
    cut = found[..., :6, :].any((1, 2, 3))
    assert 0.4 < float(cut.float().mean()) < 0.8
    rows = torch.arange(SIDE).view(-1, 1)
    heights = [(mask * rows).sum() / mask.sum() for mask in found[~cut]]
    assert torch.stack(heights).std() > 3  # alone, the square goes anywhere


def test_pieces_of_masks_are_drawn_for_learning_too():
    masks = torch.zeros(400, 1, SIDE, SIDE, dtype=torch.bool)
    masks[..., 8:24, 8:24] = masks[..., 40:56, 40:56] = True
    found = some_pieces(masks, torch.Generator().manual_seed(0))
    assert not (found & ~masks).any()
    areas = found.sum((1, 2, 3))
    assert set(areas.tolist()) == {256, 512}  # two of one size: each may stand alone
    assert float((areas == 256).float().mean()) == pytest.approx(0.5, abs=0.07)
    assert not some_pieces(masks & False, torch.Generator().manual_seed(0)).any()


def test_a_bend_moves_no_mask_as_a_whole():
    masks = torch.zeros(60, 1, SIDE, SIDE, dtype=torch.bool)
    masks[..., 12:28, 34:52] = True
    maps, _ = still(60)
    maps[30:, 0, 2], maps[30:, 1, 2] = 4.0, -7.0  # left by 4, down by 7
    fields = draw_fields(60, SIDE, 0.05, torch.Generator().manual_seed(0))
    _, there = moved_pairs(masks.float(), masks, maps, fields)
    row, column = torch.meshgrid(2 * [torch.arange(float(SIDE))], indexing="ij")
    count = there.sum((1, 2, 3))
    middle = torch.stack([(there[:, 0] * axis).sum((1, 2)) / count for axis in (row, column)], 1)
    wanted = torch.tensor([[19.5, 42.5]] * 30 + [[26.5, 38.5]] * 30)
    assert (middle - wanted).norm(dim=1).median() < 0.6  # spread of the shifts: 3.2 px an axis
    assert len(torch.unique(there.flatten(1), dim=0)) > 45


@pytest.mark.parametrize(("edge", "bent"), [(28, True), (29, False)])
def test_a_region_is_moved_and_not_bent(edge, bent):
    """0.19 and 0.21 of the picture."""
    masks = torch.zeros(8, 1, SIDE, SIDE, dtype=torch.bool)
    masks[:, :, 12 : 12 + edge, 12 : 12 + edge] = True
    maps = torch.eye(3).repeat(8, 1, 1)
    maps[:, 0, 2] = 3.0
    fields = draw_fields(8, SIDE, 0.04, torch.Generator().manual_seed(0))
    _, found = moved_pairs(masks.float() * 2 - 1, masks, maps, fields)
    _, straight = moved_pairs(masks.float() * 2 - 1, masks, maps, torch.zeros_like(fields))
    assert not torch.equal(straight, masks)
    assert torch.equal(found, straight) is not bent


def test_a_bend_of_what_leaves_the_picture_changes_nothing():
    masks = torch.zeros(40, 1, SIDE, SIDE, dtype=torch.bool)
    masks[..., 4:14, 4:14] = True
    images = torch.rand(40, 1, SIDE, SIDE)
    maps, _ = still(40)
    maps[:, 0, 2] = 60.0  # to the left: nothing of it is left
    fields = draw_fields(40, SIDE, 0.05, torch.Generator().manual_seed(0))
    result, there = moved_pairs(images, masks, maps, fields)
    assert torch.equal(result, images)
    assert torch.equal(there, masks)


def test_a_bend_is_centered_on_the_mask_and_not_on_its_mirror_image():
    masks = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    masks[..., 20:40, 58:62] = True
    maps, _ = still(1)
    maps[0, 0, 2] = 6.0  # to the left, to 52; its mirror image, which is not shown, lies at 59
    fields = torch.zeros(1, 2, SIDE, SIDE)
    fields[:, 1, :, 58:] = 10.0
    _, there = moved_pairs(masks.float(), masks, maps, fields)
    assert torch.equal(there, masks.roll(-6, dims=3))


def test_a_bend_that_changes_the_size_of_a_mask_is_left_out_and_its_move_is_not():
    masks = torch.zeros(3, 1, SIDE, SIDE, dtype=torch.bool)
    masks[..., 24:40, 24:40] = True
    maps, fields = still(3)
    maps[:, 0, 2] = 6.0  # to the left
    axis = torch.linspace(-20.0, 20.0, 4)
    fields[0, 0], fields[1, 0] = axis, -0.5 * axis  # much narrower, much wider
    fields[2, 0] = 0.1 * axis
    images = torch.rand(3, 1, SIDE, SIDE)
    result, there = moved_pairs(images, masks, maps, fields)
    whole, unbent = moved_pairs(images, masks, maps, torch.zeros_like(fields))
    assert torch.equal(there[:2], unbent[:2])
    assert torch.equal(result[:2], whole[:2])
    assert not torch.equal(there[2], unbent[2])


def test_one_generator_for_all_gives_different_places(known):
    placed = place_masks(known, EVERYTHING, one_hot(0, 20), None, sources(1))
    assert len(torch.unique(placed.masks.flatten(1), dim=0)) > 10


def test_weights_decide_whose_shape_it_is(known):
    weights = torch.tensor([0.8, 0.2]).expand(300, 2)
    placed = place_masks(known, moves_from("translate_int"), weights, None, sources(300))
    high = placed.masks.any(3).sum((1, 2))  # rows: ten of the square, six of the bar
    assert float((high >= 8.5).float().mean()) == pytest.approx(0.8, abs=0.08)


def test_the_example_is_the_moved_image_in_the_exposure_of_the_scene(known):
    """Defects are of brightness 1 on 0.2: on a scene of 0.3 they are half as bright again."""
    scenes = torch.full((40, 1, SIDE, SIDE), -0.7)
    placed = place_masks(known, moves_from(""), one_hot(0, 40), scenes, sources(40))
    core = -torch.nn.functional.max_pool2d(-placed.masks.float(), 7, 1, 3) > 0
    shown = placed.examples[core] + 1
    assert core.any((1, 2, 3)).all()
    assert float(shown.median()) == pytest.approx(1.5, rel=0.1)


def test_a_mask_of_one_pixel_survives(known):
    masks = torch.zeros_like(known.masks)
    images, _ = known.pairs(torch.arange(2))
    masks[:, :, 20, 31] = 1
    known.set(masks > 0, images, images)
    scenes = images[:1].expand(200, -1, -1, -1)
    placed = place_masks(known, EVERYTHING, one_hot(0, 200), scenes, sources(200))
    assert placed.masks.any((1, 2, 3)).all()


@pytest.mark.parametrize("blind", [True, False])
def test_a_mask_that_fills_the_picture_stays_there(known, blind):
    images, _ = known.pairs(torch.arange(2))
    known.set(torch.ones_like(known.masks) > 0, images, images)
    scenes = None if blind else images[:1].expand(20, -1, -1, -1)
    moves = moves_from("flip_x,translate_int,translate_frac")
    placed = place_masks(known, moves, one_hot(0, 20), scenes, sources(20))
    # Mirrored at the border it would go on as the picture does; it may lose a fifth.
    assert (placed.masks.float().mean((1, 2, 3)) > 0.79).all()
    assert placed.examples.isfinite().all()


def test_small_defects_are_placed_by_their_surroundings_too():
    side = 256
    masks = torch.zeros(1, 1, side, side, dtype=torch.bool)
    masks[..., 45:51, 45:51] = True  # across four cells of a thumbnail
    scene = torch.full((1, 1, side, side), -0.8)
    scene[..., side // 2 :] = 0.8
    known = KnownDefects(1, 1, side)
    known.set(masks, scene, scene)
    mirrored = scene.flip(3).expand(60, -1, -1, -1)
    placed = place_masks(known, EVERYTHING, torch.ones(60, 1), mirrored, sources(60))
    assert placed.masks[..., side // 2 :].sum() > 0.8 * placed.masks.sum()
