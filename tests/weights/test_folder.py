from __future__ import annotations

import hashlib
import io
import json
import os
import struct

import pytest
import safetensors.torch
import torch

from defectgen import __version__
from defectgen.errors import ConfigError, WeightsError
from defectgen.weights import (
    FORMAT_VERSION,
    MIGRATIONS,
    folder,
    load_folder,
    save_folder,
    tensor_digest,
)


@pytest.fixture
def tensors():
    g = torch.Generator().manual_seed(0)
    return {
        "g.weight": torch.randn(3, 4, generator=g),
        "g.bias": torch.randn(3, generator=g),
        "g.scale": torch.tensor(1.5),
        "g.step": torch.tensor([7, -2]),
        "g.empty": torch.zeros(0, 2),
    }


@pytest.fixture
def saved(tmp_path, tensors):
    path = tmp_path / "model"
    save_folder(path, "backbone", {"resolution": 64, "preset": "paper"}, tensors)
    return path


def edit_config(path, **changes):
    file = path / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, **changes}))


def everything_below(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


# --- round trips ------------------------------------------------------------------------------


def test_float32_comes_back_bit_for_bit(tmp_path, tensors):
    digest = save_folder(tmp_path / "m", "backbone", {"resolution": 64}, tensors)
    config, loaded = load_folder(tmp_path / "m", "backbone")
    assert digest == config["digest"] == tensor_digest(loaded) == tensor_digest(tensors)
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    assert config["resolution"] == 64
    assert config["kind"] == "backbone"
    assert config["format_version"] == FORMAT_VERSION
    assert config["library_version"] == __version__
    assert config["torch_version"] == str(torch.__version__)


def test_half_is_smaller_and_its_digest_is_that_of_the_rounded_values(tmp_path, tensors):
    digest = save_folder(tmp_path / "m", "backbone", {}, tensors, half=True)
    raw = safetensors.torch.load_file(tmp_path / "m" / "model.safetensors")
    assert raw["g.weight"].dtype == torch.float16
    assert raw["g.step"].dtype == torch.int64
    _, loaded = load_folder(tmp_path / "m", "backbone")
    assert tensor_digest(loaded) == digest != tensor_digest(tensors)
    assert loaded["g.weight"].dtype == torch.float32
    assert torch.equal(loaded["g.weight"], tensors["g.weight"].half().float())
    assert torch.equal(loaded["g.step"], tensors["g.step"])
    assert save_folder(tmp_path / "n", "backbone", {}, loaded) == digest


def test_views_shared_memory_and_gradients_are_saved_as_values(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4).requires_grad_()
    save_folder(tmp_path / "m", "x", {}, {"a": whole.t(), "b": whole[1], "c": whole})
    _, loaded = load_folder(tmp_path / "m", "x")
    assert torch.equal(loaded["a"], whole.detach().t())
    assert torch.equal(loaded["b"], whole.detach()[1])
    assert not loaded["c"].requires_grad


def test_loaded_tensors_do_not_depend_on_the_file(saved, tensors):
    _, loaded = load_folder(saved, "backbone")
    with (saved / "model.safetensors").open("r+b") as file:
        file.seek(-64, os.SEEK_END)
        file.write(b"\xff" * 64)
    assert tensor_digest(loaded) == tensor_digest(tensors)


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="says what is mapped")
def test_a_refused_file_is_not_kept_open(saved):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "digest": "sha256:" + 64 * "0"}))
    with pytest.raises(WeightsError, match="the digest") as caught:
        load_folder(saved, "backbone")
    # While the error is looked at, as whoever removes the folder then does; Windows would not.
    assert caught.value.__traceback__ is not None
    with open("/proc/self/maps") as maps:
        assert str(saved) not in maps.read()


def including(saved):
    """What a synthesizer says of the backbone in its folder."""
    digest = json.loads((saved / "config.json").read_text())["digest"]
    return {"backbone": {"included": True, "digest": digest}}


