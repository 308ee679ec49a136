"""Names of the zoo: a category is a backbone, a type of defect on it is a synthesizer."""

from __future__ import annotations

import hashlib

import pytest
import torch
from hub_server import TOKEN

from defectgen import Backbone, ConfigError, DefectSynthesizer, WeightsError
from defectgen.registry import ZOO_FILE, PublishedBranch, use_zoo, write_record, zoo_record

BASE, BRANCH = "tester/candle", "tester/candle-other"
NAME, OTHER = "visa/candle", "visa/candle/other"
WAX = "chunk of wax missing"


@pytest.fixture
def zoo(hub, published, tmp_path):
    """A list in which one category is published, with one branch under two types of defect."""
    pins = {}
    for repo_id, source in ((BASE, "tester/base"), (BRANCH, "tester/s")):
        hub.create(repo_id)
        revision = hub.commit(repo_id, published[source])
        sums = hashlib.sha256(published[source]["SHA256SUMS"]).hexdigest()
        pins[repo_id] = (revision, f"sha256:{sums}")
        hub.commit(repo_id, {"model.safetensors": b"later, and not what the list names"})
    path = tmp_path / "zoo.json"
    path.write_bytes(ZOO_FILE.read_bytes())
    branch = PublishedBranch(BRANCH, *pins[BRANCH])
    entry = zoo_record(NAME).published_as(
        *pins[BASE], repo_id=BASE, branches={"other": branch, WAX: branch}
    )
    with use_zoo(path):
        write_record(entry)
        yield path


def test_a_category_is_its_backbone(zoo, fitted_backbone):
    back = Backbone.from_pretrained(NAME, device="cpu")
    assert back.digest() == fitted_backbone.digest()
    assert back.source_.revision == zoo_record(NAME).revision
    assert DefectSynthesizer(NAME, device="cpu")._resolve_backbone().digest() == back.digest()


@pytest.mark.parametrize("name", [OTHER, f"{NAME}/{WAX}", f"{NAME}/chunk_of_wax_missing"])
def test_a_type_of_defect_is_its_synthesizer(zoo, fitted_synth, name):
    back = DefectSynthesizer.from_pretrained(name, device="cpu")
    assert torch.equal(back.sample(2, seed=1), fitted_synth.sample(2, seed=1))


def test_other_weights_than_the_list_pins_are_refused(zoo, hub, cache):
    hub.repos[BRANCH].commits[zoo_record(NAME).branches["other"].revision]["SHA256SUMS"] += b"\n"
    with pytest.raises(WeightsError, match="digest: SHA256SUMS must have"):
        DefectSynthesizer.from_pretrained(OTHER, device="cpu")
    assert not list(cache.glob("*/snapshots/*"))


def test_what_is_not_there_is_one_sentence(zoo, hub):
    train = "not published yet; train it with `defectgen zoo train visa/candle --data PATH`"
    for name in ("visa/candle/damaged corner of packaging", "visa/candle/weird_candle_wick"):
        with pytest.raises(WeightsError, match=f"^name: .*{name}.* {train}"):
            DefectSynthesizer.from_pretrained(name)
    for name, cls in (("visa/candle/rust", DefectSynthesizer), ("visa/candle/other/x", Backbone)):
        with pytest.raises(
            WeightsError, match="^name: must end in a type of defect of visa/candle"
        ):
            cls.from_pretrained(name)
    with pytest.raises(WeightsError, match="^name: .*visa/pcb1/melt.* not published yet"):
        DefectSynthesizer.from_pretrained("visa/pcb1/melt")
    assert hub.log == []


def test_the_other_kind_is_one_sentence(zoo, hub):
    with pytest.raises(WeightsError, match=f"^name: must be of a synthesizer; got '{NAME}'"):
        DefectSynthesizer.from_pretrained(NAME)
    with pytest.raises(WeightsError, match=f"^name: must be of a backbone; got '{OTHER}'"):
        Backbone.from_pretrained(OTHER)
    assert hub.log == []


def test_a_revision_of_what_is_pinned_is_refused(zoo, hub):
    with pytest.raises(ConfigError, match=f"^revision: none for a name .*'v1'.* or name {BASE}"):
        Backbone.from_pretrained(NAME, revision="v1")
    assert hub.log == []
    pinned = zoo_record(NAME).revision
    assert Backbone.from_pretrained(NAME, revision=pinned, device="cpu").source_.repo_id == BASE


def test_a_list_with_an_id_that_is_none_leads_nowhere(zoo, hub):
    write_record(zoo_record(NAME).published_as("a" * 40, "sha256:" + "0" * 64, repo_id="../x"))
    with pytest.raises(ConfigError, match="^source: must be a repository id"):
        Backbone.from_pretrained(NAME)
    assert hub.log == []


def test_without_such_a_list_nothing_has_changed(hub):
    with pytest.raises(WeightsError, match="not published yet"):
        Backbone.from_pretrained(NAME, token=TOKEN)
