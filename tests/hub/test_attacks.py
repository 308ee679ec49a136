"""What a hostile or broken repository may hold: refused in a clear sentence, nothing kept."""

from __future__ import annotations

import hashlib
import json
import pickle

import pytest
import torch
from safetensors.torch import load, save

from defectgen import Backbone, DefectSynthesizer, WeightsError
from defectgen.hub import HubOptions, HubSource, ZooEntry, fetched
from defectgen.weights import tensor_digest

NAME = "tester/base"
WEIGHTS, SUMS = "model.safetensors", "SHA256SUMS"


@pytest.fixture
def repo(hub, published):
    """A public repository of the fitted backbone."""
    return Repository(hub, NAME, published)


@pytest.fixture
def whole(hub, published):
    """A public repository of a synthesizer with its backbone."""
    return Repository(hub, "tester/s", published)


class Repository:
    """What its owner, or whoever owns his token, can do with it."""

    def __init__(self, hub, name, published):
        self.hub, self.name = hub, name
        hub.create(name)
        hub.commit(name, published[name])

    def put(self, files, sums=True):
        """Commit files, and the list of sums that belongs to them."""
        files = {name: data.encode() if isinstance(data, str) else data for name, data in files}
        there = {**self.hub.files(self.name), **files}
        if sums:
            named = {k: v for k, v in there.items() if k not in (SUMS, ".gitattributes")}
            lines = [f"{hashlib.sha256(data).hexdigest()}  {n}\n" for n, data in named.items()]
            files[SUMS] = "".join(lines).encode()
        return self.hub.commit(self.name, files)

    def config(self, change, tensors=None):
        """Commit a changed config.json, with other tensors if given and the digest of these."""
        config = json.loads(self.hub.files(self.name)["config.json"])
        files = []
        if tensors is not None:
            config["digest"] = tensor_digest(tensors)
            files.append((WEIGHTS, save(tensors)))
        change(config)
        return self.put([*files, ("config.json", json.dumps(config))])

    def tensors(self):
        return load(self.hub.files(self.name)[WEIGHTS])


def refused(cache, words, name=NAME, cls=Backbone):
    """Loading must fail in one sentence, and leave no file of the repository."""
    with pytest.raises(WeightsError, match=words) as error:
        cls.from_pretrained(name, device="cpu")
    text = str(error.value)
    assert text.startswith(f"{name} at ")
    assert "\n" not in text
    assert "; " in text
    left = [p for p in cache.rglob("*") if p.is_file() and ".locks" not in p.parts]
    assert left == []


# -- digests ---


def test_weights_that_are_not_those_of_the_list(hub, repo, cache):
    data = bytearray(hub.files(NAME)[WEIGHTS])
    data[-5] ^= 1
    repo.put([(WEIGHTS, bytes(data))], sums=False)
    refused(cache, f"{WEIGHTS} must have the sha256 [0-9a-f]{{64}}; got")


def test_a_config_that_is_not_that_of_the_list(hub, repo, cache):
    repo.put([("config.json", hub.files(NAME)["config.json"] + b" ")], sums=False)
    refused(cache, "config.json must have the sha256")
    assert hub.asked(WEIGHTS) == []


def test_weights_that_are_not_those_of_the_config(hub, repo, cache):
    data = bytearray(hub.files(NAME)[WEIGHTS])
    data[-5] ^= 1
    repo.put([(WEIGHTS, bytes(data))])
    refused(cache, f"{WEIGHTS} must be the whole file.*the digest")


