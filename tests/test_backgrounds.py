"""Defects on good photos: what stays of the photo, what a seed decides, and what is refused."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from defectgen import ConfigError, DefectSynthesizer, ImageError, NotFittedError, SyntheticDefects
from defectgen.backgrounds import CANDIDATES, find_backgrounds
from defectgen.cli import main
from defectgen.data.images import load_images
from defectgen.downstream import downstream_test, trial
from defectgen.errors import TrainingWarning
from defectgen.networks.defect import receptive_radius
from defectgen.networks.known import thumbnail
from defectgen.networks.synthesis import SynthesisNetwork
from defectgen.placement import place_masks
from defectgen.rng import latents, no_noise


@pytest.fixture(scope="module")
def goods(product):
    return product(7, seed=21)


@pytest.fixture(scope="module")
def drawn(fitted_synth, goods):
    return next(
        fitted_synth.iter_samples(12, return_normals=True, good_images=goods, seed=5, batch_size=12)
    )


@pytest.fixture
def photo_folder(tmp_path):
    """photo_folder(images): a folder of them, in their order by name."""

    def write(images):
        folder = tmp_path / "goods"
        folder.mkdir()
        for index, image in enumerate(images):
            pixels = image.permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(folder / f"part_{index}.png")
        return folder

    return write


def bytes_of(images):
    return (images * 255).round().to(torch.uint8)


# -- what is drawn --


def test_normals_are_the_photos_that_are_named(drawn, goods):
    assert len(set(drawn.backgrounds)) > 3
    named = goods[[int(name) for name in drawn.backgrounds]]
    assert torch.equal(bytes_of(drawn.normals), named)


def test_beyond_the_reach_of_a_defect_the_photo_stays_to_the_bit(drawn, fitted_synth):
    side = drawn.images.shape[-1]
    reach = receptive_radius(fitted_synth.branch_.resolutions[0], side)
    near = F.max_pool2d(drawn.masks.float(), 2 * reach + 1, 1, reach) > 0
    changed = (drawn.images != drawn.normals).any(1, keepdim=True)
    assert (~near).any()
    assert not (changed & ~near).any()
    assert (changed & drawn.masks).flatten(1).any(1).all()


def test_inside_its_mask_a_defect_is_drawn_whole_and_not_added_to_the_photo(
    fitted_synth, goods, monkeypatch
):
    """Elsewhere only what the defect changes there is added to the photo."""
    rendered, forward = [], SynthesisNetwork.forward

    def kept(self, ws, noise, residual=None):
        rendered.append(forward(self, ws, noise, residual))
        return rendered[-1]

    monkeypatch.setattr(SynthesisNetwork, "forward", kept)
    images, masks, normals = fitted_synth.sample(
        3, return_masks=True, return_normals=True, good_images=goods, seed=2
    )
    with_defect, without = rendered
    added = (2 * normals - 1 + with_defect - without + 1) / 2
    expected = torch.where(masks, (with_defect + 1) / 2, added).clamp(0, 1)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-6)
    assert not torch.allclose(images[masks.expand_as(images)], added[masks.expand_as(added)])


def test_a_part_unlike_the_photos_does_not_shine_through_their_defects(fitted_synth, monkeypatch):
    """Of a backbone that has not learned the product only the placed example is drawn."""
    source = torch.Generator().manual_seed(0)
    strange = F.interpolate(torch.rand(6, 3, 4, 4, generator=source), size=32).mul(255).byte()
    shown = []

    def placed(*arguments, **given):
        shown.append(place_masks(*arguments, **given))
        return shown[-1]

    monkeypatch.setattr("defectgen.sampling.place_masks", placed)
    found = find_backgrounds(fitted_synth.backbone_.fitted(), strange)
    assert not found.learned
    images, masks, normals = fitted_synth.sample(
        4, return_masks=True, return_normals=True, good_images=strange, seed=2
    )
    ((places, examples),) = shown
    assert torch.equal(masks, places)
    expected = torch.where(masks, (examples + 1) / 2, normals)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("count", [1, 12])
def test_photos_of_the_product_are_like_its_parts(count, fitted_synth, product):
    assert find_backgrounds(fitted_synth.backbone_.fitted(), product(count, seed=40)).learned


def test_a_defect_takes_the_place_and_the_light_of_the_photo(fitted_synth, goods, monkeypatch):
    seen = []

    def told(known, policy, weights, scene, sources, places, *, bend):
        seen.append(scene)
        return place_masks(known, policy, weights, scene, sources, places, bend=bend)

    monkeypatch.setattr("defectgen.sampling.place_masks", told)
    normals = fitted_synth.sample(3, return_normals=True, good_images=goods, seed=2)[1]
    torch.testing.assert_close(seen[0], 2 * normals - 1, rtol=0, atol=1e-6)


def test_a_sample_depends_on_its_seed_and_not_on_the_batch(drawn, fitted_synth, goods):
    for size in (1, 5):
        parts = list(fitted_synth.iter_samples(12, good_images=goods, seed=5, batch_size=size))
        assert sum((part.backgrounds for part in parts), ()) == drawn.backgrounds
        images = torch.cat([part.images for part in parts])
        torch.testing.assert_close(images, drawn.images, rtol=0, atol=1e-4)
        assert torch.equal(torch.cat([part.masks for part in parts]), drawn.masks)
    later = next(fitted_synth.iter_samples(3, good_images=goods, seed=9))
    assert later.backgrounds == drawn.backgrounds[4:7]


def test_without_photos_nothing_changes(fitted_synth):
    batch = next(fitted_synth.iter_samples(2, seed=0))
    assert batch.backgrounds == ()
    assert batch.normals is None


def test_normals_come_only_if_asked_for(fitted_synth, goods):
    assert next(fitted_synth.iter_samples(2, good_images=goods, seed=0)).normals is None
    assert isinstance(fitted_synth.sample(2, good_images=goods, seed=0), torch.Tensor)


def test_no_samples_on_photos_are_none(fitted_synth, goods):
    images, masks = fitted_synth.sample(0, return_masks=True, good_images=goods)
    assert (len(images), len(masks)) == (0, 0)


@pytest.mark.parametrize("base", [True, False])
def test_each_photo_goes_with_the_good_part_most_like_it(base, fitted_backbone, monkeypatch):
    network = fitted_backbone.fitted()
    if not base:
        monkeypatch.setitem(network.synthesis._modules, "base", None)
    seeds = range(CANDIDATES)
    with torch.no_grad():
        w = network.mapping(latents(seeds, network.config.z_dim, "object"))
        some = network.synthesis.base(w[[3, 200]]) if base else None
        some = network.synthesis(network.broadcast(w[[3, 200]]), no_noise) if some is None else some
    photos = ((some + 1) * 127.5).round().clamp(0, 255).byte()
    found = find_backgrounds(network, photos).objects
    pictures = network.synthesis.base or (
        lambda w: network.synthesis(network.broadcast(w), no_noise)
    )
    with torch.no_grad():
        theirs, own = thumbnail(pictures(found)), thumbnail(some)
    assert (theirs - own).abs().max() < 0.05


# -- where they come from, where they go --


def test_a_folder_of_photos_gives_their_names(fitted_synth, goods, photo_folder):
    folder = photo_folder(goods)
    batch = next(fitted_synth.iter_samples(4, return_normals=True, good_images=folder, seed=5))
    names = sorted(path.name for path in folder.iterdir())
    assert set(batch.backgrounds) <= set(names)
    named = goods[[names.index(name) for name in batch.backgrounds]]
    assert torch.equal(bytes_of(batch.normals), named)


def test_a_dataset_draws_the_same(fitted_synth, drawn, goods):
    dataset = SyntheticDefects(fitted_synth, 12, seed=5, good_images=goods)
    items = dataset.__getitems__([4, 0, -1])
    for item, index in zip(items, (4, 0, 11), strict=True):
        torch.testing.assert_close(item["image"], drawn.images[index], rtol=0, atol=1e-4)
        assert torch.equal(item["mask"], drawn.masks[index])


def test_evaluate_judges_the_samples_on_photos(fitted_synth, defects, goods):
    real = defects(3, seed=3)
    given = {"n": 6, "seed": 1, "extractor": None, "perceptual": None}
    drawn = fitted_synth.evaluate(*real, **given)
    placed = fitted_synth.evaluate(*real, good_images=goods, **given)
    assert "good_images" not in drawn.settings
    assert placed.settings["good_images"] == load_images(goods, resolution=32, channels=3).digest
    assert placed.scores["drift_far"]["generated"] == 0
    assert placed.scores["swd"]["good twins"] != drawn.scores["swd"]["good twins"]


def test_the_downstream_test_draws_on_goods_that_are_not_kept_for_the_test(
    fitted_synth, defects, product, monkeypatch
):
    asked, run = [], DefectSynthesizer.iter_samples

    def watched(self, n, **given):
        asked.append(given)
        return run(self, n, **given)

    monkeypatch.setattr(DefectSynthesizer, "iter_samples", watched)
    goods = product(10)
    given = {"training": defects(6), "test": defects(5, seed=3), "n": 6, "repeats": 2, "steps": 1}
    with pytest.warns(match="test_goods"):  # every fifth of ten are two
        found = downstream_test(fitted_synth, goods=goods, on_goods=True, **given)
    assert found.settings["on_good_images"] is True
    kept = asked[-1]["good_images"]
    assert torch.equal(kept.images, goods[[0, 1, 2, 3, 5, 6, 7, 8]])
    assert kept.digest == load_images(kept.images, resolution=32, channels=3).digest
    assert trial.HELD_OUT == 5


def test_the_command_writes_what_lies_below(
    fitted_synth, goods, photo_folder, tmp_path, capsys, monkeypatch
):
    fitted_synth.save_pretrained(tmp_path / "model", include_backbone=True)
    folder, out = photo_folder(goods), tmp_path / "out"
    arguments = ["sample", str(tmp_path / "model"), "-n", "3", "--seed", "5", "--normals"]
    assert main([*arguments, "--out", str(out), "--good-images", str(folder)]) == 0
    lines = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    expected = next(fitted_synth.iter_samples(3, good_images=folder, seed=5)).backgrounds
    assert tuple(line["background"] for line in lines) == expected
    digest = load_images(folder, resolution=32, channels=3).digest
    assert {line["good_images_digest"] for line in lines} == {digest}
    for line in lines:
        normal = load_images([out / line["normal"]], resolution=32, channels=3)
        own = load_images([folder / line["background"]], resolution=32, channels=3)
        assert torch.equal(normal.images, own.images)
    assert main([*arguments, "--out", str(tmp_path / "plain")]) == 0
    plain = json.loads((tmp_path / "plain" / "metadata.jsonl").read_text().splitlines()[0])
    assert not {"background", "good_images_digest"} & set(plain)


# -- what is refused --


def test_what_is_no_photo_is_told_by_its_argument(fitted_synth, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    with pytest.raises(ImageError, match="^good_images: "):
        fitted_synth.sample(1, good_images=tmp_path / "photos")
    fitted_synth.save_pretrained(tmp_path / "model", include_backbone=True)
    arguments = ["sample", str(tmp_path / "model"), "-n", "1", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--good-images", str(tmp_path / "photos")]) == 1
    assert capsys.readouterr().err.startswith("defectgen: --good-images: ")
    assert not (tmp_path / "out").exists()


def test_photos_read_at_another_size_are_refused(fitted_synth, product):
    larger = load_images(product(2, resolution=64), resolution=64, channels=3)
    with pytest.raises(ConfigError, match=r"^good_images: .*\(3, 32, 32\).*\(3, 64, 64\)"):
        fitted_synth.sample(1, good_images=larger)


def test_masks_that_are_learned_go_on_no_photo(fitted_backbone, tiny, defects, goods):
    synth = DefectSynthesizer(
        fitted_backbone, preset="dfmgan", kimg=0.02, batch_size=4, seed=0, device="cpu", verbose=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        synth.fit(*defects(4))
    for ask in (synth.sample, lambda n, **more: SyntheticDefects(synth, n, **more)):
        with pytest.raises(ConfigError, match=r"^good_images: .*preset"):
            ask(1, good_images=goods)


def test_who_was_never_fitted_says_so_first(fitted_backbone, tmp_path):
    with pytest.raises(NotFittedError):
        DefectSynthesizer(fitted_backbone).sample(1, good_images=tmp_path / "nowhere")
