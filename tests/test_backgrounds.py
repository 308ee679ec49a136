"""Defects on good photos: what stays of the photo, what a seed decides, and what is refused."""

from __future__ import annotations

import copy
import itertools
import json
import warnings

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from defectgen import (
    ConfigError,
    DefectSynthesizer,
    ImageError,
    NotFittedError,
    SyntheticDefects,
    backgrounds,
    defect_fit,
)
from defectgen.backgrounds import CANDIDATES, find_backgrounds, learned_by
from defectgen.cli import main
from defectgen.data.images import load_images
from defectgen.downstream import downstream_test, trial
from defectgen.errors import DataWarning, TrainingWarning
from defectgen.networks.defect import DefectBranch, receptive_radius
from defectgen.networks.known import thumbnail
from defectgen.networks.synthesis import SynthesisNetwork
from defectgen.placement import place_masks
from defectgen.rng import latents, no_noise
from defectgen.sampling import PHOTOS, OwnGoods, draw_defects, draw_good
from defectgen.seams import place_on_photos
from defectgen.writer import write_samples


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


@pytest.fixture
def unlearned(fitted_synth):
    """A branch whose photos are unlike all that the backbone draws."""
    source = torch.Generator().manual_seed(0)
    strange = F.interpolate(torch.rand(6, 3, 4, 4, generator=source), size=32)
    branch = copy.deepcopy(fitted_synth.branch_)
    branch.known.set(branch.known.masks > 0, 2 * strange - 1, branch.known.scenes)
    return branch


@pytest.fixture
def looked_at(monkeypatch):
    """Lists of the grounds that were looked at for each sample, and of what was found."""
    asked, found = [], []

    def placed(photos, **given):
        asked.append(list(photos))
        found.append(place_on_photos(photos=asked[-1], **given))
        return found[-1]

    monkeypatch.setattr("defectgen.sampling.place_on_photos", placed)
    return asked, found


def test_a_part_unlike_the_photos_does_not_shine_through_their_defects(
    unlearned, fitted_synth, goods, looked_at
):
    """Only the example is drawn, on that of several photos where it fits best."""
    network = fitted_synth.backbone_.fitted()
    below = find_backgrounds(network, unlearned, goods)
    assert not below.learned
    batch = draw_defects(network, unlearned, range(12), 1.0, normals=True, backgrounds=below)
    images, masks, normals = batch.triplets()
    [photos], [(chosen, turns, _)] = looked_at
    assert len(photos) == 12
    for index, turn in enumerate(turns.tolist()):
        assert 1 < len(photos[index]) <= PHOTOS
        assert len(photos[index].unique(dim=0)) == len(photos[index])  # none is tried twice
        photo = (photos[index][turn] + 1) / 2
        torch.testing.assert_close(normals[index], photo, rtol=0, atol=1e-6)
        named = goods[int(batch.backgrounds[index])].float() / 255
        torch.testing.assert_close(normals[index], named, rtol=0, atol=1e-6)
        example = (chosen.examples[index] + 1) / 2
        expected = torch.where(masks[index], example, photo)
        torch.testing.assert_close(images[index], expected, rtol=0, atol=1e-6)
    assert torch.equal(masks, chosen.masks)
    assert len(set(turns.tolist())) > 2


def test_which_photo_fits_depends_on_the_seed_and_not_on_the_batch(unlearned, fitted_synth, goods):
    network = fitted_synth.backbone_.fitted()
    found = find_backgrounds(network, unlearned, goods)
    whole = draw_defects(network, unlearned, range(6), 1.0, normals=True, backgrounds=found)
    for seed in (0, 4):
        alone = draw_defects(network, unlearned, [seed], 1.0, normals=True, backgrounds=found)
        assert alone.backgrounds == whole.backgrounds[seed : seed + 1]
        torch.testing.assert_close(alone.images[0], whole.images[seed], rtol=0, atol=1e-4)
        assert torch.equal(alone.masks[0], whole.masks[seed])


