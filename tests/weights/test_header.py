from __future__ import annotations

import json
import pickle

import pytest
import safetensors.torch
import torch

from defectgen.errors import WeightsError
from defectgen.weights.header import MAX_HEADER_BYTES, MAX_TENSOR_BYTES, check_header


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def with_header(header, data=b"\0" * 8):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("count", [0, 1, 40])
def test_files_of_the_library_itself_pass(path, count):
    given = {f"layer{i}.weight": torch.full((i, 3), 1.0) for i in range(count)}
    safetensors.torch.save_file(given, path, metadata={"format": "pt"})
    check_header(path)


def test_the_hand_made_file_passes_until_something_is_changed(path):
    path.write_bytes(with_header({"a": entry()}))
    check_header(path)
    assert safetensors.torch.load_file(path)["a"].tolist() == [0.0, 0.0]


def test_missing(path):
    with pytest.raises(WeightsError, match=r"must hold model\.safetensors"):
        check_header(path)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"{]", "not JSON"),
        (b'{"\xff": 1}', "not JSON"),
        (b'{"a":' + b"[" * 200_000, "not JSON"),
        ({"a": entry("BOOL", (8,))}, "'BOOL', not a plain number"),
        ({"a": entry("C64", (1,))}, "'C64', not a plain number"),
        ({"a": entry("F8_E4M3", (8,))}, "not a plain number"),
        ({"a": entry(["F32"])}, "not a plain number"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "incomplete description"),
        ({"a": [1]}, "incomplete description"),
        ({"a": entry(shape=(-2,))}, "no list of sizes"),
        ({"a": entry(shape=(2.0,))}, "no list of sizes"),
        ({"a": entry(shape=(True, 2))}, "no list of sizes"),
        ({"a": entry(offsets=(0, 4, 8))}, "no list of sizes"),
        ({"a": entry(shape=(3,))}, "8 bytes for shape"),
        ({"a": entry(offsets=(8, 0))}, "-8 bytes for shape"),
        ({"a": entry(), "b": entry()}, "gap or overlap"),
        ({"a": entry(offsets=(8, 16))}, "gap or overlap"),
        ({"a": entry(shape=(4,), offsets=(0, 16))}, "8 bytes of tensors where.*claims 16"),
        ({"a": entry(shape=(1,), offsets=(0, 4))}, "8 bytes of tensors where.*claims 4"),
        ({"a": entry(shape=(1 << 31,), offsets=(0, 1 << 33))}, f"more than the {MAX_TENSOR_BYTES}"),
    ],
)
def test_a_header_that_lies_is_refused(path, header, words):
    path.write_bytes(with_header(header))
    with pytest.raises(WeightsError, match=words):
        check_header(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "other than safetensors"),
        (b"\x08\0\0\0", "other than safetensors"),
        (b"PK\x03\x04" + b"\0" * 60, "zip archive"),
        (pickle.dumps({"a": 1}, protocol=2), "a pickle"),
        (pickle.dumps({"a": 1}, protocol=5), "a pickle"),
        (b"<!DOCTYPE html><html></html>", "other than safetensors"),
        (with_header(b"[1]"), "other than safetensors"),
        ((MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}", "other than safetensors"),
        ((999).to_bytes(8, "little") + b"{}", "fewer than its header alone needs"),
    ],
)
def test_other_files_are_refused_by_name_where_possible(path, content, words):
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=words):
        check_header(path)


def test_every_truncation_is_noticed(path):
    whole = with_header({"a": entry()})
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(WeightsError):
            check_header(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(WeightsError, match="9 bytes of tensors"):
        check_header(path)


def test_a_header_whose_length_looks_like_a_pickle_is_read(path):
    text = json.dumps({"a": entry()}).encode().ljust(0x0280)
    path.write_bytes(with_header(text))
    assert path.read_bytes()[:2] == b"\x80\x02"
    check_header(path)
