"""The zoo's list: complete, true to the data sets, and never half written."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

from defectgen.augment.policy import AugmentPolicy
from defectgen.errors import WeightsError
from defectgen.hub.names import is_repo_id
from defectgen.registry import (
    ZOO_FILE,
    PublishedBranch,
    slug,
    use_zoo,
    write_record,
    zoo_record,
    zoo_records,
)

MVTEC = {
    "bottle": 3, "cable": 8, "capsule": 5, "carpet": 5, "grid": 5, "hazelnut": 4, "leather": 5,
    "metal_nut": 4, "pill": 7, "screw": 5, "tile": 5, "toothbrush": 1, "transistor": 4, "wood": 5,
    "zipper": 7,
}  # fmt: skip
VISA = (
    "candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni1", "macaroni2", "pcb1",
    "pcb2", "pcb3", "pcb4", "pipe_fryum",
)  # fmt: skip


def test_every_category_has_an_entry_with_its_defects():
    """Numbers of defect types: Bergmann et al. 2021, table 1; 73 in all."""
    found = zoo_records()
    assert list(found) == [f"mvtec/{name}" for name in MVTEC] + [f"visa/{name}" for name in VISA]
    assert {name: len(found[f"mvtec/{name}"].defects) for name in MVTEC} == MVTEC
    for name, record in found.items():
        assert name == f"{'mvtec' if record.data == 'MVTec AD' else 'visa'}/{record.category}"
        assert len(set(record.defects)) == len(record.defects) > 0
        assert list(record.defects) == sorted(record.defects)
        assert record.noncommercial is name.startswith("mvtec")
        assert (record.resolution, record.recipe) == (256, "default")


def test_orientations_are_operations_and_colors_never_change():
    allowed = {field.name for field in fields(AugmentPolicy)}
    for name, record in zoo_records().items():
        assert set(record.augment) <= allowed - {"luma_flip", "hue", "saturation"}
        assert record.because, name
    # A mirrored nut is a defect of its own, and so is a turned transistor.
    assert not {"flip_x", "flip_y"} & set(zoo_record("mvtec/metal_nut").augment)
    assert not zoo_record("mvtec/transistor").augment


def test_the_page_of_the_zoo_tells_the_true_state_of_all():
    page = ZOO_FILE.parents[1] / "docs" / "zoo.md"
    if not page.is_file():
        pytest.skip("the pages lie in the repository only")
    lines = {line.split("|")[1].strip(): line for line in page.read_text().splitlines()[-27:]}
    assert list(lines) == [f"`{name}`" for name in zoo_records()]
    for name, record in zoo_records().items():
        line = lines[f"`{name}`"]
        assert ", ".join(record.defects) in line
        assert f"| {', '.join(record.augment) or 'none'}: {record.because} |" in line
        assert record.data_license in line
        assert (record.repo_id if record.published else "not published yet") in line


def test_no_entry_pretends():
    for record in zoo_records().values():
        assert record.published is False
        assert record.revision is record.sha256 is None
        assert record.branches == {}


def test_names_and_repositories_of_branches_are_of_one_type_each():
    names, repos = set(), set()
    for record in zoo_records().values():
        names |= {record.branch_name(defect) for defect in record.defects}
        repos |= {record.repo_id, *(record.branch_repo(defect) for defect in record.defects)}
    assert all(is_repo_id(repo) for repo in repos)
    assert len(names) + 27 == len(repos) == 27 + 73 + 74
    macaroni = zoo_record("visa/macaroni2")
    named = macaroni.branch_name("color spot similar to the object")
    assert named == "visa/macaroni2/color_spot_similar_to_the_object"
    assert macaroni.branch_repo("other", "acme/m") == "acme/m-other"
    assert slug("../a") == "a"


def test_every_data_set_has_a_citation():
    for record in zoo_records().values():
        assert "20" in record.citation


@pytest.fixture
def copy(tmp_path):
    """A copy of the list."""
    path = tmp_path / "zoo.json"
    path.write_bytes(ZOO_FILE.read_bytes())
    return path


def test_another_list_can_be_taken_for_a_while(copy):
    entry = replace(zoo_record("mvtec/wood"), resolution=64)
    with use_zoo(copy):
        write_record(entry)
        assert zoo_record("mvtec/wood") == entry
    assert zoo_record("mvtec/wood").resolution == 256
    assert zoo_record("mvtec/wood", copy) == entry


def test_branches_are_written_and_read(copy):
    sums = "sha256:" + "0" * 64
    branch = PublishedBranch("acme/wood-hole", "b" * 40, sums)
    entry = zoo_record("mvtec/wood")
    entry = entry.published_as("a" * 40, sums, repo_id="acme/wood", branches={"hole": branch})
    write_record(entry, copy)
    assert zoo_record("mvtec/wood", copy) == entry
    assert json.loads(copy.read_text())["entries"]["mvtec/wood"]["branches"] == {
        "hole": {"repo_id": "acme/wood-hole", "revision": "b" * 40, "sha256": sums}
    }


def test_an_entry_is_written_and_the_others_stay(copy):
    sums = "sha256:" + "0" * 64
    write_record(zoo_record("mvtec/wood").published_as("a" * 40, sums), copy)
    found = zoo_records(copy)
    assert (found["mvtec/wood"].published, found["mvtec/wood"].sha256) == (True, sums)
    rest = {name: record for name, record in found.items() if name != "mvtec/wood"}
    assert rest == {k: v for k, v in zoo_records().items() if k != "mvtec/wood"}
    write_record(zoo_record("mvtec/wood"), copy)
    assert copy.read_bytes() == ZOO_FILE.read_bytes()  # the file is as the code writes it


PIN = {"repo_id": "acme/pcb1-bent", "revision": "b" * 40, "sha256": "sha256:" + "0" * 64}


def publish(whole, **change):
    """Change an entry that is published."""
    pin = {"revision": PIN["revision"], "sha256": PIN["sha256"], "branches": {"bent": PIN}}
    whole["entries"]["visa/pcb1"].update(published=True, **{**pin, **change})


def test_a_published_entry_is_read(copy):
    whole = json.loads(copy.read_text())
    publish(whole)
    copy.write_text(json.dumps(whole))
    assert zoo_record("visa/pcb1", copy).branches == {"bent": PublishedBranch(**PIN)}


@pytest.mark.parametrize(
    "change",
    [
        lambda whole: whole.update(format_version=2),
        lambda whole: whole["entries"]["visa/pcb1"].pop("defects"),
        lambda whole: whole["entries"]["visa/pcb1"].update(more=1),
        lambda whole: whole["entries"]["visa/pcb1"].update(published=True),
        lambda whole: whole.update(entries=[]),
        lambda whole: whole["entries"]["visa/pcb1"].pop("branches"),
        lambda whole: whole["entries"]["visa/pcb1"].update(branches=[]),
        lambda whole: whole["entries"]["visa/pcb1"].update(branches={"bent": PIN}),
        lambda whole: publish(whole, revision="main"),
        lambda whole: publish(whole, sha256="0" * 64),
        lambda whole: publish(whole, branches={"rust": PIN}),
        lambda whole: publish(whole, branches={"bent": {**PIN, "more": 1}}),
        lambda whole: publish(whole, branches={"bent": {**PIN, "revision": None}}),
    ],
)
def test_a_damaged_list_is_one_sentence(tmp_path, change):
    whole = json.loads(ZOO_FILE.read_text())
    change(whole)
    path = tmp_path / "zoo.json"
    path.write_text(json.dumps(whole))
    with pytest.raises(WeightsError, match="zoo: must be the list of the zoo"):
        zoo_records(path)


def test_a_name_that_is_not_there_says_where_names_are():
    with pytest.raises(WeightsError, match="got 'mvtec/bottel'; `defectgen zoo list`"):
        zoo_record("mvtec/bottel")