# -- on good parts of the backbone, where it has not learned the product --


@pytest.fixture
def strange_synth(unlearned, fitted_synth):
    """A synthesizer with that branch."""
    synth = copy.copy(fitted_synth)
    synth.branch_ = unlearned
    return synth


def test_without_photos_each_defect_finds_a_good_part_on_which_it_fits(strange_synth, looked_at):
    batch = next(strange_synth.iter_samples(12, return_normals=True, seed=3, batch_size=12))
    images, masks, normals = batch.triplets()
    assert (batch.seeds, batch.backgrounds) == (tuple(range(3, 15)), ())
    [parts], [(chosen, turns, _)] = looked_at
    assert [len(some.flatten(1).unique(dim=0)) for some in parts] == [PHOTOS] * 12
    assert len(set(turns.tolist())) > 2
    own = strange_synth.backbone_.sample(12, seed=3)
    for index, turn in enumerate(turns.tolist()):
        part = (parts[index][turn] + 1) / 2
        torch.testing.assert_close(normals[index], part, rtol=0, atol=1e-6)
        first = (parts[index][0] + 1) / 2
        torch.testing.assert_close(first, own[index], rtol=0, atol=1e-4)
        example = (chosen.examples[index] + 1) / 2
        expected = torch.where(masks[index], example, normals[index])
        torch.testing.assert_close(images[index], expected, rtol=0, atol=1e-6)
    assert torch.equal(masks, chosen.masks)


def test_truncation_is_that_of_the_parts(strange_synth):
    network, branch = strange_synth.backbone_.fitted(), strange_synth.branch_
    parts = OwnGoods(network, 0.0).signed([5, 6])
    torch.testing.assert_close((parts + 1) / 2, draw_good(network, [5, 6], 0.0), rtol=0, atol=1e-5)
    middle = draw_defects(network, branch, range(6), 0.0, normals=True).normals
    whole = draw_defects(network, branch, range(6), 1.0, normals=True).normals
    assert middle.std(0).mean() < 0.5 * whole.std(0).mean()


def test_which_part_fits_depends_on_the_seed_and_not_on_the_batch(strange_synth):
    whole = strange_synth.sample(5, return_masks=True, return_normals=True, seed=7)
    alone = strange_synth.sample(1, return_masks=True, return_normals=True, seed=10)
    for one, many in zip(alone, whole, strict=True):
        torch.testing.assert_close(one[0].float(), many[3].float(), rtol=0, atol=1e-4)


def test_what_is_trained_is_judged_even_where_samples_do_not_need_it(strange_synth, fitted_synth):
    network, branch = strange_synth.backbone_.fitted(), strange_synth.branch_
    drawn = {
        by_branch: draw_defects(network, branch, range(4), 1.0, normals=True, by_branch=by_branch)
        for by_branch in (True, False)
    }
    torch.testing.assert_close(drawn[True].normals, fitted_synth.backbone_.sample(4, seed=0))
    assert not torch.allclose(drawn[False].normals, drawn[True].normals, atol=0.05)
    with torch.no_grad():
        for weight in branch.blocks.parameters():
            weight.mul_(3)
    again = {
        by_branch: draw_defects(network, branch, range(4), 1.0, normals=False, by_branch=by_branch)
        for by_branch in (True, False)
    }
    assert torch.equal(again[False].images, drawn[False].images)
    assert not torch.equal(again[True].images, drawn[True].images)


