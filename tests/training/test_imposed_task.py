"""The default recipe of a defect: known masks, examples, and what is learned about them."""

from __future__ import annotations

import pytest
import torch

from defectgen import DefectSynthesizer
from defectgen.augment.symmetry import with_symmetries
from defectgen.data.images import load_pairs
from defectgen.defect_fit import build_task, defect_policy
from defectgen.metrics.change import dilate
from defectgen.networks.defect import receptive_radius

SHORT = {"kimg": 0.016, "batch_size": 4, "seed": 0, "device": "cpu", "verbose": 0}


@pytest.fixture
def synth(fitted_backbone, defects, tiny):
    return DefectSynthesizer(fitted_backbone, **SHORT).fit(*defects(5))


def test_the_branch_knows_its_pairs(synth, defects, fitted_backbone):
    policy = defect_policy(None, fitted_backbone)
    images, masks = defects(5)
    pairs = load_pairs(images, masks, resolution=32, channels=3)
    known = synth.branch_.known
    assert torch.equal(known.masks, with_symmetries(pairs.masks, policy).float())
    shown = with_symmetries(pairs.images, policy).float() / 127.5 - 1
    torch.testing.assert_close(known.images, shown)
    assert synth.config_["defect"]["known"] == len(shown)


def test_masks_are_never_empty_and_nothing_changes_far_from_them(synth):
    images, masks, normals = synth.sample(40, return_masks=True, return_normals=True, seed=1)
    assert masks.any((1, 2, 3)).all()
    far = ~dilate(masks, receptive_radius(synth.branch_.resolutions[0], 32))
    difference = (images - normals).abs().amax(1, keepdim=True)
    assert far.any()
    assert difference[far].max() < 1e-4
    assert difference[masks].max() > 0.05


def test_an_untrained_branch_changes_nothing_outside_the_mask(fitted_backbone, defects, tiny):
    """The strengths begin at 0: what is seen is the example, pasted."""
    backbone = fitted_backbone
    images, masks = defects(5)
    pairs = load_pairs(images, masks, resolution=32, channels=3)
    synth = DefectSynthesizer(backbone, **SHORT).fit(images, masks)
    policy = defect_policy(None, backbone)
    from defectgen.config import TrainConfig

    train = TrainConfig.from_dict(synth.config_["training"])
    task = build_task(backbone, pairs, train, policy, None, None, None)
    objects = task._objects(6)
    with torch.no_grad():
        image, there = task._placed(objects)
        twin = task.backbone.synthesis(objects, task._noise())
    assert all(float(block.strength) == 0 for block in task.branch.blocks.values())
    assert there.any((1, 2, 3)).all()
    outside = (~there).expand_as(image)
    # The two renders draw other noise, whose strength is small after so short a training.
    assert (image - twin).abs()[outside].mean() < 0.3 * (image - twin).abs()[~outside].mean()


def test_going_on_with_other_pairs_keeps_the_blocks_and_learns_new_shapes(
    fitted_backbone, defects, tiny, monkeypatch
):
    import defectgen.synthesizer as module

    synth = DefectSynthesizer(fitted_backbone, warm_start=True, **SHORT).fit(*defects(5))
    earlier = {k: v.clone() for k, v in synth.branch_.blocks.state_dict().items()}
    build, begun = module.build_task, []

    def before(*args):
        begun.append(build(*args))
        start = begun[-1].branch.blocks.state_dict()
        assert all(torch.equal(start[k], earlier[k]) for k in earlier)
        return begun[-1]

    monkeypatch.setattr(module, "build_task", before)
    synth.fit(*defects(7, seed=4))
    assert len(begun) == 1
    assert len(synth.branch_.known.masks) > 5
    assert synth.config_["defect"]["known"] == len(synth.branch_.known.masks)


def test_saved_and_loaded_it_draws_the_same(synth, tmp_path):
    synth.save_pretrained(tmp_path / "saved")
    again = DefectSynthesizer.from_pretrained(tmp_path / "saved", device="cpu")
    for one, other in zip(
        synth.sample(3, return_masks=True, seed=5),
        again.sample(3, return_masks=True, seed=5),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_history_has_the_scores_of_the_snapshots(synth):
    scores = [record["score"] for record in synth.history_ if "score" in record]
    assert scores
    assert min(scores) > 0
