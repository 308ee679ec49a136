"""A branch with given masks: what it remembers, what it shows, and what it changes."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from defectgen import DefectSynthesizer
from defectgen.augment.pipe import AugmentPipe
from defectgen.augment.policy import POLICIES
from defectgen.config import DefectConfig, defect_config, defect_training
from defectgen.moves import moves_from
from defectgen.networks.defect import DefectBranch, receptive_radius
from defectgen.rng import generator, no_noise, sample_seeds
from defectgen.sampling import draw_defects
from defectgen.training.defect_start import continued, new_networks, scenes_of
from defectgen.training.imposed_task import ImposedTask
from defectgen.training.phases import Batch

SIDE = 32


def signed(images):
    return images.float() / 127.5 - 1


@pytest.fixture
def begin(fitted_backbone, tiny):
    """begin(images, masks, branch=None, **numbers): a task that has not begun to learn."""

    def build(images, masks, branch=None, **numbers):
        network, judge = fitted_backbone.networks()
        shape = replace(defect_config(network.config, None), known=len(images), moves="scale")
        fresh, judges = new_networks(network.config, shape, judge, 0)
        train = defect_training(
            network.config, preset=None, kimg=0.01, batch_size=4, seed=0, warm=True
        )
        return ImposedTask(
            network,
            fresh if branch is None else branch,
            judges,
            replace(train, **numbers),
            signed(images),
            masks,
            AugmentPipe(POLICIES["none"]),
        )

    return build


@pytest.fixture
def strong(fitted_synth):
    """The fitted branch with blocks that change a lot, untouched by the other tests."""
    branch = copy.deepcopy(fitted_synth.branch_)
    with torch.no_grad():
        for block in branch.blocks.values():
            block.strength.fill_(1.0)
    return branch


# -- what is remembered ---


def test_a_fit_remembers_its_pairs(fitted_synth, defects):
    images, masks = defects(6)
    known = fitted_synth.branch_.known
    assert torch.equal(known.masks > 0, masks)
    assert torch.equal(known.images, images)


def test_scenes_show_the_background_and_not_the_defect(fitted_synth, defects):
    images, masks = defects(6)
    known = fitted_synth.branch_.known
    cells = F.avg_pool2d(signed(images), 2)
    near = F.max_pool2d(masks.float(), 3, 1, 1)  # rendered there: the mask and a pixel around
    own = (F.max_pool2d(near, 2) == 0).expand_as(cells)
    torch.testing.assert_close(known.scenes[own], cells[own])
    inside = (F.avg_pool2d(masks.float(), 2) == 1).expand_as(cells)
    pale = signed(torch.tensor(230))
    assert ((known.scenes[inside] - pale).abs() > 0.05).float().mean() > 0.9


def smooth(count, seed=0):
    """Pictures that vary slowly, (n, 3, 64, 64) in [-1, 1]."""
    noise = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return F.interpolate(noise, size=64, mode="bicubic", align_corners=False).clamp(-1, 1)


def spots(count, side=16):
    masks = torch.zeros(count, 1, 64, 64, dtype=torch.bool)
    masks[:, :, 20 : 20 + side, 24 : 24 + side] = True
    return masks


def test_scenes_near_defects_are_the_renders_if_these_are_like_the_photos():
    images, masks = smooth(6), spots(6)
    renders = images + 0.1
    near = F.max_pool2d(masks.float(), 3, 1, 1) > 0
    expected = F.adaptive_avg_pool2d(torch.where(near, renders, images), 16)
    photos = images.masked_fill(masks, 1.0)
    torch.testing.assert_close(scenes_of(photos, masks, renders), expected)


def test_scenes_near_defects_go_on_from_around_if_the_renders_tell_nothing():
    images, masks = smooth(6), spots(6)
    photos = images.masked_fill(masks, 1.0)
    found, own = scenes_of(photos, masks, smooth(6, seed=9)), F.adaptive_avg_pool2d(images, 16)
    hidden = (F.adaptive_avg_pool2d(masks.float(), 16) > 0).expand_as(own)
    clear = F.max_pool2d(hidden.float(), 3, 1, 1) == 0
    torch.testing.assert_close(found[clear], own[clear])
    # Each cell inside is the mean of those about it: no defect in it, and no edge around it.
    mean = F.avg_pool2d(found, 3, 1, 1)[..., 6:8, 7:9]
    torch.testing.assert_close(found[..., 6:8, 7:9], mean, rtol=0, atol=1e-3)
    middle = found[..., 5:9, 6:10].mean((2, 3))
    ring = torch.cat([found[..., 4, 5:11], found[..., 9, 5:11]], -1)
    assert ((middle >= ring.amin(-1) - 0.1) & (middle <= ring.amax(-1) + 0.1)).all()


def test_what_a_defect_hides_does_not_count_against_the_renders():
    images = 0.1 * smooth(6)
    masks = spots(6, side=32)
    photos = images.masked_fill(masks, 1.0)
    near = F.max_pool2d(masks.float(), 3, 1, 1) > 0
    expected = F.adaptive_avg_pool2d(torch.where(near, images, photos), 16)
    torch.testing.assert_close(scenes_of(photos, masks, images), expected)


def test_what_goes_on_from_around_is_even_where_the_photo_is_and_a_ramp_where_that_is():
    """Masks that fill cells in part, a large one, and one at the border."""
    masks = torch.zeros(3, 1, 64, 64, dtype=torch.bool)
    masks[0, :, 22:35, 25:31] = True
    masks[1, :, 10:52, 9:51] = True
    masks[2, :, 0:13, 50:64] = True
    flat = torch.tensor([-0.5, 0.2, 0.6]).view(3, 1, 1, 1).expand(3, 3, 64, 64)
    unlike = smooth(3, seed=9) - 0.5
    found = scenes_of(flat.masked_fill(masks, 1.0), masks, unlike)
    torch.testing.assert_close(found, flat[..., :16, :16], rtol=0, atol=1e-4)
    ramp = torch.linspace(-0.8, 0.8, 64).expand(3, 3, 64, 64)
    found = scenes_of(ramp.masked_fill(masks, 1.0), masks, -ramp)
    cells = F.adaptive_avg_pool2d(ramp, 16)
    torch.testing.assert_close(found[:2], cells[:2], rtol=0, atol=0.03)
    # A pixel around the mask hides, too: of this cell three columns of four are clear.
    torch.testing.assert_close(found[0, 0, 7, 5], ramp[0, 0, 0, 20:24].mean())
    hidden = F.max_pool2d(masks.float(), 3, 1, 1)[0, 0, 28:32, 20:24]
    assert hidden.sum() == 0


@pytest.mark.parametrize(("share", "rendered"), [(0.38, False), (0.42, True)])
def test_renders_count_from_a_share_of_the_variance_on(share, rendered):
    images, masks = smooth(8), spots(8, side=8)
    near = F.max_pool2d(masks.float(), 3, 1, 1)
    seen = F.adaptive_avg_pool2d(near, 16) == 0
    real = F.adaptive_avg_pool2d(images, 16)
    mean = (real * seen).sum((0, 2, 3), keepdim=True) / seen.sum()
    # Nearer to the mean by the root of what is not told: that share of the variance is missed.
    renders = images + (1 - share) ** 0.5 * (F.interpolate(real, scale_factor=4) - mean)
    found = scenes_of(images, masks, renders)
    shown = F.adaptive_avg_pool2d(torch.where(near > 0, renders, images), 16)
    assert torch.allclose(found, shown, atol=1e-5) is rendered


def test_a_defect_that_hides_a_whole_photo_has_the_render_as_its_scene():
    images, masks = smooth(3), spots(3)
    masks[1] = True
    renders = smooth(3, seed=9)
    found = scenes_of(images, masks, renders)
    torch.testing.assert_close(found[1], F.adaptive_avg_pool2d(renders[1:2], 16)[0])
    assert found.isfinite().all()


def test_how_far_masks_are_bent_is_the_branchs(begin, defects):
    """In samples, in what the game takes for real, and in what it takes for fakes."""
    images, masks = defects(4)
    own = {tuple(mask.flatten().tolist()) for mask in masks}
    shown = {}
    for bend in (0.0, 0.1):
        task = begin(images, masks)
        task.branch.config = replace(task.branch.config, moves="", bend=bend)
        task.moves = moves_from("")
        seeds = sample_seeds(40, 0)
        network, branch = task.backbone.eval(), task.branch.eval()
        index = torch.arange(40) % 4
        with torch.no_grad():
            drawn = draw_defects(network, branch, seeds, 1.0, normals=False).masks
            fakes = task._fakes(40)[1]
        shown[bend] = [
            sum(tuple(mask.flatten().tolist()) in own for mask in found)
            for found in (drawn, task._moved(index)[1], fakes)
        ]
    assert shown[0.0] == [40, 40, 40]
    assert max(shown[0.1]) < 30


def test_masks_of_samples_are_those_of_the_pairs_moved(fitted_synth):
    _, masks = fitted_synth.sample(100, seed=0, return_masks=True)
    areas = masks.float().sum((1, 2, 3))
    assert areas.min() > 0
    assert float(areas.median()) == pytest.approx(64, rel=0.2)  # squares of 8 px
    assert len(torch.unique(masks.flatten(1), dim=0)) > 50


# -- what is shown ---


def test_an_untrained_branch_shows_the_example_inside_the_mask(begin, defects):
    images, masks = defects(4)
    task = begin(images, masks)
    network, branch = task.backbone, task.branch
    assert [float(block.strength) for block in branch.blocks.values()] == [0.0] * 3
    ws = network.broadcast(task.objects.table)
    example = torch.rand(4, 3, SIDE, SIDE, generator=generator(0, "example")) * 2 - 1
    base = network.synthesis.base(task.objects.table)
    with torch.no_grad():
        defect = branch.broadcast(task.defects.table)
        drawn = network.synthesis(
            ws, no_noise, branch.start(defect, no_noise, masks, (example, base))
        )
        twin = network.synthesis(ws, no_noise)
    # What the blocks of the backbone add to its base lies over the example as well.
    torch.testing.assert_close(drawn, torch.where(masks, example + twin - base, twin))


def test_samples_equal_their_twins_beyond_the_receptive_radius(strong, fitted_backbone):
    network = fitted_backbone.networks()[0]
    batch = draw_defects(network, strong, sample_seeds(24, 0), 1.0, normals=True)
    images, masks, normals = batch.triplets()
    radius = receptive_radius(strong.resolutions[0], SIDE)
    reached = F.max_pool2d(masks.float(), 2 * radius + 1, 1, radius) > 0
    assert not reached.all()
    changed = (images - normals).abs().amax(1, keepdim=True) > 1e-5
    assert not (changed & ~reached).any()
    assert (changed & ~masks).any()  # the blocks do reach beyond the mask


def test_what_a_branch_adds_follows_its_code(strong, fitted_backbone):
    """Not the same residual for every defect: another row of the table, another picture."""
    network = fitted_backbone.networks()[0]
    first = draw_defects(network, strong, sample_seeds(4, 0), 1.0, normals=False)
    with torch.no_grad():
        strong.mapping.table.neg_()
    other = draw_defects(network, strong, sample_seeds(4, 0), 1.0, normals=False)
    assert torch.equal(first.masks, other.masks)
    assert (first.images - other.images).abs().max() > 0.01


# -- what is learned ---


def test_reconstruction_teaches_branch_and_codes_and_not_the_backbone(begin, defects):
    images, masks = defects(4)
    task = begin(images, masks)
    for part in (task.branch, task.objects):
        part.requires_grad_(True)
    with torch.no_grad():
        for block in task.branch.blocks.values():
            block.strength.fill_(0.1)
    loss, scalars = task.phases()[0].loss(Batch(task.images, torch.arange(4), masks))
    loss.backward()
    assert {"loss/reconstruction", "loss/inside", "loss/texture"} <= set(scalars)
    assert task.branch.mapping.table.grad.any(1).all()  # of each pair
    assert task.objects.table.grad.any(1)[:2].all()  # of those on their own background
    assert not task.objects.table.grad.any(1)[2:].any()
    assert all(block.strength.grad != 0 for block in task.branch.blocks.values())
    assert all(p.grad is None for p in task.backbone.parameters())


def test_half_of_the_pairs_are_moved_and_half_are_as_they_are(begin, defects, monkeypatch):
    images, masks = defects(4)
    task, drawn = begin(images, masks), []
    draw = task._draw
    monkeypatch.setattr(task, "_draw", lambda *told: drawn.append(told) or draw(*told))
    for _ in range(3):
        task.phases()[0].loss(Batch(task.images, torch.arange(4), masks))
    kept = [(told[2] == masks).all((1, 2, 3)).tolist() for told in drawn]
    assert all(row[:2] == [True, True] for row in kept)
    assert not all(alike for row in kept for alike in row[2:])


def test_what_is_shown_as_it_is_is_not_made_stronger(begin, defects, monkeypatch):
    """Its target is the photo: a faint defect made stronger would teach to weaken what is told."""
    images, masks = defects(4)
    task, asked = begin(images, masks), []
    shown = task.known.shown
    monkeypatch.setattr(task.known, "shown", lambda *told: asked.append(told) or shown(*told))
    task.phases()[0].loss(Batch(task.images, torch.arange(4), masks))
    assert [len(told[0]) for told in asked] == [2, 2]
    assert asked[0][3] is None
    assert torch.equal(asked[0][0], task.images[:2])
    assert len(asked[1][3]) == 2


def test_the_first_step_of_strength_leads_downhill(begin, defects):
    images, masks = defects(4)
    task = begin(images, masks, texture_weight=0.0)
    batch = Batch(task.images, torch.arange(4), masks)
    state = task.state.generator.get_state()

    def loss():
        task.state.generator.set_state(state)
        return task.phases()[0].loss(batch)[0]

    strengths = [block.strength.requires_grad_(True) for block in task.branch.blocks.values()]
    before = loss()
    slopes = torch.autograd.grad(before, strengths)
    with torch.no_grad():
        for strength, slope in zip(strengths, slopes, strict=True):
            strength.sub_(1e-3 * slope.sign())
    assert loss() < before.detach()


def test_reconstruction_comes_first_and_the_rest_waits(begin, defects):
    phases = {phase.name: phase for phase in begin(*defects(4)).phases()}
    assert next(iter(phases)) == "reconstruction"
    assert phases["reconstruction"].last == 8  # eight tenths of ten images
    assert phases["G"].first == 8
    assert phases["D"].first == 7


def test_real_defects_are_shown_on_renders(begin, defects):
    """The discriminators see real pixels inside masks only, so that backgrounds tell nothing."""
    images, masks = defects(4)
    task = begin(images, masks)
    seen = task._seen(Batch(task.images, torch.arange(4), masks))
    assert seen.masks.any((1, 2, 3)).all()
    same = (seen.images - task.images).abs().amax(1, keepdim=True) < 1e-4
    assert float(same[~seen.masks].float().mean()) < 0.05


# -- what is kept ---


def test_other_pairs_keep_the_blocks_and_nothing_else(fitted_synth, begin, defects):
    images, masks = defects(4, seed=9)
    earlier = fitted_synth.branch_
    shape = DefectConfig.from_dict(fitted_synth.config_["defect"])
    branch = continued(earlier, fitted_synth.backbone_.fitted().config, 4)
    task = begin(images, masks, branch)
    assert task.branch.config == replace(shape, known=4)
    ours, theirs = task.branch.blocks.state_dict(), earlier.blocks.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert any(value.any() for name, value in ours.items() if name.endswith("strength"))
    assert torch.equal(task.known.masks > 0, masks)
    assert tuple(task.branch.mapping.table.shape) == (4, 16)
    assert task.branch.mapping.table.any(1).all()


def test_the_same_pairs_keep_their_codes_and_as_many_others_do_not(fitted_synth, begin, defects):
    earlier = fitted_synth.branch_
    for seed, kept in ((1, True), (9, False)):
        task = begin(*defects(6, seed=seed), copy.deepcopy(earlier))
        assert torch.equal(task.branch.mapping.table, earlier.mapping.table) == kept
        assert task.defects.table is task.branch.mapping.table
        assert torch.equal(signed(task.known.images), task.images)


def test_codes_of_objects_go_on_where_they_were(begin, defects):
    first, second = begin(*defects(4)), begin(*defects(4))
    with torch.no_grad():
        first.objects.table.add_(1.5)
    second.load_codes(first.codes())
    torch.testing.assert_close(second.objects.table, first.objects.table)


def test_a_saved_branch_draws_the_same(fitted_synth, tmp_path):
    fitted_synth.save_pretrained(tmp_path / "s")
    other = DefectSynthesizer.from_pretrained(tmp_path / "s", device="cpu")
    for ours, theirs in zip(
        fitted_synth.sample(6, seed=3, return_masks=True),
        other.sample(6, seed=3, return_masks=True),
        strict=True,
    ):
        assert torch.equal(ours, theirs)
    assert torch.equal(other.branch_.known.scenes, fitted_synth.branch_.known.scenes)


def test_a_branch_with_a_mask_head_is_refused(fitted_backbone, begin, defects, tiny):
    network = fitted_backbone.networks()[0]
    task = begin(*defects(4))
    task.branch = DefectBranch(network.config, defect_config(network.config, None))
    with pytest.raises(TypeError, match="^known: a branch with masks; got .*; use DefectTask"):
        _ = task.known


def test_pairs_are_drawn_by_the_keys_that_a_resume_file_holds(begin, defects):
    """Keys beside the branch are computed anew in another process, and may be others there."""
    images, masks = defects(4)
    first, second = (begin(images, masks.bool()) for _ in range(2))
    second.defects.keys = torch.zeros_like(second.defects.keys)
    for task in (first, second):
        task.state.generator.manual_seed(3)
    drawn = [task._fakes(6)[1] for task in (first, second)]
    assert torch.equal(*drawn)