def test_include_copies_the_two_files(tmp_path, saved, tensors):
    (saved / "stray.txt").write_text("not copied")
    path = tmp_path / "synth"
    save_folder(path, "synthesizer", {}, tensors, include={"backbone": saved})
    assert sorted(p.name for p in (path / "backbone").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    assert load_folder(path / "backbone", "backbone")[0]["resolution"] == 64


def test_a_sub_folder_of_the_replaced_folder_can_be_included(tmp_path, saved, tensors):
    path, config = tmp_path / "synth", including(saved)
    for _ in range(2):
        save_folder(path, "synthesizer", config, tensors, include={"backbone": saved})
        saved = path / "backbone"
    assert tensor_digest(load_folder(saved, "backbone")[1]) == tensor_digest(tensors)


# --- what is replaced ---


def tree(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def lay(root, content):
    """Write texts by their paths; True stands for weights."""
    for name, text in content.items():
        if text is True:
            save_folder(root / name, "synthesizer", {}, {})
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"config.json": "{}", "photos/a.png": "mine"}, "config.json, photos"),
        ({"config.json": '{"model_type": "x"}', "model.safetensors": "mine"}, "config.json, model"),
        ({"config.json": "{", "model.safetensors": "mine"}, "config.json, model"),
        ({".": True, "notes.txt": "mine"}, "with notes.txt;"),
        ({".": True, "scratch": True}, "with scratch;"),
        ({".": True, **{f"{i}.png": "mine" for i in range(5)}}, "with 0.png, 1.png, 2.png and 2 m"),
    ],
)
def test_what_is_not_of_the_weights_is_not_lost(tmp_path, tensors, content, named):
    lay(tmp_path / "m", content)
    before = tree(tmp_path)
    with pytest.raises(ConfigError, match=r"^path: a folder with content is replaced") as caught:
        save_folder(tmp_path / "m", "synthesizer", {}, tensors)
    assert named in str(caught.value)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("change", ["another", "more", "not included", "synthesizer"])
def test_a_backbone_that_is_not_that_of_the_branch_is_not_lost(tmp_path, saved, tensors, change):
    path, config = tmp_path / "m", including(saved)
    if change == "not included":
        config["backbone"]["included"] = False
    save_folder(path, "synthesizer", config, {}, include={"backbone": saved})
    if change == "another":
        save_folder(path / "backbone", "backbone", {}, {})
    elif change == "more":
        (path / "backbone" / "notes.txt").write_text("mine")
    elif change == "synthesizer":
        save_folder(path / "backbone", "synthesizer", {}, tensors)
    before = tree(path)
    named = "backbone/notes.txt" if change == "more" else "backbone"
    with pytest.raises(ConfigError, match=f"with {named};"):
        save_folder(path, "synthesizer", {}, {})
    assert tree(path) == before


def test_what_was_saved_is_replaced_whatever_it_was(tmp_path, saved, tensors):
    path = tmp_path / "m"
    save_folder(path, "synthesizer", including(saved), {}, include={"backbone": saved})
    for litter in (path / ".DS_Store", path / "backbone" / "Thumbs.db"):
        litter.write_text("")
    save_folder(path, "backbone", {}, tensors)
    assert sorted(tree(path)) == ["config.json", "model.safetensors"]
    assert tensor_digest(load_folder(path, "backbone")[1]) == tensor_digest(tensors)


# --- digest -----------------------------------------------------------------------------------


def test_digest_ignores_order_exact_casts_and_strides(tensors):
    expected = tensor_digest(tensors)
    assert tensor_digest(dict(reversed(tensors.items()))) == expected
    wide = {k: v.double() if v.is_floating_point() else v.int() for k, v in tensors.items()}
    assert tensor_digest(wide) == expected
    assert tensor_digest({**tensors, "g.weight": tensors["g.weight"].t().clone().t()}) == expected


def test_digest_is_the_one_of_format_1():
    # Written out once more: digests on other people's disks must stay valid.
    content = b'["a", [], "<i8"]' + struct.pack("<q", 3)
    content += b'["b", [1, 2], "<f4"]' + struct.pack("<ff", 1.0, -2.0)
    found = tensor_digest({"b": torch.tensor([[1.0, -2.0]]), "a": torch.tensor(3)})
    assert found == "sha256:" + hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.tensor([1.0, 2.5])},
        {"a": torch.tensor([[1.0, 2.0]])},
        {"a": torch.tensor([1, 2])},
        {"b": torch.tensor([1.0, 2.0])},
        {"a": torch.tensor([1.0]), "b": torch.tensor([2.0])},
        {},
    ],
)
def test_digest_sees_value_shape_kind_name_and_split(other):
    assert tensor_digest(other) != tensor_digest({"a": torch.tensor([1.0, 2.0])})


