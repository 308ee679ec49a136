from __future__ import annotations

import collections
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from defectgen.errors import WeightsError
from defectgen.weights import load_resume, resume, save_resume


class Harmful:
    """Makes the folder `path` when it is unpickled without restriction."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "resume.pt"


@pytest.fixture
def saved(path):
    save_resume(path, {"step": 3, "x": torch.arange(1000.0)})
    return path


def test_a_real_training_state_comes_back_bit_for_bit(path):
    net = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters(), betas=(0.0, 0.99))
    net(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    payload = {
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.Generator().manual_seed(5).get_state(),
        "history": [{"kimg": 0.1, "kid": None, "best": True, "name": "a", "inf": float("inf")}],
        "by_step": {1: (2, 3)},
        "large": 2**80,
        "bf16": torch.tensor([1.5], dtype=torch.bfloat16),
        "nan": torch.tensor(float("nan")),
    }
    save_resume(path, payload)
    loaded = load_resume(path)
    assert loaded["history"] == payload["history"]
    assert loaded["by_step"] == {1: (2, 3)}
    assert loaded["large"] == 2**80
    assert loaded["bf16"].dtype == torch.bfloat16
    assert bool(loaded["nan"].isnan())
    torch.Generator().set_state(loaded["rng"])

    fresh = nn.Linear(3, 2)
    fresh.load_state_dict(loaded["net"])
    assert torch.equal(fresh.weight, net.weight)
    again = torch.optim.Adam(fresh.parameters())
    again.load_state_dict(loaded["optimizer"])
    assert again.param_groups[0]["betas"] == (0.0, 0.99)
    assert torch.equal(again.state[fresh.weight]["exp_avg"], optimizer.state[net.weight]["exp_avg"])


def test_tensors_are_stored_without_history_and_only_their_own_part(path):
    large = torch.zeros(1 << 20)
    save_resume(path, {"view": large[:2], "p": nn.Parameter(torch.ones(2)), "t": large[:4:2]})
    assert path.stat().st_size < 10_000
    loaded = load_resume(path)
    assert type(loaded["p"]) is torch.Tensor
    assert not loaded["p"].requires_grad


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.float64(1.0), r"a float64 at payload\['a'\]\[0\]\['b'\]"),
        (np.zeros(2), "a ndarray"),
        ({"x"}, "a set"),
        (b"x", "a bytes"),
        (torch.float32, "a dtype"),
        (collections.namedtuple("Point", "x")(1), "a Point"),
        ({(1, 2): 3}, r"the key \(1, 2\)"),
        ({True: 3}, "the key True"),
        (torch.eye(2).to_sparse(), "layout torch.sparse"),
    ],
)
def test_other_objects_are_refused_with_their_place_and_nothing_is_written(path, value, words):
    with pytest.raises(WeightsError, match=words):
        save_resume(path, {"a": [{"b": value}]})
    assert list(path.parent.iterdir()) == []


def test_a_writer_that_fails_halfway_leaves_the_old_file_and_no_temporary(saved, monkeypatch):
    before = saved.read_bytes()

    def half_a_file(_, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half_a_file)
    with pytest.raises(OSError, match="disk full"):
        save_resume(saved, {"step": 4})
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_missing(path):
    with pytest.raises(WeightsError, match="existing resume file"):
        load_resume(path)


def test_truncated(saved):
    whole = saved.read_bytes()
    for size in (0, 1, 10, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:size])
        with pytest.raises(WeightsError, match="damaged or foreign"):
            load_resume(saved)


def test_one_changed_bit_in_a_tensor(saved):
    data = bytearray(saved.read_bytes())
    place = data.find(torch.arange(1000.0).numpy().tobytes())
    assert place > 0
    data[place + 5] ^= 1
    saved.write_bytes(data)
    with pytest.raises(WeightsError, match="wrong checksum"):
        load_resume(saved)


def test_an_object_with_code_is_refused_and_the_code_does_not_run(path, tmp_path):
    made = tmp_path / "made"
    torch.save({"defectgen_resume": 1, "payload": {"a": Harmful(made)}}, path)
    with pytest.raises(WeightsError, match="not plain"):
        load_resume(path)
    assert not made.exists()
    # The same file does harm where loading is not restricted: the test would notice.
    torch.load(path, weights_only=False)
    assert made.exists()


def test_a_bare_pickle_is_refused_and_its_code_does_not_run(path, tmp_path):
    made = tmp_path / "made"
    path.write_bytes(pickle.dumps({"defectgen_resume": 1, "payload": {"a": Harmful(made)}}))
    with pytest.raises(WeightsError, match="damaged or foreign"):
        load_resume(path)
    assert not made.exists()


@pytest.mark.parametrize("content", [{"a": 1}, [1], torch.ones(2), {"payload": [1]}])
def test_a_torch_file_of_something_else(path, content):
    torch.save(content, path)
    with pytest.raises(WeightsError, match="something else"):
        load_resume(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_another_archive(path, compression):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a/data.pkl", b"0" * 1000)
    with pytest.raises(WeightsError, match="not plain|compressed"):
        load_resume(path)


def test_another_version(saved, monkeypatch):
    monkeypatch.setattr(resume, "RESUME_VERSION", 2)
    with pytest.raises(WeightsError, match="version 1, not 2"):
        load_resume(saved)


def test_a_full_disk_is_told_as_such_and_the_old_file_stays(saved, small_files):
    before = saved.read_bytes()
    with small_files(), pytest.raises(OSError, match="File too large"):
        save_resume(saved, {"x": torch.zeros(10**6)})
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]
