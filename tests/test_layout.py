"""What the photos show: a part in a fixed pose, in many, or a texture."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from defectgen import Backbone, DefectSynthesizer
from defectgen.backbone_fit import measure_layout
from defectgen.config import backbone_config, backbone_training


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


def test_a_backbone_of_a_texture_has_its_grain_and_its_light_from_the_start(tiny, tmp_path):
    """Streaks, and a bright dot here and there: after one step they are as in the goods."""
    white = torch.randn(48, 1, 38, 32, generator=torch.Generator().manual_seed(1))
    streaks = F.avg_pool2d(white, (7, 1), 1) * 7**0.5
    light = torch.linspace(-1, 1, 48).view(-1, 1, 1, 1)
    goods = 0.5 + 0.15 * light + 0.05 * streaks
    dots = torch.rand(goods.shape, generator=torch.Generator().manual_seed(2)) < 0.002
    goods = (goods + 0.4 * dots).clamp(0, 1)
    backbone = Backbone(32, channels=1, kimg=0.016, seed=0, verbose=0).fit(goods)
    config = backbone.config_["backbone"]
    assert (config["base_components"], config["grain_fields"]) == (16, 4 * 48)  # mirrored, too
    samples = backbone.sample(100, seed=5)
    assert torch.equal(samples, backbone.sample(100, seed=5))
    backbone.save_pretrained(tmp_path / "b")
    stored = load_file(tmp_path / "b" / "model.safetensors")
    assert stored["generator.synthesis.base.grain.fields"].dtype == torch.int16
    assert torch.equal(Backbone.from_pretrained(tmp_path / "b").sample(100, seed=5), samples)
    one = backbone.sample(1, seed=9)
    torch.testing.assert_close(samples[4:5], one, rtol=0, atol=1 / 255)

    def told(images):
        steps = [images.diff(dim=axis).square().mean() for axis in (2, 3)]
        level = images.mean(dim=(1, 2, 3), keepdim=True)
        left = (images - level) / (images - level).std()
        alone = left.pow(4).mean() / 10
        assert alone > 0.7  # 0.3 of normal numbers: random phases would spread the dots
        return torch.stack([steps[0] / sum(steps), level.std(), (images - level).std(), alone])

    torch.testing.assert_close(told(samples), told(goods), rtol=0.25, atol=0.02)


def test_a_part_has_no_grain_below_its_blocks(tiny, product):
    backbone = Backbone(32, kimg=0.016, seed=0, verbose=0).fit(product(20))
    assert backbone.config_["backbone"]["grain_fields"] == 0
    assert backbone.generator.synthesis.base.grain is None


@pytest.mark.parametrize(("layout", "kimg"), [("aligned", (36, 500)), ("texture", (1.2, 16.667))])
def test_a_texture_takes_a_thirtieth_of_the_budget(layout, kimg):
    for side, wanted in zip((64, 256), kimg, strict=True):
        shape = backbone_config(side, 1, None, layout=layout)
        given = {"preset": None, "kimg": None, "batch_size": None, "seed": 0, "layout": layout}
        assert backbone_training(shape, **given).kimg == wanted
        assert backbone_training(shape, **{**given, "kimg": 3.0}).kimg == 3.0


def test_defects_on_a_texture_lie_where_its_shading_tells(tiny, defects):
    """Places and exposure are told by the base without its grain, of which no two draws agree."""
    goods = draw(24, 1, 32, 32)
    images, masks = defects(6, channels=1)
    backbone = Backbone(32, channels=1, kimg=0.016, seed=0, verbose=0).fit(goods)
    synth = DefectSynthesizer(backbone, kimg=0.016, seed=0, verbose=0).fit(images, masks)
    synth.branch_.known.learned = True  # these two do not know each other
    first = synth.sample(12, seed=3, return_masks=True)
    grain = synth.backbone.generator.synthesis.base.grain
    grain.fields.mul_(2)
    second = synth.sample(12, seed=3, return_masks=True)
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
