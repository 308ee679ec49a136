from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from defectgen.batch import DefectBatch
from defectgen.errors import ConfigError


def batch(n: int = 3, channels: int = 3, first: int = 0) -> DefectBatch:
    values = torch.arange(first, first + n, dtype=torch.float32) / 10
    images = values.view(n, 1, 1, 1).expand(n, channels, 4, 6).clone()
    masks = torch.zeros(n, 1, 4, 6, dtype=torch.bool)
    masks[:, :, 0, 0] = True
    seeds = tuple(range(first, first + n))
    names = tuple(f"{k}.png" for k in seeds)
    return DefectBatch(images, masks, 1 - images, tuple("abc"[:n]), seeds, names)


def test_length_and_defaults() -> None:
    assert len(batch(3)) == 3
    bare = DefectBatch(torch.zeros(2, 1, 4, 4))
    assert (bare.masks, bare.normals, bare.labels, bare.seeds) == (None, None, None, ())


def test_triplets_are_the_three_pictures_of_a_whole_batch() -> None:
    whole = batch(2)
    images, masks, normals = whole.triplets()
    assert images is whole.images
    assert masks is whole.masks
    assert normals is whole.normals
    for missing in ("masks", "normals"):
        with pytest.raises(ConfigError, match="^batch: must have masks and normals; got one"):
            dataclasses.replace(whole, **{missing: None}).triplets()  # type: ignore[arg-type]


def test_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch().seeds = ()  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("images", torch.zeros(3, 4, 6)),
        ("images", torch.zeros(3, 2, 4, 6)),
        ("masks", torch.zeros(3, 4, 6, dtype=torch.bool)),
        ("masks", torch.zeros(2, 1, 4, 6, dtype=torch.bool)),
        ("normals", torch.zeros(3, 1, 4, 6)),
        ("labels", ("a",)),
        ("seeds", (1, 2)),
        ("backgrounds", ("a.png", "b.png")),
    ],
)
def test_refuses_fields_that_do_not_fit(field: str, value: Tensor | tuple[object, ...]) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: must have"):
        dataclasses.replace(batch(3), **{field: value})


def test_concat_keeps_order_and_all_fields() -> None:
    joined = DefectBatch.concat([batch(2), batch(3, first=2)])
    assert len(joined) == 5
    assert joined.seeds == (0, 1, 2, 3, 4)
    assert joined.backgrounds == ("0.png", "1.png", "2.png", "3.png", "4.png")
    assert joined.labels == ("a", "b", "a", "b", "c")
    assert torch.allclose(joined.images[:, 0, 0, 0], torch.arange(5) / 10)
    assert joined.masks is not None
    assert joined.masks.dtype == torch.bool
    assert joined.masks.sum() == 5
    assert joined.normals is not None
    assert torch.equal(joined.normals, 1 - joined.images)


def test_concat_takes_an_empty_batch_without_seeds() -> None:
    full = DefectBatch(torch.zeros(2, 3, 4, 4), seeds=(5, 6), backgrounds=("a", "b"))
    empty = DefectBatch(torch.zeros(0, 3, 4, 4))
    joined = DefectBatch.concat([empty, full, empty])
    assert (joined.seeds, joined.backgrounds) == ((5, 6), ("a", "b"))


@pytest.mark.parametrize("field", ["masks", "normals", "labels", "seeds", "backgrounds"])
def test_concat_refuses_a_mixture(field: str) -> None:
    without = dataclasses.replace(
        batch(2), **{field: () if field in ("seeds", "backgrounds") else None}
    )
    with pytest.raises(ConfigError, match=f"all or none must have {field}; got 1 of 2"):
        DefectBatch.concat([batch(2), without])


def test_concat_refuses_nothing_and_other_sizes() -> None:
    with pytest.raises(ConfigError, match="at least one batch"):
        DefectBatch.concat([])
    with pytest.raises(ConfigError, match="one size"):
        DefectBatch.concat([batch(2), batch(2, channels=1)])


def test_numpy_has_the_promised_types_and_values() -> None:
    images = torch.tensor([0.0, 0.5, 1.0, 2.0, -1.0, 0.2]).view(1, 1, 1, 6).expand(1, 3, 4, 6)
    masks = torch.zeros(1, 1, 4, 6, dtype=torch.bool)
    masks[0, 0, 2, 3] = True
    arrays = DefectBatch(images, masks).numpy()
    assert set(arrays) == {"images", "masks"}
    assert arrays["images"].shape == (1, 4, 6, 3)
    assert arrays["images"].dtype == np.uint8
    assert arrays["images"][0, 0, :, 0].tolist() == [0, 128, 255, 255, 0, 51]
    assert arrays["masks"].shape == (1, 4, 6)
    assert arrays["masks"].dtype == np.uint8
    assert arrays["masks"].sum() == 255
    assert arrays["masks"][0, 2, 3] == 255


def test_numpy_keeps_the_axes_apart() -> None:
    images = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    array = DefectBatch(images).numpy()["images"]
    assert array[1, 2, 5, 0] == round(float(images[1, 0, 2, 5]) * 255)


def test_tile_puts_each_mask_below_its_image() -> None:
    picture = np.asarray(batch(3).tile(columns=2))
    assert picture.shape == (2 * 2 * 4, 2 * 6, 3)
    assert (picture[0:4, 0:6] == 0).all()
    assert (picture[0:4, 6:12] == 26).all()
    assert (picture[8:12, 0:6] == 51).all()
    assert (picture[4, 0] == 255).all()  # the marked corner of the first mask
    assert picture[4:8, 0:6].sum() == 3 * 255
    assert (picture[8:, 6:] == 0).all()  # no fourth sample


def test_tile_of_gray_images_without_masks() -> None:
    picture = DefectBatch(torch.full((4, 1, 4, 6), 1.0)).tile()
    assert picture.mode == "L"
    assert picture.size == (12, 8)
    assert np.asarray(picture).min() == 255


def test_tile_refuses_nothing_to_show() -> None:
    with pytest.raises(ConfigError, match="at least one sample"):
        DefectBatch(torch.zeros(0, 3, 4, 4)).tile()
    with pytest.raises(ConfigError, match="columns"):
        batch().tile(columns=0)
