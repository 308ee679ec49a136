from __future__ import annotations

import warnings
from pathlib import Path
from types import FunctionType

import numpy as np
import pytest
import torch
from PIL import Image
from sample_pictures import load, noise, one, save

from defectgen.data.images import load_images
from defectgen.errors import ConfigError, DataWarning, ImageError


def test_all_sources_give_the_same_bytes_and_digest(tmp_path: Path) -> None:
    arrays = [noise(seed=i) for i in range(3)]
    (tmp_path / "d").mkdir()
    paths = [save(tmp_path / "d" / f"x{i}.png", array) for i, array in enumerate(arrays)]
    batch = np.stack(arrays).transpose(0, 3, 1, 2)
    expected = load(arrays)
    for source in (
        tmp_path / "d",
        str(tmp_path / "d"),
        paths,
        [str(path) for path in paths],
        tuple(Image.open(path) for path in paths),
        batch,
        torch.from_numpy(batch.copy()),
        torch.from_numpy(batch.copy()).float() / 255,
        (batch / 255.0),
        (torch.from_numpy(batch.copy()).double() / 255).requires_grad_(),
        [paths[0], Image.open(paths[1]), arrays[2]],
    ):
        found = load(source)
        assert torch.equal(found.images, expected.images)
        assert found.digest == expected.digest


def test_result_has_the_promised_form() -> None:
    found = load([noise()])
    assert found.images.shape == (1, 3, 32, 32)
    assert found.images.dtype == torch.uint8
    assert found.images.is_contiguous()
    assert found.digest.startswith("sha256:")
    assert len(found.digest) == 7 + 64


def test_digest_depends_on_pixels_order_and_shape_only(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    save(tmp_path / "a" / "1.png", noise())
    save(tmp_path / "b" / "other.bmp", noise())
    base = load(tmp_path / "a").digest
    assert load(tmp_path / "b").digest == base
    changed = noise().copy()
    changed[:10, :10] ^= 64
    two = [noise(seed=1), noise(seed=2)]
    digests = {
        base,
        load([changed]).digest,
        load(two).digest,
        load(two[::-1]).digest,
        load([noise(64)], 64).digest,
        load([noise(channels=1)], channels=1).digest,
        load([noise(channels=1)], channels=3).digest,
    }
    assert len(digests) == 7


def test_digest_tells_channels_from_images() -> None:
    planes = [noise(32, channels=1, seed=i) for i in range(3)]
    gray, color = load(planes, channels=1), load([np.dstack(planes)])
    assert gray.images.numpy().tobytes() == color.images.numpy().tobytes()
    assert gray.digest != color.digest


def test_names(tmp_path: Path) -> None:
    save(tmp_path / "b.png", noise(seed=1))
    save(tmp_path / "a.PNG", noise(seed=2))
    assert load(tmp_path).names == ("a.PNG", "b.png")
    assert load([tmp_path / "b.png"]).names == ("b.png",)
    assert load([noise(seed=1), noise(seed=2)]).names == ("0000", "0001")


def test_folder_takes_every_suffix_and_ignores_the_rest(tmp_path: Path) -> None:
    suffixes = ["png", "jpg", "JPEG", "bmp", "tif", "TIFF", "webp"]
    for index, suffix in enumerate(suffixes):
        save(tmp_path / f"{index}.{suffix}", noise(seed=index))
    save(tmp_path / ".hidden.png", noise(seed=50))
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "sub.png").mkdir()
    assert load(tmp_path).names == tuple(f"{i}.{suffix}" for i, suffix in enumerate(suffixes))


def test_folder_problems(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="files ending in png, jpg, jpeg, bmp, tif, tiff, webp"):
        load(tmp_path)
    with pytest.raises(ImageError, match="must name a folder; .* which is nothing; check"):
        load(tmp_path / "none")
    with pytest.raises(ImageError, match="which is a file; pass a list with the path in it"):
        load(save(tmp_path / "a.png", noise()))


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ([], "at least one image; got none"),
        (None, "got NoneType"),
        (7, "got int"),
        ({"a": 1}, "got dict"),
        (b"abc", "got bytes"),
        (Image.new("L", (40, 40)), "got Image; put it into a list"),
        ((x for x in range(2)), "got generator; turn it into"),
        ([torch.zeros(3, 40, 40)], r"\[0\]: is a tensor in a list: .*torch.stack"),
        ([None, 3], r"got 2 bad of 2.*\n  \[0\]: is NoneType.*\n  \[1\]: is int"),
        (np.zeros((40, 40, 3), np.uint8), "put a single image into a list"),
        (torch.zeros(3, 40, 40), "put a single image into a list"),
        (torch.zeros(2, 40, 40, 3), "move the channels first"),
        (torch.zeros(2, 4, 40, 40), "drop the alpha channel"),
        (torch.zeros(0, 3, 40, 40), "at least one image"),
        (torch.zeros(2, 2, 40, 40), "1 or 3 channels"),
    ],
)
def test_wrong_sources(source: object, match: str) -> None:
    with pytest.raises(ImageError, match=match):
        load(source)


