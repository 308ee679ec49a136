"""The embedded example is whole, small, and made by our own funnel."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from defectgen.data.example import ASSETS, example_folders
from defectgen.data.images import load_images, load_pairs

# A quarter of what a wheel may grow by; the weights have their own limit in the wheel test.
PICTURE_BYTES = 1_500_000


@pytest.fixture(scope="module")
def example():
    return example_folders()


def test_the_good_images_are_28_at_64_px(example):
    good = load_images(example.good, resolution=None, channels=3)
    assert good.images.shape == (28, 3, 64, 64)


def test_the_17_defects_pair_with_their_masks_by_stem(example):
    pairs = load_pairs(example.defects, example.masks, resolution=None, channels=3)
    assert pairs.images.shape == (17, 3, 64, 64)
    assert [p.stem for p in sorted(example.masks.iterdir())] == [
        p.stem for p in sorted(example.defects.iterdir())
    ]
    areas = pairs.masks.float().mean((1, 2, 3))
    assert areas.min() > 0
    assert areas.max() < 0.2


def test_masks_on_disk_hold_0_and_255_only(example):
    for path in example.masks.iterdir():
        with Image.open(path) as mask:
            assert mask.mode == "L"
            assert {value for _, value in mask.getcolors()} == {0, 255}


def test_nothing_but_small_png_files_lies_in_the_picture_folders(example):
    files = [p for f in (example.good, example.defects, example.masks) for p in f.iterdir()]
    assert {p.suffix for p in files} == {".png"}
    assert sum(p.stat().st_size for p in files) < PICTURE_BYTES


def test_loading_the_example_at_its_size_changes_no_pixel(example):
    path = sorted(example.defects.iterdir())[0]
    pairs = load_pairs(example.defects, example.masks, resolution=64, channels=3)
    with Image.open(path) as picture:
        assert np.array_equal(np.array(picture), pairs.images[0].permute(1, 2, 0).numpy())


def test_all_folders_lie_in_the_package(example):
    for folder in (example.backbone, example.good):
        assert folder.is_relative_to(ASSETS)


def test_the_same_pictures_come_out_of_the_data_set(example, data_dir):
    source = data_dir / "hazelnut_toy"
    if not source.is_dir():
        pytest.skip("needs --data=PATH with hazelnut_toy")
    wanted = load_images(source / "train" / "good", resolution=64, channels=3)
    assert load_images(example.good, resolution=64, channels=3).digest == wanted.digest
    pairs = load_pairs(
        source / "test" / "colour", source / "ground_truth" / "colour", resolution=64, channels=3
    )
    ours = load_pairs(example.defects, example.masks, resolution=64, channels=3)
    assert ours.digest == pairs.digest


def test_the_weights_load_and_know_the_good_images(example):
    from defectgen import Backbone

    backbone = Backbone.from_pretrained(example.backbone, device="cpu")
    good = load_images(example.good, resolution=64, channels=3)
    assert backbone.config_["data"]["digest"] == good.digest


def test_the_shipped_weights_say_where_they_come_from(example):
    config = json.loads((example.backbone / "config.json").read_text())["config"]
    assert config["training"]["seed"] == 0
    assert config["trained_kimg"] == config["training"]["kimg"]  # in one piece, to the end
    assert config["minutes"] > 5
    assert config["threads"] >= 1
    assert config["scores"]["swd_generated"] > 0
    assert config["data"]["digest"].startswith("sha256:")
