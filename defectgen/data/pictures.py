"""One image in any of its usual codings becomes 8-bit gray or RGB, at any size."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from defectgen.data.sources import Array, Item, Unusable, Value, open_picture
from defectgen.errors import ImageError

MIN_SIDE = 32
#: A picture without a brighter value, in 8 bits, is nearly black. Of color pictures with 16 bits
#: the decoder keeps the upper ones only: those of a camera with 12 bits end here.
NEARLY_BLACK = 15

_TWELVE_BIT = "have 16 bits but no value above 4095, which comes out dark: scale it first"
_BLACK = (
    f"have no value above {NEARLY_BLACK} of 255, which is nearly black: check with how many bits "
    "it was saved"
)
_ADVICE = {
    "CMYK": "convert it to RGB with its color profile",
    "I": "save it with 8 or 16 bits",
    "F": "save it with 8 or 16 bits",
}


def split_batch(batch: Tensor | Array, argument: str) -> list[Item]:
    """Cut one tensor or array of images into items.

    Args:
        batch: (N, C, H, W), C = 1 or 3; uint8 from 0 to 255, or float in [0, 1].
        argument: The argument, as the user wrote it.

    Returns:
        N items that hold (H, W, C) uint8 arrays.

    Raises:
        ImageError: another shape, type or range.
    """
    shape = tuple(batch.shape)
    if len(shape) != 4 or shape[1] not in (1, 3) or 0 in shape:
        advice = "reshape it"
        if len(shape) == 4 and shape[3] in (1, 3):
            advice = "move the channels first, for a tensor with x.permute(0, 3, 1, 2)"
        elif len(shape) == 4 and shape[1] == 4:
            advice = "drop the alpha channel with x[:, :3]"
        elif len(shape) in (2, 3):
            advice = "put a single image into a list, as an (H, W) or (H, W, C) uint8 array"
        raise ImageError(
            f"{argument}: a tensor must have the shape (N, C, H, W) with 1 or 3 channels and at "
            f"least one image; got {shape}; {advice}"
        )
    images = _eight_bit(batch, argument).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return [Item(f"{i:04d}", f"[{i}]", image) for i, image in enumerate(images)]


def decode_image(value: Value, channels: int) -> tuple[Image.Image, list[str]]:
    """Read one image as a square 8-bit picture of PIL mode L (1 channel) or RGB (3).

    Args:
        value: A path, a PIL image or a uint8 array (H, W) or (H, W, C).
        channels: 3 repeats gray to RGB; 1 accepts RGB only if all channels are equal.

    Returns:
        The picture, and remarks to warn about.

    Raises:
        Unusable: the image cannot be read, is not square, is too small, has transparent pixels,
            or has a mode that does not tell its colors.
    """
    image = open_picture(value)
    if image.width != image.height:
        raise Unusable(f"is {image.width}x{image.height}, not square: crop it or cut windows")
    if image.width < MIN_SIDE:
        raise Unusable(f"is {image.width}x{image.height}: at least {MIN_SIDE} pixels are needed")
    return _in_eight_bits(image, channels)


def decode_oblong(value: Value) -> tuple[Image.Image, list[str]]:
    """The same for a picture of any form and size: of mode L if all its channels are equal."""
    picture, remarks = _in_eight_bits(open_picture(value), 3)
    pixels = np.asarray(picture)
    gray = bool((pixels == pixels[..., :1]).all())
    if gray:
        picture = picture.getchannel(0)
        picture.info.pop("icc_profile", None)  # of colors
    return picture, remarks


def _in_eight_bits(image: Image.Image, channels: int) -> tuple[Image.Image, list[str]]:
    remarks = []
    if image.mode.startswith("I;16"):
        deep = np.asarray(image).astype(np.int64)
        if 0 < deep.max() <= 255:
            raise Unusable(
                "has 16 bits but no value above 255, so it would become black: save it with 8 bits"
            )
        if 255 < deep.max() < 4096:
            remarks.append(_TWELVE_BIT)
        image = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
    image = _without_alpha(image)
    if image.mode in ("1", "P"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if image.mode not in ("L", "RGB"):
        advice = _ADVICE.get(image.mode, "convert it to RGB or 8-bit grayscale")
        raise Unusable(f"has the PIL mode {image.mode}: {advice}")
    picture = _with_channels(image, channels)
    if remarks == [] and 0 < np.asarray(picture).max() <= NEARLY_BLACK:
        remarks.append(_BLACK)
    return picture, remarks


def resize_image(picture: Image.Image, resolution: int) -> Tensor:
    """Resize with antialiasing (Lanczos).

    Args:
        picture: Square, of mode L or RGB.
        resolution: The side R of the result.

    Returns:
        (C, R, R) uint8.
    """
    if picture.width != resolution:
        picture = picture.resize((resolution, resolution), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(picture))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def _eight_bit(batch: Tensor | Array, argument: str) -> Tensor:
    kind = str(batch.dtype).removeprefix("torch.")
    if not (kind == "uint8" or kind in ("float16", "bfloat16", "float32", "float64")):
        raise ImageError(
            f"{argument}: a tensor must be uint8 from 0 to 255 or float in [0, 1]; got {kind}; "
            "convert it to one of these"
        )
    if isinstance(batch, Tensor):
        tensor = batch.detach()
    else:
        # Strides may be negative and memory read-only; torch accepts neither.
        tensor = torch.from_numpy(np.array(batch, order="C"))
    if kind == "uint8":
        if int(tensor.max()) <= 1:  # floats in [0, 1] that lost everything in a cast
            raise ImageError(
                f"{argument}: a uint8 tensor goes from 0 to 255; got no value above 1; "
                "pass the float tensor in [0, 1] itself"
            )
        return tensor
    low, high = float(tensor.amin()), float(tensor.amax())
    if not (low >= 0 and high <= 1):  # so written that NaN is refused too
        advice = "scale it to [0, 1]"
        if low != low or high != high:
            advice = "remove the NaN values"
        elif low >= -1 and high <= 1:
            advice = "if it is in [-1, 1], pass (x + 1) / 2"
        elif low >= 0 and 1 < high <= 255:
            advice = "if it goes to 255, pass x / 255"
        raise ImageError(
            f"{argument}: a float tensor must be in [0, 1]; got values from {low:g} to {high:g}; "
            f"{advice}"
        )
    return tensor.float().mul(255).round().to(torch.uint8)


def _without_alpha(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    if (alpha < 255).any():
        raise Unusable("has transparent pixels: put it on its background and save it without alpha")
    # RGBA first: a palette with an alpha channel has no direct way to RGB.
    return image.convert("L") if image.mode in ("L", "LA") else image.convert("RGBA").convert("RGB")


def _with_channels(image: Image.Image, channels: int) -> Image.Image:
    if channels == 3 or image.mode == "L":
        return image.convert("RGB") if channels == 3 else image
    colors = np.asarray(image)
    if not (colors == colors[..., :1]).all():
        raise Unusable("is in color, but channels=1: pass channels=3 or convert it to grayscale")
    return image.getchannel(0)