def test_a_pinned_digest(hub, repo, cache, monkeypatch):
    sums = hub.files(NAME)[SUMS]
    commit = hub.repos[NAME].refs["main"]
    digest = "sha256:" + hashlib.sha256(sums).hexdigest()
    with fetched(NAME, "backbone", HubOptions(), digest) as found:
        assert found.source == HubSource(NAME, commit)
    other = "sha256:" + "0" * 64
    for options in (HubOptions(local_files_only=True), HubOptions(force_download=True)):
        with (
            pytest.raises(WeightsError, match=f"digest: {SUMS} must have {other}; got {digest}"),
            fetched(NAME, "backbone", options, other),
        ):
            pytest.fail("a wrong digest passed")
    # As the registry of the zoo will pin them.
    entry = ZooEntry(source=HubSource(NAME, commit), digest=other)
    monkeypatch.setattr("defectgen.hub.resolve.zoo_entry", lambda name: entry)
    with pytest.raises(WeightsError, match="digest: SHA256SUMS must have"):
        Backbone.from_pretrained("mvtec/bottle", device="cpu")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "none for config.json"),
        ("no sums\n", "another line, or a name twice"),
        ("{0}  config.json\n{0}  config.json\n", "a name twice"),
        ("{0}  ../../evil\n", "the name '../../evil', which leads outside"),
        ("{0}  /etc/evil\n", "leads outside"),
        ("{0}  a\\b\n", "leads outside"),
        ("{0}  c:evil\n", "leads outside"),
    ],
)
def test_a_list_of_sums_that_is_none(repo, cache, content, words):
    repo.put([(SUMS, content.format("0" * 64))], sums=False)
    refused(cache, words)


def test_a_repository_without_a_list_or_without_weights(hub, repo, cache):
    for name in (WEIGHTS, "config.json", SUMS):
        hub.commit(NAME, {}, (name,))
        refused(cache, f"must hold {name}; got tester/base without it")


# -- files that are not what they seem ---


def test_a_truncated_file(hub, repo, cache):
    whole = hub.files(NAME)[WEIGHTS]
    repo.put([(WEIGHTS, whole[:-1000])])
    refused(cache, "bytes of tensors where its header claims")


def test_a_pickle_disguised_as_weights(repo, cache):
    repo.put([(WEIGHTS, pickle.dumps(Exploding(), protocol=4))])
    refused(cache, r"got a pickle \(never read, because it can run code")
    repo.put([(WEIGHTS, b"PK\x03\x04" + b"\0" * 100)])
    refused(cache, "a zip archive")


class Exploding:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was read",))


def test_a_header_that_claims_a_hundred_gigabytes(repo, cache):
    size = 100 << 30
    entry = {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}
    header = json.dumps({"generator.x": entry}).encode()
    repo.put([(WEIGHTS, len(header).to_bytes(8, "little") + header + b"\0" * 64)])
    refused(cache, f"{size} bytes of tensors, more than the")


@pytest.mark.parametrize(("name", "size"), [(WEIGHTS, 100 << 30), ("config.json", 2 << 20)])
def test_a_file_too_large_is_not_downloaded(hub, repo, cache, name, size):
    hub.sizes[name] = size
    refused(cache, f"{name} may have up to .*; got {size}, which are not downloaded")
    assert hub.asked(name) == []


def test_an_answer_longer_than_announced_is_not_read_to_its_end(hub, repo, cache):
    repo.put([("config.json", "{}" + " " * (5 << 20))], sums=False)
    hub.sizes["config.json"] = 1000
    refused(cache, "config.json must have the sha256")


# -- tensors ---


def test_a_missing_or_an_extra_key(repo, cache):
    tensors = repo.tensors()
    name = next(iter(sorted(tensors)))
    repo.config(lambda _: None, {k: v for k, v in tensors.items() if k != name})
    refused(cache, f"{name} is missing")
    repo.config(lambda _: None, {**tensors, "generator.evil": torch.zeros(2)})
    refused(cache, "generator.evil is not expected")
    repo.config(lambda _: None, {**tensors, "evil": torch.zeros(2)})
    refused(cache, "must begin with one of.*got evil")


def test_values_that_are_not_finite(repo, cache):
    tensors = repo.tensors()
    tensors["generator.mapping.w_avg"][0] = float("nan")
    repo.config(lambda _: None, tensors)
    refused(cache, "finite; got NaN or inf in generator.mapping.w_avg")


# -- config.json ---