def test_a_fit_says_that_samples_will_not_need_it(fitted_backbone, defects, capfd, monkeypatch):
    images, masks = defects(4)
    monkeypatch.setattr("defectgen.defect_fit.SOON", 0.01)
    judge = {}
    iterate = defect_fit.iter_defects
    monkeypatch.setattr(
        "defectgen.defect_fit.iter_defects",
        lambda *args, **given: judge.update(given) or iterate(*args, **given),
    )
    noise = torch.randint(256, images.shape, generator=torch.Generator().manual_seed(0))
    judged = []
    for pictures, told in ((images, False), (noise.to(torch.uint8), True)):
        synth = DefectSynthesizer(fitted_backbone, kimg=0.02, batch_size=4, seed=0, verbose=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TrainingWarning)
            synth.fit(pictures, masks)
        assert ("do not explain these photos" in capfd.readouterr().err) == told
        judged.append(synth.history_[-1]["score"])
        assert synth.branch_.known.learned is not told  # found once
        assert judge.pop("by_branch") is True  # what is trained is judged
    assert all(score > 0 for score in judged)


def test_where_a_defect_hides_all_its_photos_the_good_ones_tell(unlearned, fitted_synth, goods):
    network, known = fitted_synth.backbone_.fitted(), unlearned.known
    assert not find_backgrounds(network, unlearned, goods).learned
    assert not learned_by(network, known)
    known.masks.fill_(1)
    assert find_backgrounds(network, unlearned, goods).learned
    known.learned = None
    assert learned_by(network, known)  # nothing speaks against it
    source = torch.Generator().manual_seed(0)
    noise = torch.randint(256, goods.shape, dtype=torch.uint8, generator=source)
    assert not find_backgrounds(network, unlearned, noise).learned


def test_what_is_learned_is_of_the_defects_photos_and_not_of_the_good_ones(fitted_synth, goods):
    """Not one black picture among them changes how the others are drawn."""
    network, branch = fitted_synth.backbone_.fitted(), fitted_synth.branch_
    assert find_backgrounds(network, branch, goods).learned
    alone = fitted_synth.sample(8, good_images=goods, seed=0)
    spoiled = torch.cat([goods[:1], goods[:1] * 0])
    assert find_backgrounds(network, branch, spoiled).learned
    batch = next(fitted_synth.iter_samples(8, good_images=spoiled, seed=0))
    assert set(batch.backgrounds) == {"0000", "0001"}
    assert alone.shape == batch.images.shape


def test_a_defect_takes_the_place_and_the_light_of_the_photo(fitted_synth, goods, monkeypatch):
    seen = []

    def told(scenes, **given):
        seen.append(scenes)
        return place_masks(scenes=scenes, **given)

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


@pytest.fixture
def rendered(monkeypatch):
    """As many parts are rendered as a backbone with a base image has candidates."""
    monkeypatch.setattr(backgrounds, "RENDERED", CANDIDATES)


@pytest.mark.parametrize("base", [True, False])
def test_each_photo_goes_with_the_good_part_most_like_it(
    base, fitted_backbone, fitted_synth, monkeypatch, rendered
):
    network = fitted_backbone.fitted()
    if not base:
        monkeypatch.setitem(network.synthesis._modules, "base", None)
    with torch.no_grad():
        w = network.mapping(latents(range(CANDIDATES), network.config.z_dim, "object"))
        pictures = network.synthesis.base or (
            lambda w: network.synthesis(network.broadcast(w), no_noise)
        )
        some = pictures(w[[3, 200, 77]])
        photos = ((some + 1) * 127.5).round().clamp(0, 255).byte()
        found = find_backgrounds(network, fitted_synth.branch_, photos).objects
        theirs, own = thumbnail(pictures(found)), thumbnail(some)
        others = thumbnail(pictures(found.roll(1, 0)))
    near, far = ((one - own).abs().amax((1, 2, 3)) for one in (theirs, others))
    assert (near < 0.05).all()
    assert (near < far).all()