def test_argument_is_named_as_the_user_wrote_it() -> None:
    with pytest.raises(ImageError, match="^pictures: "):
        load_images([], resolution=32, channels=3, name="pictures")
    with pytest.raises(ImageError, match="^good_images: "):
        load([])


@pytest.mark.parametrize(("resolution", "channels"), [(48, 3), (16, 3), (2048, 3), (32, 2)])
def test_wrong_parameters(resolution: int, channels: int) -> None:
    with pytest.raises(ConfigError):
        load([noise()], resolution, channels)


@pytest.mark.parametrize(
    ("low", "high", "advice"),
    [
        (-1.0, 1.0, r"pass \(x \+ 1\) / 2"),
        (0.0, 255.0, "pass x / 255"),
        (0.0, 1.0001, "pass x / 255"),
        (-3.0, 3.0, "scale it"),
        (0.0, float("nan"), "NaN"),
        (0.0, float("inf"), "scale it"),
    ],
)
def test_float_out_of_range(low: float, high: float, advice: str) -> None:
    batch = torch.full((2, 3, 40, 40), low)
    batch[1, 2, 3, 4] = high
    for source in (batch, batch.numpy()):
        with pytest.raises(ImageError, match=f"float tensor must be in .*{advice}"):
            load(source)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8, torch.bool])
def test_other_types_are_refused(dtype: torch.dtype) -> None:
    kind = str(dtype).removeprefix("torch.")
    batch = torch.ones(2, 3, 40, 40, dtype=dtype)
    for source in (batch, batch.numpy()):
        with pytest.raises(ImageError, match=f"uint8 from 0 to 255 or float .*; got {kind}"):
            load(source)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types(dtype: torch.dtype) -> None:
    batch = torch.zeros(2, 1, 32, 32, dtype=dtype)
    batch[0] = 1
    assert load(batch).images.float().mean() == 127.5


def test_floats_are_rounded_not_cut() -> None:
    batch = torch.full((1, 1, 32, 32), 100.6 / 255)
    assert load(batch).images.unique().tolist() == [101]


def test_uint8_without_a_value_above_one_is_a_lost_float() -> None:
    batch = torch.zeros(2, 3, 40, 40, dtype=torch.uint8)
    batch[0] = 1
    with pytest.raises(ImageError, match="no value above 1; pass the float tensor"):
        load(batch)


def test_strided_and_read_only_arrays() -> None:
    array = np.stack([noise(seed=1), noise(seed=2)]).transpose(0, 3, 1, 2)
    flipped = array[:, :, ::-1]
    flipped.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load(flipped)
    assert torch.equal(found.images, load(np.ascontiguousarray(flipped)).images)


def test_input_is_not_changed() -> None:
    batch = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    kept = batch.clone()
    load(batch).images.zero_()
    assert torch.equal(batch, kept)
    array = noise(32)
    same_size = load([array])
    same_size.images.zero_()
    assert np.array_equal(array, noise(32))


@pytest.mark.parametrize(
    ("sides", "expected"),
    [((32,), 32), ((63, 200), 32), ((64,), 64), ((255, 300), 128), ((256,), 256), ((1100,), 256)],
)
def test_automatic_resolution(sides: tuple[int, ...], expected: int, tmp_path: Path) -> None:
    arrays = [noise(side, channels=1, seed=side) for side in sides]
    paths = [save(tmp_path / f"{array.shape[0]}.png", array) for array in arrays]
    for source in (arrays, paths, [Image.fromarray(array) for array in arrays]):
        assert load(source, resolution=None).images.shape[2:] == (expected, expected)
    if len(arrays) == 1:
        assert load(arrays[0][None, None], resolution=None).images.shape[3] == expected


def test_enlarging_is_warned_about() -> None:
    with pytest.warns(DataWarning, match=r"good_images: 1 of 2 \(\[0\]\) are smaller"):
        found = load([noise(40), noise(64, seed=1)], resolution=64)
    assert found.images.shape == (2, 3, 64, 64)


def test_resizing_averages_instead_of_skipping() -> None:
    stripes = np.zeros((256, 256), np.uint8)
    stripes[:, ::2] = 255
    inner = one(stripes, channels=1)[0, 4:-4, 4:-4].float()
    assert inner.mean() == pytest.approx(127.5, abs=1)
    assert inner.std() < 2


def test_duplicates_are_warned_about() -> None:
    with pytest.warns(DataWarning, match=r"2 of 4 \(\[2\], \[3\]\) repeat an earlier image"):
        load([noise(seed=1), noise(seed=2), noise(seed=1), noise(seed=2)])


def test_warning_points_to_the_caller_of_fit() -> None:
    def fit() -> None:
        load_images([noise(), noise()], resolution=32, channels=3)

    inside = FunctionType(fit.__code__, {**globals(), "__name__": "defectgen.somewhere"})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        line = fit.__code__.co_firstlineno + 7
        inside()
    assert (caught[0].filename, caught[0].lineno) == (__file__, line)
