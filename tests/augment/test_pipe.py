"""The pipe as a whole, and the rule that moves its probability."""

from __future__ import annotations

import json

import pytest
import torch
from torch.autograd import gradgradcheck

from defectgen.augment import POLICIES, AdaptiveProbability, AugmentPipe
from defectgen.augment.color import apply_color, draw_color_matrices
from defectgen.augment.geometry import draw_matrices
from defectgen.augment.warp import warp, warp_mask
from defectgen.errors import ConfigError, ImageError, MaskError, WeightsError


@pytest.fixture
def batch(source):
    """batch(n=8, channels=3, side=32): images and masks in [-1, 1]."""

    def build(n=8, channels=3, side=32):
        images = torch.rand(n, channels, side, side, generator=source(5)) * 2 - 1
        masks = torch.rand(n, 1, side, side, generator=source(6)).round() * 2 - 1
        return images, masks

    return build


@pytest.mark.parametrize("channels", [1, 3])
def test_the_pipe_is_the_warp_and_then_the_colors(batch, source, channels):
    images, masks = batch(channels=channels)
    policy = POLICIES["bgc"]
    result, moved = AugmentPipe(policy)(images, p=0.7, generator=source(), masks=masks)
    generator = source()
    matrices = draw_matrices(policy, 8, 32, p=0.7, generator=generator)
    colors = draw_color_matrices(policy, 8, p=0.7, generator=generator, channels=channels)
    assert torch.equal(result, apply_color(warp(images, matrices), colors))
    assert torch.equal(moved, warp_mask(masks, matrices))


def test_masks_do_not_change_what_happens_to_the_images(batch, source):
    images, masks = batch()
    pipe = AugmentPipe(POLICIES["bgc"])
    alone = pipe(images, p=0.7, generator=source())
    assert torch.equal(alone, pipe(images, p=0.7, generator=source(), masks=masks)[0])


def test_colors_leave_the_mask_alone(batch, only, source):
    images, masks = batch()
    pipe = AugmentPipe(only("brightness", "contrast", "luma_flip", "hue", "saturation"))
    result, same = pipe(images, p=1.0, generator=source(), masks=masks)
    assert same is masks
    assert not torch.allclose(result, images)


def test_p_zero_returns_the_inputs_and_still_draws(batch, source):
    images, masks = batch()
    generator, other = source(), source()
    pipe = AugmentPipe(POLICIES["bgc"])
    result, same = pipe(images, p=0.0, generator=generator, masks=masks)
    assert result is images
    assert same is masks
    pipe(images, p=0.9, generator=other)
    assert torch.equal(generator.get_state(), other.get_state())
    assert not torch.equal(generator.get_state(), source().get_state())


def test_the_empty_policy_changes_nothing(batch, source):
    images, _ = batch()
    assert AugmentPipe(POLICIES["none"])(images, p=1.0, generator=source()) is images