def test_each_sample_stands_on_the_part_of_its_own_photo(fitted_synth, goods, monkeypatch):
    asked, forward = [], SynthesisNetwork.forward

    def kept(self, ws, noise, residual=None):
        asked.append(ws[:, 0])
        return forward(self, ws, noise, residual)

    monkeypatch.setattr(SynthesisNetwork, "forward", kept)
    fitted_synth.sample(6, good_images=goods, seed=5)
    found = find_backgrounds(fitted_synth.backbone_.fitted(), fitted_synth.branch_, goods)
    picked = found.picked(range(5, 11))
    assert len({tuple(row.tolist()) for row in asked[0]}) > 1
    for ws in asked:
        torch.testing.assert_close(ws, found.objects[picked])


def test_psi_pulls_the_defect_alone_to_the_mean(fitted_synth, goods, monkeypatch):
    asked, start = [], DefectBranch.start

    def kept(self, ws, *more):
        asked.append(ws[:, 0])
        return start(self, ws, *more)

    monkeypatch.setattr(DefectBranch, "start", kept)
    given = {"return_normals": True, "good_images": goods, "seed": 5}
    _, full = fitted_synth.sample(3, **given)
    _, none = fitted_synth.sample(3, truncation_psi=0.0, **given)
    mean = fitted_synth.branch_.mapping.w_avg
    assert not torch.allclose(asked[0], mean.expand_as(asked[0]), atol=1e-3)
    torch.testing.assert_close(asked[1], mean.expand_as(asked[1]))
    assert torch.equal(full, none)


def test_a_generator_draws_the_seed(fitted_synth, goods):
    seed = int(torch.randint(2**31, (), generator=torch.Generator().manual_seed(8)))
    source = torch.Generator().manual_seed(8)
    drawn = fitted_synth.sample(2, good_images=goods, generator=source)
    assert torch.equal(drawn, fitted_synth.sample(2, good_images=goods, seed=seed))


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


def test_a_dataset_follows_a_synthesizer_that_is_fitted_anew(fitted_synth, goods, defects, tiny):
    synth = copy.copy(fitted_synth)
    dataset = SyntheticDefects(synth, 4, seed=5, good_images=goods)
    assert (
        dataset[0]["background"]
        == next(synth.iter_samples(1, good_images=goods, seed=5)).backgrounds[0]
    )
    assert "background" not in SyntheticDefects(synth, 4, seed=5)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        synth.set_params(seed=1).fit(*defects(4, seed=30))
    images, masks = synth.sample(4, return_masks=True, good_images=goods, seed=5)
    items = dataset.__getitems__(range(4))
    torch.testing.assert_close(torch.stack([i["image"] for i in items]), images, rtol=0, atol=1e-4)
    assert torch.equal(torch.stack([i["mask"] for i in items]), masks)


def test_names_of_equal_files_are_told_apart(fitted_synth, goods, tmp_path):
    paths = []
    for index, image in enumerate(goods[:3]):
        (tmp_path / str(index)).mkdir()
        paths.append(tmp_path / str(index) / ("same.png" if index else "own.png"))
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(paths[-1])
    batch = next(fitted_synth.iter_samples(16, return_normals=True, good_images=paths, seed=0))
    order = {"own.png [0]": 0, "same.png [1]": 1, "same.png [2]": 2}
    assert set(batch.backgrounds) == set(order)
    assert torch.equal(bytes_of(batch.normals), goods[[order[n] for n in batch.backgrounds]])


def test_each_photo_is_written_once_in_the_folders_of_mvtec(fitted_synth, goods, tmp_path):
    given = {"return_normals": True, "good_images": goods[:3], "seed": 0, "batch_size": 4}
    write_samples(
        fitted_synth.iter_samples(12, **given), tmp_path / "a", metadata={}, layout="mvtec"
    )
    lines = [json.loads(x) for x in (tmp_path / "a/metadata.jsonl").read_text().splitlines()]
    there = list((tmp_path / "a/train/good").iterdir())
    assert len(there) == len({line["background"] for line in lines}) <= 3
    for line in lines:
        normal = load_images([tmp_path / "a" / line["normal"]], resolution=32, channels=3)
        assert torch.equal(normal.images[0], goods[int(line["background"])])
    others = fitted_synth.iter_samples(2, **{**given, "good_images": goods[3:4]})
    both = itertools.chain(fitted_synth.iter_samples(12, **given), others)
    write_samples(both, tmp_path / "c", metadata={}, layout="mvtec")  # of equal names
    assert len(list((tmp_path / "c/train/good").iterdir())) == len(there) + 1
    write_samples(fitted_synth.iter_samples(12, **given), tmp_path / "b", metadata={})
    assert len(list((tmp_path / "b/normals").iterdir())) == 12  # beside each image its own


