from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from defectgen.errors import ConfigError
from defectgen.sheet import CAPTION_HEIGHT, OUTLINE, SheetRow, contact_sheet


def outlined(picture: Image.Image) -> np.ndarray:
    return (np.asarray(picture) == OUTLINE).all(axis=2)


def test_size_and_places() -> None:
    values = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1)
    rows = [SheetRow("a", values.expand(3, 3, 40, 40)), SheetRow("b", torch.zeros(1, 1, 40, 40))]
    sheet = contact_sheet(rows, columns=2, tile=32)
    assert sheet.mode == "RGB"
    assert sheet.size == (64, 2 * CAPTION_HEIGHT + 3 * 32)
    pixels = np.asarray(sheet)
    top = CAPTION_HEIGHT
    assert (pixels[top : top + 32, :32] == 0).all()
    assert (pixels[top : top + 32, 32:] == 128).all()
    # The third image goes on in a second line.
    assert (pixels[top + 32 : top + 64, :32] == 255).all()
    assert (pixels[-32:, :32] == 0).all()


def test_caption_is_drawn_and_fits() -> None:
    image = torch.zeros(1, 3, 32, 32)
    plain = contact_sheet([SheetRow("", image)], columns=1, tile=32)
    named = contact_sheet([SheetRow("a rather long caption, 17 images", image)], columns=1, tile=32)
    assert (np.asarray(plain)[:CAPTION_HEIGHT] == 255).all()
    assert plain.width == 32
    assert named.width > 100
    strip = np.asarray(named)[:CAPTION_HEIGHT]
    assert (strip < 128).any()
    assert (strip[:, -1] == 255).all()  # nothing cut off at the right


def test_uint8_and_float_images_look_the_same() -> None:
    pixels = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    pixels = pixels.to(torch.uint8)
    one = contact_sheet([SheetRow("x", pixels)], columns=2, tile=32)
    two = contact_sheet([SheetRow("x", pixels.float() / 255)], columns=2, tile=32)
    assert one.tobytes() == two.tobytes()


def test_mask_is_outlined_and_the_defect_stays_visible() -> None:
    masks = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    masks[0, 0, 10:14, 10:14] = True
    row = SheetRow("", torch.full((1, 3, 32, 32), 0.5), masks)
    ring = outlined(contact_sheet([row], columns=1, tile=32))[CAPTION_HEIGHT:]
    assert ring.sum() == 6 * 6 - 4 * 4
    assert not ring[10:14, 10:14].any()
    assert ring[9, 9:15].all()


def test_scratch_of_one_pixel_is_still_outlined_on_a_small_tile() -> None:
    masks = torch.zeros(1, 1, 256, 256, dtype=torch.uint8)
    masks[0, 0, 100, 20:200] = 1
    row = SheetRow("", torch.zeros(1, 1, 256, 256), masks)
    ring = outlined(contact_sheet([row], columns=1, tile=16))
    assert ring.sum() > 20


def test_written_as_png(tmp_path: Path) -> None:
    row = SheetRow("x", torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    sheet = contact_sheet([row], tmp_path / "sheet", columns=1)
    with Image.open(tmp_path / "sheet") as loaded:
        assert loaded.format == "PNG"
        assert loaded.tobytes() == sheet.tobytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["sheet"]


def test_gradients_do_not_matter() -> None:
    images = torch.zeros(1, 3, 32, 32, requires_grad=True)
    assert contact_sheet([SheetRow("", images)], columns=1).size == (96, 96 + CAPTION_HEIGHT)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (SheetRow("", torch.zeros(3, 8, 8)), r"rows\[0\].images: must have the shape"),
        (SheetRow("", torch.zeros(1, 4, 8, 8)), r"rows\[0\].images: must have the shape"),
        (SheetRow("", torch.zeros(1, 3, 8, 8).long()), r"rows\[0\].images: must be uint8 or float"),
        (SheetRow("", torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8)), r"rows\[0\].masks: must"),
    ],
)
def test_refuses_wrong_rows(row: SheetRow, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contact_sheet([row], columns=1)


def test_refuses_wrong_numbers() -> None:
    row = SheetRow("", torch.zeros(1, 3, 8, 8))
    with pytest.raises(ConfigError, match="columns"):
        contact_sheet([row], columns=0)
    with pytest.raises(ConfigError, match="tile"):
        contact_sheet([row], columns=1, tile=2)
    with pytest.raises(ConfigError, match="rows"):
        contact_sheet([], columns=1)
