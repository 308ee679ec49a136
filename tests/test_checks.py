from __future__ import annotations

import math

import numpy as np
import pytest

from defectgen import checks
from defectgen.checks import (
    check_channels,
    check_choice,
    check_fields,
    check_range,
    check_resolution,
)
from defectgen.errors import ConfigError


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.25), np.int64(1)])
def test_range_accepts(value: object) -> None:
    check_range("x", value, low=0, high=1)


@pytest.mark.parametrize(
    "value", [-0.001, 1.001, math.nan, math.inf, -math.inf, "0.5", None, True, 1j, [1]]
)
def test_range_refuses(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^x: must be a number from 0 to 1; got .*; pass "):
        check_range("x", value, low=0, high=1)


@pytest.mark.parametrize("value", [2.0, "2", True, None, np.float64(2)])
def test_integer_refuses_other_types(value: object) -> None:
    with pytest.raises(ConfigError, match="x: must be an integer of at least 1; got .* of type"):
        check_range("x", value, low=1, integer=True)


def test_integer_accepts_integers_of_any_size_and_kind() -> None:
    check_range("x", np.int32(7), low=1, integer=True)
    check_range("x", 10**400, low=1, integer=True)


def test_unbounded_number_still_has_to_be_finite() -> None:
    check_range("x", -1e300)
    with pytest.raises(ConfigError, match="must be a number; got inf"):
        check_range("x", math.inf)
    with pytest.raises(ConfigError, match="of at most 3"):
        check_range("x", 4, high=3)


def test_choice_lists_what_is_allowed() -> None:
    check_choice("mode", "a", ["a", "b"])
    check_choice("mode", None, ["a", None])
    with pytest.raises(ConfigError, match="mode: must be one of 'a', 'b'; got 'c'; pass one"):
        check_choice("mode", "c", ["a", "b"])


@pytest.mark.parametrize("value", [True, 1.0, "1", [1]])
def test_choice_does_not_mix_types(value: object) -> None:
    with pytest.raises(ConfigError, match="must be one of 1, 3"):
        check_choice("n", value, [1, 3])


@pytest.mark.parametrize("value", [32, 64, 128, 256, 512, 1024, np.int64(64)])
def test_resolution_accepts(value: object) -> None:
    check_resolution(value)


@pytest.mark.parametrize("value", [0, 16, 33, 2048, -32, 64.0, "64", None, True])
def test_resolution_refuses(value: object) -> None:
    with pytest.raises(ConfigError, match="resolution: must be"):
        check_resolution(value)


def test_resolution_names_the_neighbors() -> None:
    with pytest.raises(ConfigError, match="got 100; pass 64 or 128"):
        check_resolution(100)


def test_channels() -> None:
    check_channels(1)
    check_channels(3)
    for value in (0, 2, 4, 3.0, True, None):
        with pytest.raises(ConfigError, match="channels: must be"):
            check_channels(value)


def test_fields_are_all_known_and_all_there() -> None:
    check_fields("Shape", ("a", "b"), {"b": 1, "a": 2})
    with pytest.raises(ConfigError, match=r"^Shape: exactly its 2 fields; got missing \['b'\], "):
        check_fields("Shape", ("a", "b"), {"a": 1, "c": 2})
    with pytest.raises(ConfigError, match=r"missing none, unknown \['c'\]; use "):
        check_fields("Shape", ("a",), {"a": 1, "c": 2})


def test_room_is_that_of_the_machine_not_what_is_free(monkeypatch):
    monkeypatch.setattr(checks, "memory", lambda: (16 << 30, 1 << 30))
    checks.check_room(7, 1 << 30, "")  # twice 7 GB of 16
    with pytest.raises(
        ConfigError, match="^n: as many as fit .* take 19 GB of the 17 there are; x"
    ):
        checks.check_room(9, 1 << 30, "x")
    monkeypatch.setattr(checks, "memory", lambda: None)
    checks.check_room(9, 1 << 30, "x")
