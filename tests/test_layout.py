"""What the photos show: a part in a fixed pose, in many, or a texture."""

from __future__ import annotations

import pytest
import torch

from defectgen.backbone_fit import measure_layout


def draw(*size):
    return torch.rand(size, generator=torch.Generator().manual_seed(0))


def disc(x, y):
    row = torch.arange(64).view(-1, 1)
    return ((row - y) ** 2 + (torch.arange(64) - x) ** 2 < 200).float()


@pytest.mark.parametrize(
    ("expected", "pictures"),
    [
        ("aligned", torch.stack([disc(32, 32)] * 20)),
        ("free", torch.stack([disc(24 + k % 5 * 4, 24 + k // 5 * 4) for k in range(20)])),
        ("texture", draw(20, 64, 64)),
    ],
)
def test_the_share_of_the_mean_tells_them_apart(expected, pictures):
    images = ((0.8 * pictures + 0.05 * draw(20, 64, 64)).unsqueeze(1) * 255).byte()
    layout, why = measure_layout(images)
    assert layout == expected
    assert why.startswith("the mean image has ")
    assert why.endswith(".")


def test_images_without_any_variance_are_a_texture():
    assert measure_layout(torch.full((4, 3, 32, 32), 7, dtype=torch.uint8))[0] == "texture"


def test_the_share_is_that_of_the_mean_image():
    """A fixed picture plus independent grain: the share of the variance follows from both."""
    fixed = 40 * (draw(1, 1, 64, 64) - 0.5) * 12**0.5
    grain = 20 * torch.randn(400, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    layout, why = measure_layout((128 + fixed + grain).round().clamp(0, 255).byte())
    assert layout == "free"
    assert why == "the mean image has 80% of the variance: many poses."  # 1600 of 1600 + 400


def test_the_mean_of_few_images_is_not_taken_for_a_part():
    """A fifth of the variance of five images of grain is left in their mean."""
    assert measure_layout((draw(5, 1, 64, 64) * 255).byte())[0] == "texture"
    assert measure_layout((draw(1, 1, 64, 64) * 255).byte())[0] == "aligned"  # nothing to compare


def test_brightness_of_whole_images_does_not_count():
    part = 50 * disc(32, 32) + draw(20, 64, 64)
    images = (part + torch.linspace(0, 180, 20).view(-1, 1, 1)).unsqueeze(1).byte()
    assert measure_layout(images)[0] == "aligned"