@pytest.mark.parametrize(
    "tensor",
    [torch.ones(2, dtype=torch.bool), torch.ones(2, dtype=torch.cfloat), torch.eye(2).to_sparse()],
)
def test_other_types_are_refused(tmp_path, tensor):
    with pytest.raises(WeightsError, match="dense numbers.*'odd'"):
        tensor_digest({"odd": tensor})
    with pytest.raises(WeightsError, match="dense numbers.*'odd'"):
        save_folder(tmp_path / "m", "x", {}, {"odd": tensor})
    assert list(tmp_path.iterdir()) == []


# --- refusals when saving ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "half"), [(float("nan"), False), (float("inf"), False), (70000.0, True)]
)
def test_values_not_finite_once_stored_are_refused_and_nothing_is_written(tmp_path, value, half):
    with pytest.raises(WeightsError, match="finite.*g.bad"):
        save_folder(tmp_path / "m", "x", {}, {"g.bad": torch.tensor([1.0, value])}, half=half)
    assert list(tmp_path.iterdir()) == []


def test_a_double_too_large_for_float32_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="finite"):
        save_folder(tmp_path / "m", "x", {}, {"a": torch.tensor(1e300, dtype=torch.float64)})


def test_too_many_bytes_are_refused_when_saving(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "MAX_TENSOR_BYTES", 15)
    with pytest.raises(WeightsError, match="at most 15 bytes; got 16"):
        save_folder(tmp_path / "m", "x", {}, {"a": torch.zeros(4)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"digest": "mine"}, "must not hold.*digest"),
        ({"x": float("nan")}, "must be JSON"),
        ({"x": {1, 2}}, "must be JSON"),
        ({"x": "a" * (1 << 20)}, "at most 1048576 bytes"),
    ],
)
def test_a_config_that_could_not_be_read_back_is_refused(tmp_path, config, words):
    with pytest.raises(ConfigError, match=words):
        save_folder(tmp_path / "m", "x", config, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "c:d", "/a", "config.json", "Model.Safetensors"]
)
def test_extra_names_must_be_plain_and_free(tmp_path, saved, name):
    with pytest.raises(ConfigError, match="plain and different"):
        save_folder(tmp_path / "m", "x", {}, {}, include={name: saved})
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_the_same_extra_name_twice_is_refused(tmp_path, saved):
    with pytest.raises(ConfigError, match="plain and different"):
        save_folder(tmp_path / "m", "x", {}, {}, include={"a": saved, "A": saved})


def test_an_incomplete_include_is_refused(tmp_path, saved):
    (saved / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"without model\.safetensors"):
        save_folder(tmp_path / "m", "x", {}, {}, include={"backbone": saved})
    assert not (tmp_path / "m").exists()


def test_a_foreign_folder_is_not_replaced(tmp_path, tensors):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"x")
    with pytest.raises(ConfigError):
        save_folder(tmp_path / "photos", "x", {}, tensors)
    assert everything_below(tmp_path) == {"photos/a.png": b"x"}


def test_a_writer_that_fails_halfway_leaves_the_old_folder_and_no_temporary(
    saved, tensors, monkeypatch
):
    before = everything_below(saved.parent)

    def half_a_file(_, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(safetensors.torch, "save_file", half_a_file)
    with pytest.raises(OSError, match="disk full"):
        save_folder(saved, "backbone", {"resolution": 128}, tensors)
    assert everything_below(saved.parent) == before
    assert list(saved.parent.iterdir()) == [saved]


# --- refusals when loading: config.json -------------------------------------------------------


def test_a_full_disk_is_told_as_such_and_the_old_folder_stays(tmp_path, saved, small_files):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with small_files(), pytest.raises(OSError, match="File too large"):
        save_folder(saved, "backbone", {}, {"x": torch.zeros(10**6)})
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert list(tmp_path.iterdir()) == [saved]


def test_missing_folder(tmp_path):
    with pytest.raises(WeightsError, match="existing weights folder"):
        load_folder(tmp_path / "none", "backbone")


def test_missing_config(saved):
    (saved / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"must hold config\.json"):
        load_folder(saved, "backbone")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{" + b" " * (1 << 20) + b"}", "may have up to 1048576 bytes"),
        (b"{'a': 1}", "no JSON"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b"\xff\xfe", "UTF-8"),
        (b"[" * 200_000, "no JSON"),
        (b"[1]", "not an object"),
        (b'{"model_type": "bert"}', "written by defectgen.*None"),
        (b'{"format_version": "1"}', "written by defectgen.*'1'"),
        (b'{"format_version": true}', "written by defectgen.*True"),
        (b'{"format_version": 0}', "written by defectgen.*0"),
        (b'{"format_version": 1, "kind": "backbone"}', "no digest"),
        (b'{"format_version": 1, "kind": ["x"]}', "of the kind 'backbone'"),
    ],
)
def test_a_config_that_is_not_ours(saved, content, words):
    (saved / "config.json").write_bytes(content)
    with pytest.raises(WeightsError, match=words):
        load_folder(saved, "backbone")


