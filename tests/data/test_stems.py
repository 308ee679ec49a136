from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from defectgen.data.stems import bare_stem, match, split_beside
from defectgen.data.survey import Survey


def paths(*names: str) -> list[Path]:
    return [Path(name) for name in names]


@pytest.mark.parametrize(
    "name",
    [
        "07_mask",
        "07-mask",
        "07.mask",
        "07 mask",
        "07_MASK",
        "mask_07",
        "07_gt",
        "07_label",
        "07_seg",
    ],
)
def test_usual_spellings(name: str) -> None:
    assert bare_stem(name) == "07"


@pytest.mark.parametrize("name", ["07", "unmask", "_mask", "mask", "07mask"])
def test_other_names_say_nothing(name: str) -> None:
    assert bare_stem(name) is None


def test_pairs_and_everything_without_a_partner() -> None:
    survey = Survey("folder", Path("/x"))
    images = paths("a.jpg", "B.JPG", "alone.png", "same.png", "same.jpg", "two.png")
    masks = paths("A_Mask.png", "b.png", "orphan_mask.png", "same.png", "two.png", "two_gt.png")
    assert match(survey, images, masks) == [
        (Path("a.jpg"), Path("A_Mask.png")),
        (Path("B.JPG"), Path("b.png")),
    ]
    found = {problem.file: problem.reason for problem in survey.problems}
    assert found == {
        "alone.png": "has no mask: add alone.png or alone_mask.png",
        "same.png": "shares its stem with others (same.png, same.jpg): rename them",
        "same.jpg": "shares its stem with others (same.png, same.jpg): rename them",
        "two.png": "has several masks (two.png, two_gt.png): keep one",
        "orphan_mask.png": "is a mask without an image: add the image or remove the mask",
    }


def test_an_image_may_be_called_like_a_mask() -> None:
    survey = Survey("folder", Path("/x"))
    images = paths("1.png", "1_mask.png")
    masks = paths("1.png", "1_mask.png")
    assert match(survey, images, masks) == list(zip(images, masks, strict=True))
    assert survey.problems == []


def test_masks_beside_images() -> None:
    files = paths("a.png", "a_mask.png", "bow_mask.png", "c.png", "mask_c.png")
    images, masks = split_beside(files)
    assert [path.name for path in masks] == ["a_mask.png", "mask_c.png"]
    assert [path.name for path in images] == ["a.png", "bow_mask.png", "c.png"]


def test_accents_may_be_written_apart() -> None:
    survey = Survey("folder", Path("/x"))
    apart = unicodedata.normalize("NFD", "Größe é")
    images = paths(f"{apart}.png", "Öl.png")
    masks = paths("größe é_mask.png", unicodedata.normalize("NFD", "Öl.png"))
    assert match(survey, images, masks) == list(zip(images, masks, strict=True))
    assert split_beside([*images, *masks[:1]]) == (images, masks[:1])
    assert survey.problems == []
