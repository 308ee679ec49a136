"""One mask in any of its usual codings becomes a boolean picture, at any size."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from defectgen.data.sources import Array, Item, Unusable, Value, list_items, open_picture
from defectgen.errors import ImageError, MaskError
from defectgen.morphology import dilated

BoolArray = NDArray[np.bool_]

MAX_FOREGROUND = 0.8  # more than this is taken for an inverted mask
LOSSY_MARGIN = 32  # how far JPEG moves the values of a mask away from 0 and 255
LOSSY_REST = 1e-3  # and the share of pixels that may lie farther away

_SPLIT = "if they are classes, pass one class at a time; if the mask is blurred, threshold it"


def list_masks(source: object, argument: str = "masks") -> list[Item]:
    """Name every mask of a folder, a sequence, or one (N, 1, H, W) or (N, H, W) tensor or array.

    Raises:
        MaskError: the source is none of these or is empty.
    """
    if isinstance(source, Tensor):
        source = _as_array(source)
    if isinstance(source, np.ndarray):
        if source.ndim == 4 and source.shape[1] == 1:
            source = source[:, 0]
        if source.ndim != 3 or 0 in source.shape:
            raise MaskError(
                f"{argument}: a tensor of masks must have the shape (N, 1, H, W) or (N, H, W) "
                f"with N of at least 1; got {source.shape}; reshape it"
            )
        return [Item(f"{i:04d}", f"[{i}]", mask) for i, mask in enumerate(source)]
    try:
        return list_items(source, argument)
    except ImageError as error:
        raise MaskError(str(error)) from error


def decode_mask(value: Value) -> tuple[BoolArray, str | None]:
    """Read a mask as a two-valued picture, or say why it is none.

    Accepted: two gray values of which 0 is the background (0/255, 0/1, bool, ...); a palette with
    two indices of which 0 is the background; RGB with equal channels, or with two colors of
    which one is black; JPEG-like gray values within 32 of 0 and 255, which are cut at 128. An
    alpha channel is ignored if it is opaque. Float arrays hold 0 and 1 only.

    Args:
        value: A path, a PIL image, or an (H, W) or (H, W, C) array.

    Returns:
        (H, W) bool, True on the defect, and a remark to warn about or None.

    Raises:
        Unusable: anything else; an empty mask; one that covers more than 80 % of the picture.
    """
    remark = None
    if isinstance(value, np.ndarray) and value.ndim == 3 and value.shape[2] == 1:
        value = value[:, :, 0]
    if isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype != np.uint8:
        mask = _from_numbers(value)
    else:
        mask, remark = _from_picture(open_picture(value))
    share = float(mask.mean())
    if share == 0:
        raise Unusable("is empty, no pixel is marked: drop this pair")
    if share > MAX_FOREGROUND:
        raise Unusable(
            f"marks {share:.0%} of the picture: if defect and background are swapped, invert it; "
            "otherwise drop this pair"
        )
    return mask, remark


def resize_mask(mask: BoolArray, resolution: int) -> BoolArray:
    """Resize a mask by area, so that thin defects stay visible.

    A cell of the result is marked if at least half of its area is. In addition, where a marked
    structure is so thin that no cell in the 3x3 neighborhood reached one half, it is drawn one
    cell wide: a touched cell there is marked if its coverage is at least half of the largest in
    that neighborhood; and the touched cells between such a line and a filled part are marked, so
    that a tail stays joined to its blob. Hence no connected part of a mask ever vanishes, and
    what is thinner than half a cell grows to one cell.

    Args:
        mask: (H, W) bool.
        resolution: The side R of the result.

    Returns:
        (R, R) bool.
    """
    if mask.shape == (resolution, resolution):
        # A copy: what PIL gave may not be written to, and torch warns of that.
        return np.array(mask, dtype=np.bool_)
    coverage = torch.from_numpy(_coverage(mask, resolution))  # (R, R) in [0, 1]
    touched = coverage > 0
    solid = coverage >= 0.5
    lost = touched & ~_near(solid)
    peak = dilated((coverage * lost)[None])[0]
    line = lost & (coverage >= 0.5 * peak)
    bridge = touched & _near(line) & _near(solid)
    result: BoolArray = (solid | line | bridge).numpy()
    return result


def _near(cells: Tensor) -> Tensor:
    # (R, R) bool -> True where the 3x3 neighborhood holds a True.
    return dilated(cells[None].float())[0] > 0


def _coverage(mask: BoolArray, resolution: int) -> NDArray[np.float32]:
    # The exact share of each cell, also where cells cut pixels: PIL's box filter only samples.
    rows = _mean_over_cells(mask, resolution)  # (R, W)
    cells = _mean_over_cells(rows.T, resolution).T  # (R, R)
    # Rounding in the sums must neither touch an empty cell nor miss an exact half.
    return np.ascontiguousarray(np.round(cells, 6), dtype=np.float32)


def _mean_over_cells(values: Array, cells: int) -> NDArray[np.float64]:
    # (H, W) -> (cells, W): differences of the running sum, linear inside a pixel.
    height = values.shape[0]
    exact = np.int32 if values.dtype == np.bool_ else np.float64
    total = np.zeros((height + 1, values.shape[1]), exact)
    np.cumsum(values, axis=0, out=total[1:])
    edges = np.arange(cells + 1) * height / cells
    lower = np.minimum(edges.astype(np.int64), height - 1)
    part = (edges - lower)[:, None]
    at_edges = total[lower] * (1 - part) + total[lower + 1] * part
    means: NDArray[np.float64] = np.diff(at_edges, axis=0) * (cells / height)
    return means


def _as_array(tensor: Tensor) -> Array:
    if tensor.is_floating_point():
        tensor = tensor.float()  # numpy has no bfloat16
    array: Array = tensor.detach().cpu().numpy()
    return array


def _from_numbers(values: Array) -> BoolArray:
    # Label arrays and tensors of any type but uint8, which is decoded like a file.
    if values.dtype == np.bool_:
        return values.astype(np.bool_)
    if np.issubdtype(values.dtype, np.integer):
        return _from_gray(values)[0]
    if not np.issubdtype(values.dtype, np.floating):
        raise Unusable(f"is an array of {values.dtype}: convert it to bool or uint8")
    if not np.isin(values, (0, 1)).all():
        raise Unusable("has float values other than 0 and 1: pass a bool mask, such as mask > 0.5")
    return values > 0


def _from_picture(image: Image.Image) -> tuple[BoolArray, str | None]:
    if image.mode in ("P", "PA"):
        _check_alpha(image, explicit=image.mode == "PA")
        return _from_palette(image), None
    if image.has_transparency_data:
        _check_alpha(image, explicit=True)
        image = image.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB")
    if image.mode == "1":
        return np.asarray(image, dtype=np.bool_), None
    if image.mode == "RGB":
        colors = np.asarray(image)
        if (colors == colors[..., :1]).all():
            return _from_gray(colors[..., 0])
        return _from_colors(colors), None
    if image.mode == "L" or image.mode.startswith("I"):
        return _from_gray(np.asarray(image))
    raise Unusable(f"has the PIL mode {image.mode}: save it as 8-bit grayscale with 0 and 255")


def _check_alpha(image: Image.Image, *, explicit: bool) -> None:
    # Transparency of single palette entries is decoration: the indices hold the mask.
    if not explicit:
        return
    low, _ = image.convert("RGBA").getchannel("A").getextrema()
    if low != 255:
        raise Unusable(
            "has transparent pixels, so alpha and color may both be the mask: save the one that "
            "is meant as 8-bit grayscale with 0 and 255"
        )


def _from_gray(values: Array) -> tuple[BoolArray, str | None]:
    levels, counts = np.unique(values, return_counts=True)
    found = [int(level) for level in levels]
    if len(found) == 1 or (len(found) == 2 and found[0] == 0):
        return np.asarray(values != 0), None
    if _looks_lossy(levels, counts):
        return np.asarray(values >= 128), "look like JPEG masks and were cut at 128: use PNG"
    if len(found) == 2:
        raise Unusable(
            f"has the values {found[0]} and {found[1]}, without 0 as background: "
            "save it with 0 for background and 255 for defect"
        )
    some = ", ".join(str(level) for level in found[:5]) + (", ..." if len(found) > 5 else "")
    raise Unusable(f"has {len(found)} gray values ({some}) instead of two: {_SPLIT}")


def _looks_lossy(levels: Array, counts: NDArray[np.intp]) -> bool:
    grays = levels.astype(np.int64)
    if grays[0] < 0 or grays[-1] > 255:
        return False
    low, high = grays <= LOSSY_MARGIN, grays >= 255 - LOSSY_MARGIN
    # Compression moves values at both ends. Without this, a class map with 255 for "ignore"
    # (0, 1, 255) would pass, and its ignored border would become the defect.
    moved = (low & (grays > 0)).any() and (high & (grays < 255)).any()
    rest = counts[~(low | high)].sum() / counts.sum()
    return bool(moved and rest <= LOSSY_REST)


def _from_colors(colors: Array) -> BoolArray:
    # (H, W, 3) uint8 -> (H, W) bool
    wide = colors.astype(np.int32)
    codes = (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]
    found = np.unique(codes)
    if len(found) > 2:
        raise Unusable(f"has {len(found)} colors instead of two: {_SPLIT}")
    if len(found) == 2 and found[0] != 0:
        first, second = (f"#{int(code):06x}" for code in found)
        raise Unusable(f"has the colors {first} and {second}, neither black: make one black")
    return np.asarray(codes != 0)


def _from_palette(image: Image.Image) -> BoolArray:
    indices = np.asarray(image if image.mode == "P" else image.getchannel("P"))
    found = [int(index) for index in np.unique(indices)]
    if len(found) > 2:
        raise Unusable(f"has {len(found)} palette indices {found[:5]} instead of two: {_SPLIT}")
    colors = np.asarray(image.convert("RGB"))
    black = [index for index in found if not colors[indices == index][0].any()]
    if len(found) == 1:
        return np.asarray(indices != 0)
    # Some programs reorder palettes when saving; then index and color contradict each other.
    if black == [found[1]] or (found[0] != 0 and black != [found[0]]):
        raise Unusable(
            f"has the palette indices {found[0]} and {found[1]}, which do not tell the background: "
            "save it as 8-bit grayscale with 0 for background and 255 for defect"
        )
    return np.asarray(indices != found[0])
