"""Where windows around the defects of a photo lie."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from defectgen.data.masks import MAX_FOREGROUND, BoolArray

#: Of what a further window shows of the mask, at least this share is in no earlier one.
LEAST = 0.25
#: Places looked at for each window that is wanted: what is left at the edge of one counts, too.
TRIES = 4


def defect_places(mask: BoolArray, side: int, count: int) -> list[tuple[int, int]]:
    """Left and top of windows that show the most of a mask, in their middle where they can.

    Args:
        mask: (H, W), both at least ``side``.
        side: of a window.
        count: at most so many windows.
    """
    # Only places that show any of it: photos are large, and defects small.
    (top, bottom), (left, right) = (_reach(np.asarray(mask.any(axis)), side) for axis in (1, 0))
    near = mask[top:bottom, left:right]
    rest, found = near.copy(), list[tuple[int, int]]()
    # What fills its window shows no place around the defect, and is refused as a mask.
    allowed = _sums(near, side) <= MAX_FOREGROUND * side**2
    for _ in range(TRIES * count):
        shown = _sums(rest, side) * allowed
        best = int(shown.max())
        if best == 0 or len(found) == count:
            break
        row, column = _middle(rest, shown == best, side)
        part = slice(row, row + side), slice(column, column + side)
        if best >= LEAST * near[part].sum():
            found.append((left + column, top + row))
        rest[part] = False
    return found


def _reach(marked: NDArray[np.bool_], side: int) -> tuple[int, int]:
    """From where to where windows lie that show any of what is marked along one axis."""
    there = np.flatnonzero(marked)
    return max(0, int(there[0]) - side + 1), min(len(marked), int(there[-1]) + side)


def _middle(rest: BoolArray, places: BoolArray, side: int) -> tuple[int, int]:
    """Of places that show as much, the one that has in its middle what the first of them shows."""
    rows, columns = np.nonzero(places)
    seen = np.nonzero(rest[rows[0] : rows[0] + side, columns[0] : columns[0] + side])
    row, column = (
        at[0] + some.mean() - (side - 1) / 2 for at, some in zip((rows, columns), seen, strict=True)
    )
    nearest = int(((rows - row) ** 2 + (columns - column) ** 2).argmin())
    return int(rows[nearest]), int(columns[nearest])


def _sums(mask: BoolArray, side: int) -> NDArray[np.int32]:
    """How much of a mask (H, W) each window shows: (H - side + 1, W - side + 1)."""
    table = np.pad(mask.cumsum(0, dtype=np.int32).cumsum(1, dtype=np.int32), ((1, 0), (1, 0)))
    part = table[side:, side:] - table[:-side, side:] - table[side:, :-side]
    return np.asarray(part + table[:-side, :-side], np.int32)