def test_evaluate_judges_the_samples_on_photos(fitted_synth, defects, goods):
    real = defects(3, seed=3)
    given = {"n": 6, "seed": 1, "extractor": None, "perceptual": None}
    drawn = fitted_synth.evaluate(*real, **given)
    placed = fitted_synth.evaluate(*real, good_images=goods, **given)
    digest = load_images(goods, resolution=32, channels=3).digest
    assert "good_images_digest" not in drawn.settings
    assert placed.settings["good_images_digest"] == digest
    masks = fitted_synth.sample(6, return_masks=True, good_images=goods, seed=1)[1]
    assert placed.scores["area"]["generated"] == pytest.approx(float(masks.float().mean()))
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
        found = downstream_test(fitted_synth, goods=goods, on_goods=True, seed=3, **given)
    assert found.settings["on_goods"] is True
    kept = asked[-1]["good_images"]
    assert asked[-1]["seed"] == 3
    assert kept.names == tuple(f"{k:04d}" for k in (0, 1, 2, 3, 5, 6, 7, 8))
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


# -- what is refused, or warned of --


def test_photos_with_the_defect_are_warned_of(fitted_synth, goods, defects):
    """Of the fit, and of what judges."""
    learned, unseen = defects(6), defects(3, seed=3)
    mixed = torch.cat([goods, learned[0][:2]])
    with pytest.warns(DataWarning, match=r"^good_images: .*got 2 of 9 photos") as told:
        fitted_synth.sample(1, good_images=mixed)
    assert [one.filename for one in told] == [__file__]
    with pytest.warns(DataWarning, match=r"^good_images: .*got 2 of 9 photos") as told:
        fitted_synth.iter_samples(1, good_images=mixed)
    assert [one.filename for one in told] == [__file__]
    given = {"n": 6, "extractor": None, "perceptual": None}
    mixed = torch.cat([goods, unseen[0][:1]])
    with pytest.warns(DataWarning, match=r"^good_images: .*got 1 of 8 .* real_imgs") as told:
        fitted_synth.evaluate(*unseen, good_images=mixed, **given)
    assert [one.filename for one in told] == [__file__]


def test_options_of_data_sets_belong_to_good_images(tmp_path, capsys):
    given = ["sample", "nothing", "-n", "1", "--out", str(tmp_path / "out")]
    words = (["--square", "crop"], ["--drop-bad"], ["--layout", "visa"], ["--category", ""])
    for option in (*words, ["--split", "1cls"]):
        assert main([*given, *option]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"defectgen: {option[0]}: belongs to --good-images")


def test_oblong_photos_are_cut_as_for_training(fitted_synth, tmp_path, capsys):
    fitted_synth.save_pretrained(tmp_path / "model", include_backbone=True)
    (tmp_path / "good").mkdir()
    for k in range(3):
        Image.new("RGB", (60, 40), (90 + k, 80, 70)).save(tmp_path / "good" / f"{k}.png")
    given = ["sample", str(tmp_path / "model"), "-n", "2", "--good-images", str(tmp_path / "good")]
    assert main([*given, "--out", str(tmp_path / "a")]) == 1
    assert "--square" in capsys.readouterr().err
    assert main([*given, "--out", str(tmp_path / "b"), "--square", "crop"]) == 0
    line = json.loads((tmp_path / "b/metadata.jsonl").read_text().splitlines()[0])
    assert line["background"] in {"0.png", "1.png", "2.png"}


