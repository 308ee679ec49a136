"""A backbone whose samples are far from its photos says so, and others say nothing."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch

from defectgen import Backbone, TrainingWarning
from defectgen.backbone_fit import FAR, JUDGED, warn_if_far
from defectgen.metrics.swd import patch_distance


def finished(score, kimg=36.0):
    """A task that ended with this score."""
    return SimpleNamespace(
        state=SimpleNamespace(best_score=score), config=SimpleNamespace(kimg=kimg)
    )


def told(images, score):
    """How many times as far the warning says that samples are; None without one."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warn_if_far(finished(score), images)
    return float(str(found[0].message).split("got ")[1].split(" times")[0]) if found else None


def test_samples_like_the_photos_are_near_and_others_far(product):
    """The score of a run is this distance, of as many samples."""
    photos, others = product(120), product(JUDGED, seed=9)
    near = patch_distance(photos, others.float() / 255)
    assert told(photos, near) is None
    assert told(photos, 2.0 * near) is None
    assert told(photos, 4.0 * near) == pytest.approx(4.0, rel=0.25)
    noise = torch.rand(JUDGED, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert told(photos, patch_distance(photos, noise)) > 2 * FAR


def test_few_photos_have_no_distance(product):
    assert told(product(7), 1e9) is None
    assert told(product(8), 1e9) > 1000


def test_a_distance_of_nothing_divides_nothing():
    gray = torch.full((10, 3, 32, 32), 90, dtype=torch.uint8)
    assert told(gray, 2.0) is None
    assert told(gray, 100.0) == 100


def test_the_warning_names_a_longer_budget(product):
    with pytest.warns(TrainingWarning, match=r"^good_images: .*train longer: kimg=72$"):
        warn_if_far(finished(1e9), product(8))


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
