"""Checks of plain parameters: each raises `ConfigError` with a sentence that says the repair."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Collection
from pathlib import Path

from defectgen.errors import ConfigError
from defectgen.system import memory

MIN_RESOLUTION = 32
MAX_RESOLUTION = 1024


def check_fields(owner: str, known: Collection[str], given: Collection[str]) -> None:
    """Check that what was read has every field of a record and no other.

    Raises:
        ConfigError: naming the missing and the unknown fields.
    """
    missing = sorted(set(known) - set(given))
    unknown = sorted(set(given) - set(known))
    if missing or unknown:
        raise ConfigError(
            f"{owner}: exactly its {len(known)} fields; got missing {missing or 'none'}, "
            f"unknown {unknown or 'none'}; use what to_dict of this version gives."
        )


def check_range(
    name: str,
    value: object,
    *,
    low: float | None = None,
    high: float | None = None,
    integer: bool = False,
) -> None:
    """Check that a value is a finite number within bounds.

    Args:
        name: The argument, as the user wrote it.
        value: What the user passed. `True` and `False` are not numbers here.
        low: The smallest value allowed, or None.
        high: The largest value allowed, or None.
        integer: Only whole numbers of an integer type.

    Raises:
        ConfigError: the value is of another type, not finite or out of bounds.
    """
    rule = f"must be {'an integer' if integer else 'a number'}{_bounds(low, high)}"
    kind = numbers.Integral if integer else numbers.Real
    if isinstance(value, bool) or not isinstance(value, kind):
        raise ConfigError(
            f"{name}: {rule}; got {value!r} of type {type(value).__name__}; "
            f"pass {_example(low, high, integer)}"
        )
    # Whole numbers are compared as they are: float() of a huge one overflows or rounds.
    number = int(value) if isinstance(value, numbers.Integral) else float(value)
    inside = (low is None or number >= low) and (high is None or number <= high)
    if not (isinstance(number, int) or math.isfinite(number)) or not inside:
        raise ConfigError(f"{name}: {rule}; got {value!r}; pass {_example(low, high, integer)}")


def check_choice(name: str, value: object, choices: Collection[object]) -> None:
    """Check that a value is one of a few.

    Args:
        name: The argument, as the user wrote it.
        value: What the user passed.
        choices: All that is allowed, in the order in which the message shows them.

    Raises:
        ConfigError: the value is not among the choices.
    """
    # Types too: 1 == True == 1.0 in Python, and none of these may pass for another.
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        listed = ", ".join(repr(choice) for choice in choices)
        raise ConfigError(f"{name}: must be one of {listed}; got {value!r}; pass one of them")


def check_path(name: str, value: object) -> Path:
    """The path that a text or path names.

    Raises:
        ConfigError: the value is neither.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise ConfigError(
            f"{name}: must be a text or a path; got {value!r} of type {type(value).__name__}; "
            "pass the name of a folder"
        )
    if value == "":
        raise ConfigError(f"{name}: must name a folder; got ''; pass its name, or '.'")
    return Path(value)


def check_resolution(value: object, name: str = "resolution") -> None:
    """Check a side length: a power of two from 32 to 1024.

    Raises:
        ConfigError: the value is anything else.
    """
    check_range(name, value, low=MIN_RESOLUTION, high=MAX_RESOLUTION, integer=True)
    side = int(value)  # type: ignore[call-overload]  # check_range proved it
    if side & (side - 1):
        below = 1 << (side.bit_length() - 1)
        raise ConfigError(
            f"{name}: must be a power of two from {MIN_RESOLUTION} to {MAX_RESOLUTION}; "
            f"got {value!r}; pass {below} or {min(2 * below, MAX_RESOLUTION)}"
        )


def check_channels(value: object, name: str = "channels") -> None:
    """Check a number of image channels: 3 for RGB or 1 for grayscale.

    Raises:
        ConfigError: the value is anything else.
    """
    check_range(name, value, low=1, high=3, integer=True)
    if value == 2:
        raise ConfigError(f"{name}: must be 1 or 3; got 2; pass 3 for RGB or 1 for grayscale")


def check_room(n: object, each: int, advice: str) -> None:
    """Check that n images fit into the memory of the machine, if the system tells its size.

    Twice: they are drawn in batches, which are then joined.

    Args:
        n: how many.
        each: bytes of one.
        advice: what to do instead.

    Raises:
        ConfigError: they do not.
    """
    known = memory()
    total = 2 * int(n) * each  # type: ignore[call-overload]  # check_range proved it
    if known is not None and total > known[0]:
        raise ConfigError(
            f"n: as many as fit into memory; got {n}, which take {total / 1e9:.0f} GB of the "
            f"{known[0] / 1e9:.0f} there are; {advice}"
        )


def _bounds(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if low is not None:
        return f" of at least {low}"
    return "" if high is None else f" of at most {high}"


def _example(low: float | None, high: float | None, integer: bool) -> str:
    start = low if low is not None else high if high is not None else 1
    return f"for example {int(start) if integer else float(start)}"
