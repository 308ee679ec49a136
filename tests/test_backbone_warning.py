"""A backbone whose samples are far from its photos says so, and others say nothing."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F

from defectgen import Backbone, TrainingWarning, backbone_fit
from defectgen.backbone_fit import COMPARED, FAR, warn_if_far


@pytest.fixture
def told(monkeypatch):
    """told(photos, samples): how many times as far the warning says they are; None without one."""

    def ratio(photos, samples):
        monkeypatch.setattr(
            backbone_fit, "draw_good", lambda network, seeds, psi: samples[: len(seeds)]
        )
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            warn_if_far(None, photos, 36.0)
        return float(str(found[0].message).split("got ")[1].split(" times")[0]) if found else None

    return ratio


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_samples_like_the_photos_are_near_and_noise_is_far(product, told):
    photos, samples = product(2 * COMPARED), product(COMPARED, seed=9).float() / 255
    assert told(photos, samples) is None
    assert told(photos, random(COMPARED, 3, 32, 32)) > 2 * FAR


def test_one_scale_is_enough(told):
    """Sharp discs, and the same ones blurred: large shapes are right, edges are not."""
    draw = torch.Generator().manual_seed(0)
    axis = torch.arange(64.0)
    centers = 20 + 24 * torch.rand(192, 2, 1, 1, generator=draw)
    apart = (axis[:, None] - centers[:, 0]).square() + (axis - centers[:, 1]).square()
    discs = (apart < 200).float()[:, None]
    photos, others = (discs[:128] * 255).to(torch.uint8), discs[128:]
    assert told(photos, others) is None
    soft = F.avg_pool2d(F.pad(others, (1, 1, 1, 1), mode="reflect"), 3, 1)
    assert told(photos, soft) > FAR  # in the mean of the scales 3.3 times


def test_few_photos_have_no_distance(product, told):
    assert told(product(7), random(4, 3, 32, 32)) is None
    assert told(product(8), random(4, 3, 32, 32)) > FAR


def test_a_distance_of_nothing_divides_nothing(told):
    gray = torch.full((10, 3, 32, 32), 90, dtype=torch.uint8)
    assert told(gray, gray[:5].float() / 255) is None


def test_the_warning_names_a_longer_budget(product, told, monkeypatch):
    monkeypatch.setattr(backbone_fit, "draw_good", lambda *given: random(4, 3, 32, 32))
    with pytest.warns(TrainingWarning, match=r"^good_images: .*train longer: kimg=3$"):
        warn_if_far(None, product(8), 1.5)


def test_fit_says_so_and_keeps_what_it_learned(product, tiny):
    """Networks that begin as noise, after three batches."""
    backbone = Backbone(32, preset="dfmgan", kimg=0.012, batch_size=4, seed=0, verbose=0)
    with pytest.warns(TrainingWarning, match="has not learned the product") as found:
        backbone.fit(product(8))
    assert found[0].filename == __file__
    assert backbone.sample(1, seed=0).shape == (1, 3, 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TrainingWarning):
            backbone.fit(product(9))
    assert backbone.config_["data"]["images"] == 9