def test_another_kind_names_the_class_to_use(saved):
    with pytest.raises(WeightsError, match=r"load it with Backbone\.from_pretrained"):
        load_folder(saved, "synthesizer")


def test_a_newer_format_says_update(saved):
    newer = FORMAT_VERSION + 1
    edit_config(saved, format_version=newer, kind="something new")
    words = f"reads formats up to {FORMAT_VERSION}; got format {newer}.*update defectgen"
    with pytest.raises(WeightsError, match=words):
        load_folder(saved, "backbone")


# --- refusals when loading: the tensors -------------------------------------------------------


def test_another_digest(saved):
    edit_config(saved, digest="sha256:" + "0" * 64)
    with pytest.raises(WeightsError, match=r"config\.json says 'sha256:000"):
        load_folder(saved, "backbone")


def test_one_changed_bit_in_the_values(saved):
    file = saved / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(WeightsError, match="digest"):
        load_folder(saved, "backbone")


def test_not_finite_values_with_a_right_digest(saved):
    bad = {"a": torch.tensor([float("nan")])}
    safetensors.torch.save_file(bad, saved / "model.safetensors")
    edit_config(saved, digest=tensor_digest(bad))
    with pytest.raises(WeightsError, match="finite"):
        load_folder(saved, "backbone")


def test_bfloat16_and_small_integers_are_accepted_from_other_writers(saved):
    given = {"a": torch.tensor([1.5, -2.0], dtype=torch.bfloat16), "b": torch.tensor([3]).byte()}
    safetensors.torch.save_file(given, saved / "model.safetensors")
    edit_config(saved, digest=tensor_digest(given))
    _, loaded = load_folder(saved, "backbone")
    assert [loaded["a"].dtype, loaded["b"].dtype] == [torch.float32, torch.int64]
    assert loaded["a"].tolist() == [1.5, -2.0]


def test_a_torch_file_in_disguise_is_named(saved, tensors):
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    (saved / "model.safetensors").write_bytes(buffer.getvalue())
    with pytest.raises(WeightsError, match="zip archive"):
        load_folder(saved, "backbone")


# --- migrations -------------------------------------------------------------------------------


def test_migrations_run_in_a_row_from_the_format_of_the_file(saved, tensors, monkeypatch):
    def rename(config, tensors):
        return {**config, "size": config.pop("resolution")}, {"n." + k: tensors[k] for k in tensors}

    def double(config, tensors):
        return {**config, "size": 2 * config["size"]}, tensors

    monkeypatch.setitem(MIGRATIONS, FORMAT_VERSION, rename)
    monkeypatch.setitem(MIGRATIONS, FORMAT_VERSION + 1, double)
    monkeypatch.setattr(folder, "FORMAT_VERSION", FORMAT_VERSION + 2)
    config, loaded = load_folder(saved, "backbone")
    assert config["size"] == 128
    assert config["format_version"] == FORMAT_VERSION + 2
    assert config["digest"] == tensor_digest(tensors)
    assert set(loaded) == {"n." + name for name in tensors}


def test_a_format_without_a_migration_is_refused(saved, monkeypatch):
    monkeypatch.setattr(folder, "FORMAT_VERSION", FORMAT_VERSION + 1)
    with pytest.raises(WeightsError, match=f"format {FORMAT_VERSION} can no longer be read"):
        load_folder(saved, "backbone")
