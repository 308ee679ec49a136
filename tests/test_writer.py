"""Samples on disk: names, pixels, metadata, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import defectgen
from defectgen.batch import DefectBatch
from defectgen.errors import ConfigError
from defectgen.rng import generator
from defectgen.writer import write_samples


def batch(first: int, count: int, *, channels: int = 3, normals: bool = True) -> DefectBatch:
    draw = generator(first, "writer")
    images = torch.rand(count, channels, 8, 8, generator=draw)
    masks = torch.rand(count, 1, 8, 8, generator=draw) < 0.25
    return DefectBatch(
        images, masks, images.flip(0) if normals else None, None, tuple(range(first, first + count))
    )


def lines(folder):
    text = (folder / "metadata.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def pixels(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.array(picture)


def test_batches_become_numbered_files_and_one_line_each(tmp_path):
    batches = [batch(10, 3), batch(13, 2)]
    folder = tmp_path / "a" / "b"
    count = write_samples(iter(batches), folder, metadata={"truncation_psi": 0.5, "defect": "cut"})
    whole = DefectBatch.concat(batches)
    names = [f"{i:06d}.png" for i in range(5)]
    assert count == 5
    assert sorted(p.name for p in folder.iterdir()) == [
        "images", "masks", "metadata.jsonl", "normals",
    ]  # fmt: skip
    for part, array in whole.numpy().items():
        assert sorted(p.name for p in (folder / part).iterdir()) == names
        for name, wanted in zip(names, array, strict=True):
            assert np.array_equal(pixels(folder / part / name), wanted)
    for index, record in enumerate(lines(folder)):
        assert record.pop("mask_area") == pytest.approx(float(whole.masks[index].float().mean()))
        assert record == {
            "image": f"images/{names[index]}",
            "mask": f"masks/{names[index]}",
            "normal": f"normals/{names[index]}",
            "seed": 10 + index,
            "library_version": defectgen.__version__,
            "truncation_psi": 0.5,
            "defect": "cut",
        }


def test_gray_images_without_masks_and_normals(tmp_path):
    images = torch.rand(2, 1, 8, 8, generator=generator(0))
    write_samples([DefectBatch(images, labels=("cut", "hole"))], tmp_path / "x", metadata={})
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["images", "metadata.jsonl"]
    assert pixels(tmp_path / "x" / "images" / "000001.png").shape == (8, 8)
    assert [set(line) for line in lines(tmp_path / "x")] == [
        {"image", "label", "library_version"}
    ] * 2
    assert lines(tmp_path / "x")[1]["label"] == "hole"


def test_no_sample_is_an_empty_list(tmp_path):
    assert write_samples([], tmp_path / "x", metadata={}) == 0
    assert lines(tmp_path / "x") == []


def test_an_existing_empty_folder_is_used(tmp_path):
    assert write_samples([batch(0, 1)], tmp_path, metadata={}) == 1


def test_a_folder_with_content_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="folder: must be new or empty"):
        write_samples([batch(0, 1)], tmp_path, metadata={})
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(ConfigError, match="got the file"):
        write_samples([batch(0, 1)], tmp_path / "x", metadata={})


@pytest.mark.parametrize(
    ("metadata", "word"),
    [
        ({"seed": 1}, "seed"),
        ({"background": "a"}, "background"),
        ({"a": float("nan")}, "JSON"),
        ({"a": object()}, "JSON"),
    ],
)
def test_bad_metadata_is_refused_before_anything_is_written(tmp_path, metadata, word):
    with pytest.raises(ConfigError, match=word):
        write_samples([batch(0, 1)], tmp_path / "x", metadata=metadata)
    assert not (tmp_path / "x").exists()


def test_an_interrupted_run_leaves_no_metadata(tmp_path):
    def broken():
        yield batch(0, 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_samples(broken(), tmp_path, metadata={})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "masks", "normals"]


def test_batches_are_taken_one_at_a_time(tmp_path):
    seen = []

    def counted():
        for first in (0, 1):
            seen.append(len(list((tmp_path / "x").glob("images/*.png"))))
            yield batch(first, 1)

    write_samples(counted(), tmp_path / "x", metadata={})
    assert seen == [0, 1]


def test_the_layout_of_mvtec_is_what_its_readers_pair(tmp_path):
    """Each defective picture has the mask whose stem begins with its own, in equal number."""
    batches = [batch(0, 3), batch(3, 2)]
    folder = tmp_path / "part"
    write_samples(batches, folder, metadata={}, layout="mvtec", defect="broken_large")
    pictures = sorted((folder / "test" / "broken_large").iterdir())
    masks = sorted((folder / "ground_truth" / "broken_large").iterdir())
    assert [p.stem for p in pictures] == [f"{i:06d}" for i in range(5)]
    assert [p.name for p in masks] == [f"{p.stem}_mask.png" for p in pictures]
    whole = DefectBatch.concat(batches).numpy()
    for index in range(5):
        assert np.array_equal(pixels(pictures[index]), whole["images"][index])
        assert np.array_equal(pixels(masks[index]), whole["masks"][index])
    goods = sorted((folder / "train" / "good").iterdir())
    shown = zip(goods, whole["normals"], strict=True)
    assert all(np.array_equal(pixels(path), twin) for path, twin in shown)
    assert len(goods) == 5
    assert lines(folder)[4]["mask"] == "ground_truth/broken_large/000004_mask.png"
    assert lines(folder)[4]["normal"] == "train/good/000004.png"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "coco"}, "layout: "),
        ({"defect": "good"}, 'defect: .* neither "good"'),
        ({"defect": "../x"}, "defect: must be letters"),
        ({"defect": ""}, "defect: must be letters"),
    ],
)
def test_other_layouts_and_names_that_are_no_folder_are_refused(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        write_samples([batch(0, 1)], tmp_path / "x", metadata={}, **change)
    assert not (tmp_path / "x").exists()