def test_another_kind_is_refused_before_its_weights_are_downloaded(hub, repo, whole, cache):
    refused(cache, r"load it with DefectSynthesizer\.from_pretrained", "tester/s")
    refused(cache, r"load it with Backbone\.from_pretrained", NAME, DefectSynthesizer)
    assert hub.asked(WEIGHTS) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": 99}, "reads formats up to .*update defectgen"),
        ({"format_version": "2"}, "written by defectgen"),
        ({"digest": None}, "no digest"),
        ({"config": {}}, "every entry of config.json"),
        ({"config": {"backbone": {"resolution": 10**9}}}, "every entry of config.json"),
    ],
)
def test_a_config_that_is_not_ours(repo, cache, change, words):
    repo.config(lambda config: config.update(change))
    refused(cache, words)


@pytest.mark.parametrize(
    "path", ["../../../../outside", "/outside", "backbone/../../outside", "outside", None, 3]
)
def test_a_path_in_a_downloaded_config_is_not_followed(
    hub, whole, cache, tmp_path, fitted_backbone, path
):
    # Where such a path would lead there is a backbone that fits.
    fitted_backbone.save_pretrained(tmp_path / "outside")
    if path == "/outside":
        path = str(tmp_path / "outside")
    entry = {"included": False, "source": path}
    whole.config(lambda config: config["backbone"].update(entry))
    refused(cache, "must hold its backbone or name a repository.*is not read", "tester/s", SYNTH)
    assert hub.asked(WEIGHTS) == []


SYNTH = DefectSynthesizer


@pytest.mark.parametrize(
    "source",
    [
        {"repo_id": "tester/base", "revision": "main"},
        {"repo_id": "../base", "revision": "0" * 40},
        {"repo_id": "tester/base", "revision": "../../" + "0" * 34},
        {"repo_id": "tester/base"},
        {"repo_id": "tester/base", "revision": "0" * 40, "folder": "/"},
        {"repo_id": ["tester/base"], "revision": "0" * 40},
    ],
)
def test_a_backbone_is_named_by_id_and_commit_only(repo, whole, cache, source):
    entry = {"included": False, "source": source}
    whole.config(lambda config: config["backbone"].update(entry))
    refused(cache, "every entry of config.json.*source", "tester/s", SYNTH)


def test_a_hostile_backbone_folder_inside(hub, whole, cache):
    whole.put([(f"backbone/{WEIGHTS}", pickle.dumps(Exploding(), protocol=4))])
    refused(cache, "a pickle", "tester/s", SYNTH)
    hub.commit("tester/s", {}, ("backbone/config.json",))
    refused(cache, "must hold backbone/config.json", "tester/s", SYNTH)


def test_a_local_folder_may_not_climb_either(fitted_synth, tmp_path):
    fitted_synth.save_pretrained(tmp_path / "s")
    file = tmp_path / "s" / "config.json"
    config = json.loads(file.read_text())
    config["backbone"].update(included=False, source="../s/backbone")
    file.write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="^backbone: must be named by a path without"):
        DefectSynthesizer.from_pretrained(tmp_path / "s")


# -- answers that are none ---


def test_a_server_that_is_no_hub(hub, cache, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url + "/elsewhere")
    with pytest.raises(WeightsError, match="^name: .*404"):
        Backbone.from_pretrained(NAME)
    assert not cache.exists()


def test_a_refused_repository_does_not_harm_what_is_in_the_cache(hub, repo, cache):
    good = Backbone.from_pretrained(NAME, device="cpu")
    repo.put([(WEIGHTS, b"PK\x03\x04" + b"\0" * 100)])
    with pytest.raises(WeightsError, match="a zip archive"):
        Backbone.from_pretrained(NAME, device="cpu")
    again = Backbone.from_pretrained(NAME, device="cpu", revision=good.source_.revision)
    assert again.digest() == good.digest()
    kept = Backbone.from_pretrained(NAME, device="cpu", local_files_only=True)
    assert kept.digest() == good.digest()