def test_a_seed_gives_the_same_batch_again_and_no_global_state_is_touched(batch, source):
    images, _ = batch()
    pipe = AugmentPipe(POLICIES["bgc"])
    before = torch.get_rng_state()
    first, again, other = (pipe(images, p=0.8, generator=source(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_the_pipe_can_be_differentiated_twice(batch, source):
    images, masks = (t.double().requires_grad_() for t in batch(n=2, side=6))
    pipe = AugmentPipe(POLICIES["bgc"])

    def run(x, m):
        return pipe(x, p=0.9, generator=source(3), masks=m)

    assert gradgradcheck(run, (images, masks), fast_mode=True)


def test_autocast_does_not_blur_positions(batch, source):
    images, _ = batch()
    pipe = AugmentPipe(POLICIES["bgc"])
    with torch.autocast("cpu", torch.bfloat16):
        result = pipe(images, p=0.8, generator=source())
    assert torch.equal(result, pipe(images, p=0.8, generator=source()))


def test_the_generator_may_live_on_the_device_of_the_images(batch, device):
    images, masks = (t.to(device) for t in batch())
    pipe = AugmentPipe(POLICIES["bgc"])
    generator = torch.Generator(device=device).manual_seed(0)
    result, moved = pipe(images, p=0.1, generator=generator, masks=masks)
    matrices = draw_matrices(
        POLICIES["bgc"], 8, 32, p=0.1, generator=torch.Generator(device=device).manual_seed(0)
    )
    assert result.device.type == moved.device.type == torch.device(device).type
    still = (matrices == torch.eye(3, device=device)).flatten(1).all(dim=1)
    assert 0 < still.sum() < 8
    assert torch.equal(moved[still], masks[still])
    expected = warp_mask(masks.cpu(), matrices.cpu())
    assert torch.allclose(moved.cpu(), expected, atol=1e-3)


def test_bad_batches_are_named(batch, source):
    images, masks = batch()
    pipe = AugmentPipe(POLICIES["safe"])

    def run(images, masks=None, p=0.5):
        pipe(images, p=p, generator=source(), masks=masks)

    with pytest.raises(ImageError, match=r"images: must be a batch .*got shape \(8, 3, 32, 20\)"):
        run(images[..., :20])
    with pytest.raises(ImageError, match=r"images: must be floating point .*torch\.uint8"):
        run(images.to(torch.uint8))
    with pytest.raises(ImageError, match="1 or 3 channels.*got 4"):
        run(torch.cat([images, masks], dim=1))
    with pytest.raises(MaskError, match=r"masks: .*\(8, 1, 32, 32\).*got.*\(8, 3, 32, 32\)"):
        run(images, images)
    with pytest.raises(MaskError, match=r"masks: .*got torch\.bool"):
        run(images, masks > 0)
    with pytest.raises(ConfigError, match=r"p: must be a number.*got -0\.1"):
        run(images, p=-0.1)
    with pytest.raises(ConfigError, match="p: must be a number.*got nan"):
        run(images, p=float("nan"))


def test_the_pipe_has_nothing_to_train_and_says_what_it_does(only):
    pipe = AugmentPipe(only("flip_x", "hue"))
    assert not pipe.state_dict()
    assert repr(pipe) == "AugmentPipe(flip_x, hue)"
    assert repr(AugmentPipe(POLICIES["none"])) == "AugmentPipe(nothing)"


# -- the adaptive probability ----------------------------------------------------------------------


def signs(positive, negative):
    return torch.tensor([2.5] * positive + [-0.1] * negative).view(-1, 1)


def test_r_t_is_the_mean_sign_over_all_passes():
    ada = AdaptiveProbability()
    ada.accumulate(signs(3, 1))
    ada.accumulate(signs(8, 0))
    assert ada.r_t == pytest.approx(10 / 12)
    ada.update(64)
    assert ada.r_t == pytest.approx(10 / 12)  # the last word until new outputs come
    ada.accumulate(signs(0, 2))
    assert ada.r_t == -1


def test_p_moves_by_images_over_ada_kimg():
    ada = AdaptiveProbability(ada_kimg=100)
    for step in range(1, 4):
        ada.accumulate(signs(10, 0))
        assert ada.update(16 * 4) == pytest.approx(step * 64 / 100_000)
    ada.accumulate(signs(7, 3))  # r_t = 0.4, below the target
    assert ada.update(64) == pytest.approx(2 * 64 / 100_000)


def test_p_rests_on_target_and_without_outputs():
    ada = AdaptiveProbability(p=0.3)
    ada.accumulate(signs(8, 2))
    ada.target = ada.r_t
    assert ada.update(64) == 0.3
    ada.target = 0.0
    assert ada.update(64) == 0.3  # the outputs above are forgotten


def test_p_stays_between_zero_and_the_cap():
    low, high = AdaptiveProbability(), AdaptiveProbability(p=0.799)
    free = AdaptiveProbability(p=0.999, cap=None)
    low.accumulate(signs(0, 4))
    for ada in (high, free):
        ada.accumulate(signs(4, 0))
    assert low.update(10_000) == 0
    assert high.update(10_000) == 0.8
    assert free.update(10_000) == pytest.approx(1.019)
    assert AdaptiveProbability(p=0.9).p == 0.8


def test_the_state_survives_json():
    ada = AdaptiveProbability(p=0.25)
    ada.accumulate(signs(5, 1))
    ada.update(64)
    ada.accumulate(signs(3, 1))
    state = json.loads(json.dumps(ada.state_dict()))
    assert all(type(value) is float for value in ada.state_dict().values())
    copy = AdaptiveProbability()
    copy.load_state_dict(state)
    assert copy.state_dict() == ada.state_dict()
    for each in (ada, copy):
        each.accumulate(signs(0, 4))
    assert copy.r_t == ada.r_t == pytest.approx(-2 / 8)
    assert copy.update(64) == ada.update(64)


def test_a_loaded_p_respects_the_cap_of_today():
    ada = AdaptiveProbability(cap=0.5)
    ada.load_state_dict(AdaptiveProbability(p=1.2, cap=None).state_dict())
    assert ada.p == 0.5


def test_a_foreign_state_is_refused():
    ada = AdaptiveProbability()
    state = ada.state_dict()
    with pytest.raises(WeightsError, match=r"augmentation state: .*got \['p'\]"):
        ada.load_state_dict({"p": 0.5})
    with pytest.raises(WeightsError, match="extra"):
        ada.load_state_dict(state | {"extra": 1.0})


@pytest.mark.parametrize(
    ("field", "value"), [("p", -0.1), ("target", 2.0), ("ada_kimg", 0.0), ("cap", -1.0)]
)
def test_bad_parameters_are_named(field, value):
    with pytest.raises(ConfigError, match=f"{field}: must be a number"):
        AdaptiveProbability(**{field: value})
