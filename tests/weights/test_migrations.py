"""Folders of older versions load, and sample what they sampled then.

Each ``format*/synthesizer`` was written by the sources of the commit in the ``expected.json``
beside it, whose numbers they computed: networks of 6 channels, trained for some steps on drawn
parts. Where sampling itself was mended since, ``changed`` says what, and the numbers are newer.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from defectgen import Backbone, DefectSynthesizer, WeightsError
from defectgen.config import BackboneConfig, DefectConfig, TrainConfig
from defectgen.data.example import example_folders
from defectgen.weights import FORMAT_VERSION, MIGRATIONS

HERE = Path(__file__).parent
OLD = HERE / "format1" / "synthesizer"
VERSIONS = sorted(MIGRATIONS)

#: Fields by format version. Whoever changes fields raises FORMAT_VERSION, adds a migration with a
#: folder of the version before, and then a line here.
FIELDS = {6: "58b0bda931bde9fb"}


def load(folder):
    return DefectSynthesizer.from_pretrained(folder, device="cpu")


def row(images):
    return images[:, 0, 16, ::4]


def edit(folder, change):
    file = folder / "config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))


def stored(version):
    return HERE / f"format{version}" / "synthesizer"


def then(version):
    return json.loads((stored(version).parent / "expected.json").read_text())


@pytest.mark.parametrize("version", VERSIONS)
def test_old_folders_are_of_the_old_formats_and_small(version):
    config = json.loads((stored(version) / "config.json").read_text())
    assert config["format_version"] == version
    assert ("known" in config["config"]["defect"]) == (version > 1)
    assert ("composite_reals" in config["config"]["training"]) == (version == 1)
    assert ("places" in config["config"]["defect"]) == (version > 2)
    assert ("bend" in config["config"]["defect"]) == (version > 3)
    assert ("grain_components" in config["config"]["backbone"]) == (version > 4)
    assert "grain_fields" not in config["config"]["backbone"]
    files = [p for p in stored(version).parent.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 160_000


@pytest.mark.parametrize("version", VERSIONS)
def test_an_old_synthesizer_samples_what_it_sampled_then(version):
    told = then(version)
    images, masks, normals = load(stored(version)).sample(
        told["count"], seed=told["seed"], return_masks=True, return_normals=True
    )
    assert masks.flatten(1).sum(1).tolist() == told["mask_pixels"]
    found = hashlib.sha256(masks.to(torch.uint8).numpy().tobytes()).hexdigest()
    assert found == told["mask_sha256"]
    torch.testing.assert_close(row(images), torch.tensor(told["image_row"]), atol=1e-5, rtol=0)
    torch.testing.assert_close(row(normals), torch.tensor(told["normal_row"]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_old_backbone_samples_what_it_sampled_then(version):
    told = then(version)
    goods = Backbone.from_pretrained(stored(version) / "backbone", device="cpu")
    rows = row(goods.sample(2, seed=told["seed"]))
    torch.testing.assert_close(rows, torch.tensor(told["good_row"]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("version", VERSIONS)
def test_saved_anew_it_is_of_this_format_and_still_the_same(version, tmp_path):
    old = load(stored(version))
    old.save_pretrained(tmp_path / "new", include_backbone=True)
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert config["format_version"] == FORMAT_VERSION
    new = load(tmp_path / "new")
    assert torch.equal(new.sample(2, seed=7), old.sample(2, seed=7))
    assert new.config_ == old.config_
    DefectConfig.from_dict(new.config_["defect"])
    TrainConfig.from_dict(new.config_["training"])


def test_a_folder_that_said_1_with_the_fields_of_2_keeps_them(tmp_path):
    shutil.copytree(example_folders().backbone, tmp_path / "b")
    edit(tmp_path / "b", lambda config: config.update(format_version=1))
    config = json.loads((tmp_path / "b" / "config.json").read_text())["config"]
    assert config["backbone"]["mapping_codes"] > 0
    found = Backbone.from_pretrained(tmp_path / "b", device="cpu").config_
    assert {**found["backbone"], **config["backbone"]} == found["backbone"]
    assert {**found["training"], **config["training"]} == found["training"]


def test_an_old_synthesizer_without_discriminator_says_so(tmp_path):
    from safetensors.torch import load_file, save_file

    from defectgen.weights import tensor_digest

    shutil.copytree(OLD, tmp_path / "s")
    file = tmp_path / "s" / "model.safetensors"
    # Copies: older safetensors gives views into the file, which is written over.
    whole = {name: tensor.clone() for name, tensor in load_file(file).items()}
    left = {k: v for k, v in whole.items() if not k.startswith("discriminator.")}
    save_file(left, file)
    edit(tmp_path / "s", lambda config: config.update(digest=tensor_digest(left)))
    with pytest.raises(WeightsError, match="must hold its discriminator.*fit it again"):
        load(tmp_path / "s")


def test_a_texture_whose_grain_was_a_spectrum_is_refused_in_one_sentence(tmp_path):
    shutil.copytree(stored(5), tmp_path / "s")
    for folder in (tmp_path / "s", tmp_path / "s" / "backbone"):
        edit(folder, lambda c: c["config"]["backbone"].update(grain_components=16))
    for cls in (Backbone, DefectSynthesizer):
        folder = tmp_path / "s" / ("backbone" if cls is Backbone else "")
        with pytest.raises(WeightsError, match="format 5.*grain_components=16.*fit the backbone"):
            cls.from_pretrained(folder, device="cpu")


def test_a_shape_that_is_no_table_is_refused_in_one_sentence(tmp_path):
    shutil.copytree(stored(5) / "backbone", tmp_path / "b")
    edit(tmp_path / "b", lambda c: c["config"].update(backbone="x"))
    with pytest.raises(WeightsError):
        Backbone.from_pretrained(tmp_path / "b", device="cpu")


def test_an_old_folder_without_its_entries_is_refused_in_one_sentence(tmp_path):
    shutil.copytree(OLD, tmp_path / "s")
    edit(tmp_path / "s", lambda config: config["config"].pop("training"))
    with pytest.raises(WeightsError, match="every entry of config.json.*'training'"):
        load(tmp_path / "s")


def test_every_older_version_has_a_migration():
    assert sorted(MIGRATIONS) == list(range(1, FORMAT_VERSION))


def test_fields_do_not_change_without_a_new_format():
    names = [
        f"{cls.__name__}.{field.name}: {field.type}"
        for cls in (BackboneConfig, DefectConfig, TrainConfig)
        for field in dataclasses.fields(cls)
    ]
    found = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    assert FIELDS.get(FORMAT_VERSION) == found