def test_a_wrong_number_is_told_before_photos_are_read(fitted_synth, tmp_path, capsys):
    fitted_synth.save_pretrained(tmp_path / "model", include_backbone=True)
    given = ["sample", str(tmp_path / "model"), "-n", "2", "--out", str(tmp_path / "a")]
    assert main([*given, "--good-images", "nowhere", "--batch-size", "0"]) == 2
    assert "batch_size" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["photos/good", 1, None])
def test_on_goods_is_yes_or_no(value, fitted_synth, defects, product):
    with pytest.raises(ConfigError, match="^on_goods: True or False; got"):
        downstream_test(
            fitted_synth,
            training=defects(6),
            test=defects(5, seed=3),
            goods=product(10),
            on_goods=value,
        )


def test_what_is_no_photo_is_told_by_its_argument(fitted_synth, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    with pytest.raises(ImageError, match="^good_images: "):
        fitted_synth.sample(1, good_images=tmp_path / "photos")
    fitted_synth.save_pretrained(tmp_path / "model", include_backbone=True)
    arguments = ["sample", str(tmp_path / "model"), "-n", "1", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--good-images", str(tmp_path / "photos")]) == 1
    assert capsys.readouterr().err.startswith(f"defectgen: {tmp_path / 'photos'}: ")
    (tmp_path / "photos" / "0.png").write_bytes(b"no picture")
    assert main([*arguments, "--good-images", str(tmp_path / "photos")]) == 1
    assert "0.png" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_photos_read_at_another_size_are_refused(fitted_synth, product):
    for size in ({"resolution": 64}, {"channels": 1}):
        other = load_images(product(2, **size), **{"resolution": 32, "channels": 3, **size})
        with pytest.raises(ConfigError, match=r"^good_images: .*\(3, 32, 32\).*got \([13], "):
            fitted_synth.sample(1, good_images=other)
    none = load_images(product(2), resolution=32, channels=3).only(torch.zeros(2).bool())
    with pytest.raises(ConfigError, match=r"^good_images: at least one photo"):
        fitted_synth.sample(1, good_images=none)


def test_masks_that_are_learned_go_on_no_photo(
    fitted_backbone, tiny, defects, goods, tmp_path, capsys
):
    synth = DefectSynthesizer(
        fitted_backbone, preset="dfmgan", kimg=0.02, batch_size=4, seed=0, device="cpu", verbose=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        synth.fit(*defects(4))
    with pytest.raises(ConfigError, match=r"^good_images: .*preset"):
        synth.sample(1, good_images=goods)
    # Told before anything is read.
    with pytest.raises(ConfigError, match=r"^good_images: .*preset"):
        SyntheticDefects(synth, 1, good_images="nowhere")
    with pytest.raises(ConfigError, match=r"^seed: "):
        synth.evaluate("nowhere", "nowhere", good_images="nowhere", seed=-1)
    with pytest.raises(ConfigError, match=r"^good_images: .*preset"):
        synth.evaluate("nowhere", "nowhere", good_images="nowhere")
    pairs = {"training": ("nowhere", "nowhere"), "test": ("nowhere", "nowhere")}
    with pytest.raises(ConfigError, match=r"^on_goods: .*preset.*leave on_goods out"):
        downstream_test(synth, goods="nowhere", on_goods=True, **pairs)
    synth.save_pretrained(tmp_path / "model", include_backbone=True)
    given = ["sample", str(tmp_path / "model"), "-n", "1", "--out", str(tmp_path / "out")]
    assert main([*given, "--good-images", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("defectgen: --good-images: only defects")


def test_who_was_never_fitted_says_so_first(fitted_backbone, tmp_path):
    with pytest.raises(NotFittedError):
        DefectSynthesizer(fitted_backbone).sample(1, good_images=tmp_path / "nowhere")
