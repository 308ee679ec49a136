from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sample_pictures import Pixels, load, noise, one, refused, save

from defectgen.data import sources
from defectgen.errors import ImageError


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    turns: dict[int, Callable[[Pixels], Pixels]] = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: np.rot90,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise(32)).save(tmp_path / "e.png", exif=exif)
    expected = np.ascontiguousarray(turns[orientation](noise(32)))
    assert torch.equal(one(tmp_path / "e.png"), one(expected))


def huge_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8001, 10_000, 60_000])
def test_bomb_is_refused_by_its_header(
    tmp_path: Path, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 10,000 makes PIL warn and 60,000 makes it raise; nothing may be decoded in any case.
    (tmp_path / "bomb.png").write_bytes(huge_png(side, side))

    def decoded(self: Image.Image) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(tmp_path / "bomb.png", "more than 64 megapixels: cut it into windows")


def test_limits_hold_for_arrays_and_file_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.png", noise())
    monkeypatch.setattr(sources, "MAX_PIXELS", 1599)
    refused(noise(), "is 40x40, more than")
    refused(path, "is 40x40, more than")
    with Image.open(path) as image:
        refused(image, "is 40x40, more than")
    monkeypatch.setattr(sources, "MAX_BYTES", 10)
    refused(path, "is larger than")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "bmp"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_truncated_files_are_named(tmp_path: Path, suffix: str, part: float) -> None:
    path = save(
        tmp_path / f"cut.{suffix}",
        np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8),
    )
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    refused(path, rf"cut.{suffix}: cannot be (read|decoded)")


def test_damaged_files_never_raise_anything_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "x.png"
    for suffix in ("png", "jpeg", "tiff", "webp", "bmp"):
        buffer = io.BytesIO()
        Image.fromarray(noise()).save(buffer, suffix)
        for _ in range(40):
            data = bytearray(buffer.getvalue())
            for place in rng.integers(0, min(len(data), 200), 4):
                data[place] = rng.integers(256)
            path.write_bytes(bytes(data))
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    assert load([path]).images.shape == (1, 3, 32, 32)
            except ImageError as error:
                assert "x.png" in str(error)  # noqa: PT017


@pytest.mark.parametrize("data", [b"", b"hello", b"GIF89a", b"\x89PNG\r\n\x1a\n"])
def test_not_an_image(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.png").write_bytes(data)
    refused(tmp_path / "x.png", "x.png: cannot be read as PNG, JPEG, BMP, TIFF, WEBP")


def test_other_formats_are_not_tried(tmp_path: Path) -> None:
    Image.fromarray(noise()).save(tmp_path / "x.png", "GIF")
    refused(tmp_path / "x.png", "cannot be read as PNG")


def test_several_frames_are_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(noise(seed=i)) for i in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    refused(tmp_path / "a.tif", "holds 3 pages or frames")


def test_photo_with_an_embedded_preview_is_read(tmp_path: Path) -> None:
    picture, preview = Image.fromarray(noise()), Image.fromarray(noise(16))
    picture.save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[preview])
    with Image.open(tmp_path / "phone.jpg") as image:
        assert (image.format, getattr(image, "n_frames", 1)) == ("MPO", 2)
    difference = one(tmp_path / "phone.jpg").int() - one(noise()).int()
    assert difference.abs().float().mean() < 10


def test_missing_files_and_folders_in_lists(tmp_path: Path) -> None:
    refused(tmp_path / "none.png", "none.png: does not exist: check the path")
    refused(tmp_path, "is not a file")


def test_user_image_stays_usable(tmp_path: Path) -> None:
    with Image.open(save(tmp_path / "a.png", noise())) as image:
        one(image)
        assert np.array_equal(np.asarray(image), noise())


def test_all_bad_files_are_listed_at_once(tmp_path: Path) -> None:
    save(tmp_path / "good.png", noise())
    save(tmp_path / "wide.png", noise()[:33])
    save(tmp_path / "tiny.png", noise()[:16, :16])
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ImageError) as caught:
        load(tmp_path, resolution=None)
    lines = str(caught.value).splitlines()
    assert lines[0] == "good_images: all must be usable; got 3 bad of 4; repair or drop:"
    assert lines[1].startswith("  text.png: cannot be read")
    assert lines[2] == "  tiny.png: is 16x16: at least 32 pixels are needed"
    assert lines[3] == "  wide.png: is 40x33, not square: crop it or cut windows"
    assert len(lines) == 4


def test_long_lists_are_cut_with_a_count() -> None:
    with pytest.raises(ImageError, match="got 25 bad of 26") as caught:
        load([noise(), *[noise()[:33]] * 25])
    lines = str(caught.value).splitlines()
    assert len(lines) == 12
    assert lines[-1] == "  ... and 15 more"
