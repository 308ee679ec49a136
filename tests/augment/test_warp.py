"""The warp against torch.flip, torch.rot90, padding, closed forms and scipy."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from defectgen.augment import POLICIES
from defectgen.augment.geometry import draw_matrices
from defectgen.augment.warp import SYM6, warp, warp_mask


def affine(xx=1.0, xy=0.0, yx=0.0, yy=1.0, x=0.0, y=0.0):
    return torch.tensor([[[xx, xy, x], [yx, yy, y], [0.0, 0.0, 1.0]]])


def inner(images, margin=5):
    return images[..., margin:-margin, margin:-margin]


BOTH = pytest.mark.parametrize("resample", [warp, warp_mask])


def test_the_low_pass_is_the_sym6_wavelet():
    taps = torch.tensor(SYM6, dtype=torch.float64)
    assert taps.sum() == pytest.approx(math.sqrt(2), abs=1e-12)
    for shift in range(6):  # orthonormal at even shifts
        product = float(taps[2 * shift :] @ taps[: len(taps) - 2 * shift])
        assert product == pytest.approx(float(shift == 0), abs=1e-10)
    place = torch.arange(12, dtype=torch.float64)
    for power in range(6):  # six vanishing moments of the wavelet
        assert abs(float((taps * (-1) ** place * place**power).sum())) < 1e-8


@BOTH
def test_flips_and_quarter_turns(smooth, resample):
    images = smooth().float()
    for matrix, expected in [
        (affine(xx=-1), images.flip(3)),
        (affine(yy=-1), images.flip(2)),
        (affine(0, -1, 1, 0), images.rot90(1, (2, 3))),
        (affine(-1, 0, 0, -1), images.rot90(2, (2, 3))),
        (affine(0, 1, -1, 0), images.rot90(3, (2, 3))),
    ]:
        result = resample(images, matrix)
        assert torch.allclose(inner(result), inner(expected), atol=2e-3)
        assert (result - expected).abs().max() < 0.1  # the continuation of the border differs


@BOTH
def test_integer_translation_is_padding_by_reflection(resample, source):
    images = torch.rand(1, 2, 24, 24, generator=source())
    padded = F.pad(images, (3, 3, 3, 3), mode="reflect")
    result = resample(images, affine(x=-3, y=2))
    expected = padded[..., 5:29, 0:24]
    # Noise, so no tolerance for blur: the fine grid is hit exactly.
    assert torch.allclose(inner(result, 8), inner(expected, 8), atol=1e-4)
    if resample is warp_mask:
        assert torch.allclose(result, expected, atol=1e-4)


def test_reflection_has_no_end(smooth):
    images = smooth().float()
    period = 2 * (32 - 1)
    near, far = (warp(images, affine(x=5.0 + k * period)) for k in (0, 3))
    assert torch.allclose(near, far, atol=1e-3)


def test_any_map_samples_the_function_behind_the_image(smooth, source):
    matrices = draw_matrices(POLICIES["bgc"], 24, 64, p=1.0, generator=source())
    result = warp(smooth(24, 64, 64), matrices)
    place = torch.arange(64) - 31.5
    y, x = torch.meshgrid(place, place, indexing="ij")
    at = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ matrices[:, None, :2].mT  # (N, H, W, 2)
    safe = (at.abs() < 24).all(dim=-1)
    for k, matrix in enumerate(matrices):
        error = (result[k] - smooth(1, 64, 64, matrix)[0]).abs().amax(dim=0)
        # Shrunk waves reach the transition band of the filter, which costs a few hundredths.
        assert error[safe[k]].max() < 0.03, f"map {k}"
    assert safe.float().mean() > 0.3


@BOTH
def test_images_need_not_be_square(smooth, resample):
    matrix = affine(0.9, -0.2, 0.1, 1.1, 2.5, -1.5)
    result = resample(smooth(1, 24, 40), matrix)
    expected = smooth(1, 24, 40, matrix[0])
    assert torch.allclose(inner(result, 8), inner(expected, 8), atol=0.02)


def test_warp_agrees_with_cubic_splines(source):
    ndimage = pytest.importorskip("scipy.ndimage")
    noise = torch.randn(48, 48, generator=source(), dtype=torch.float64)
    image = torch.from_numpy(ndimage.gaussian_filter(noise.numpy(), 2, mode="mirror"))
    image = image / image.abs().max()
    angle = 0.4
    cos, sin = math.cos(angle), math.sin(angle)
    result = warp(image[None, None], affine(cos, -sin, sin, cos, 1.3, -0.6))[0, 0]
    turn = torch.tensor([[cos, sin], [-sin, cos]])  # rows y, x
    center = torch.full((2,), 23.5)
    offset = center + torch.tensor([-0.6, 1.3]) - turn @ center
    expected = ndimage.affine_transform(
        image.numpy(), turn.numpy(), offset.numpy(), order=3, mode="mirror"
    )
    assert torch.allclose(inner(result), inner(torch.from_numpy(expected)), atol=0.01)


def test_shrinking_does_not_alias():
    wave = torch.cos(0.8 * math.pi * torch.arange(64.0)).expand(1, 1, 64, 64)
    shrink = affine(2, 0, 0, 2, 0.3)  # the wave now lies beyond the Nyquist frequency
    assert inner(warp(wave, shrink), 20).abs().max() < 0.05
    assert inner(warp_mask(wave, shrink), 20).abs().max() > 0.2  # what bilinear alone would do


def test_a_mask_stays_on_its_image_and_in_range(source):
    place = torch.arange(64) - 31.5
    y, x = torch.meshgrid(place, place, indexing="ij")
    disk = torch.tanh((12 - torch.hypot(x - 6, y + 4)) / 2).expand(16, 1, 64, 64)
    matrices = draw_matrices(POLICIES["bgc"], 16, 64, p=1.0, generator=source())
    images, masks = warp(disk, matrices), warp_mask(disk, matrices)
    assert (images - masks).abs().max() < 0.1
    assert (masks - disk).abs().amax(dim=(1, 2, 3)).min() > 0.5  # all of them moved
    hard = disk.sign()
    assert warp_mask(hard, matrices).abs().max() <= 1 + 1e-6
    assert warp(hard, matrices).abs().max() > 1.05  # why masks get no low-pass
    differ = (warp(hard, matrices) >= 0) != (warp_mask(hard, matrices) >= 0)
    assert differ.float().mean() < 0.01


@BOTH
def test_identity_maps_change_nothing(resample, source):
    images = torch.rand(3, 1, 16, 16, generator=source())
    assert resample(images, affine().repeat(3, 1, 1)) is images
    result = resample(images, torch.cat([affine(), affine(x=2.5), affine()]))
    assert torch.equal(result[[0, 2]], images[[0, 2]])
    assert not torch.allclose(result[1], images[1])
    assert torch.equal(result[1:2], resample(images[1:2], affine(x=2.5)))


@BOTH
def test_first_and_second_derivatives(resample, source):
    images = torch.rand(2, 2, 7, 7, generator=source(), dtype=torch.float64, requires_grad=True)
    matrices = torch.cat([affine(0.8, -0.5, 0.6, 1.1, 0.7, -1.2), affine()])
    for maps in (matrices, matrices[:1].repeat(2, 1, 1)):

        def changed(x, maps=maps):
            return resample(x, maps)

        assert gradcheck(changed, images, fast_mode=True)
        assert gradgradcheck(changed, images, fast_mode=True)


def test_a_gradient_penalty_reaches_the_weights_behind_the_warp(source):
    images = torch.rand(1, 1, 8, 8, generator=source(), dtype=torch.float64, requires_grad=True)
    weight = torch.rand(8, 8, generator=source(1), dtype=torch.float64, requires_grad=True)
    matrix = affine(0.8, -0.5, 0.6, 1.1, 0.7, -1.2)

    def penalty(w):
        logit = (warp(images, matrix) * w).sum()
        return torch.autograd.grad(logit, images, create_graph=True)[0].square().sum()

    assert gradcheck(penalty, weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@BOTH
def test_the_dtype_is_kept(resample, dtype, source):
    images = torch.rand(2, 1, 16, 16, generator=source()).to(dtype)
    maps = torch.cat([affine(), affine(y=1.5)])
    result = resample(images, maps)
    assert result.dtype == dtype
    exact = resample(images.double(), maps)
    assert torch.allclose(result.double(), exact, atol=4 * torch.finfo(dtype).eps + 1e-6)


def test_filters_first_used_in_inference_serve_training_later(source):
    images = torch.rand(1, 1, 18, 18, generator=source())  # a size no other test uses
    with torch.inference_mode():
        warp(images, affine(x=0.5))
    leaf = images.clone().requires_grad_()
    warp(leaf, affine(x=0.5)).sum().backward()
    assert leaf.grad.abs().sum() > 0


# -- bending ---


def bend(images, fields, resample=warp):
    return resample(images, torch.eye(3).expand(len(images), 3, 3), fields)


@BOTH
def test_no_field_leaves_the_image_and_a_constant_one_shifts_it(resample, source):
    images = torch.rand(2, 1, 32, 32, generator=source())
    fields = torch.zeros(2, 2, 4, 4)
    assert torch.equal(bend(images, fields, resample), images)
    fields[0, 0], fields[1, 1] = 3.0, -2.0  # from the right, and from above
    right, down = bend(images, fields, resample)
    assert torch.allclose(inner(right, 10), inner(images[0].roll(-3, 2), 10), atol=1e-4)
    assert torch.allclose(inner(down, 10), inner(images[1].roll(2, 1), 10), atol=1e-4)


@BOTH
def test_a_bend_moves_smooth_images_by_its_cubic_field(resample, smooth):
    """A field that is linear over its points is linear over the pixels: the image is stretched."""
    fields = torch.zeros(1, 2, 4, 4)
    fields[:, 0] = torch.linspace(-3, 3, 4)  # -3 px at the left border, 3 at the right one
    bent = inner(bend(smooth().float(), fields, resample), 11)
    stretched = inner(smooth(matrix=affine(xx=1 + 6 / 31)[0]).float(), 11)
    # The cubic is off a line by up to a tenth of a pixel.
    assert torch.allclose(bent, stretched, atol=0.03)
    assert not torch.allclose(inner(smooth().float(), 11), stretched, atol=0.1)


def test_a_map_and_a_bend_are_one_resampling_that_asks_the_map_beside_each_pixel(smooth, source):
    """At p the result shows what the map alone shows at p + s: of waves, and of noise unblurred."""
    turn = affine(xx=0, xy=-1, yx=1, yy=0)  # by 90 degrees: no pixel lies between others
    fields = torch.zeros(1, 2, 4, 4)
    fields[:, 0] = 2.0
    noise = torch.rand(1, 1, 32, 32, generator=source())
    for images in (smooth().float(), noise):
        expected = warp(images, turn).roll(-2, 3)
        assert torch.allclose(inner(warp(images, turn, fields), 10), inner(expected, 10), atol=1e-3)
    fields += 0.5
    moved, twice = warp(noise, turn, fields), bend(bend(noise, fields / 2), fields / 2)
    assert inner(moved, 10).var() > 1.2 * inner(twice, 10).var()


def test_a_bend_has_both_derivatives_in_the_images(source):
    images = torch.rand(1, 2, 8, 8, generator=source(), dtype=torch.float64, requires_grad=True)
    fields = torch.randn(1, 2, 4, 4, generator=source(1))
    assert gradcheck(lambda x: bend(x, fields), images, fast_mode=True)
    assert gradgradcheck(lambda x: bend(x, fields) ** 2, images, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_bend_keeps_dtype_and_samples_apart(dtype, source):
    images = torch.rand(3, 1, 16, 16, generator=source()).to(dtype)
    fields = torch.randn(3, 2, 4, 4, generator=source(1))
    both = bend(images, fields)
    assert both.dtype == dtype
    assert torch.allclose(both[1:2], bend(images[1:2], fields[1:2]))
    assert not torch.allclose(both[1:2], bend(images[1:2], fields[:1]), atol=0.01)
