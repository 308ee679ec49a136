"""SyntheticDefects: what a DataLoader gets, and that nothing is drawn twice."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

from defectgen import DefectSynthesizer, NotFittedError, SyntheticDefects
from defectgen.errors import ConfigError


def all_of(dataset, **options):
    """Images and masks in the order in which a loader gives them."""
    batches = list(DataLoader(dataset, batch_size=4, **options))
    return torch.cat([b["image"] for b in batches]), torch.cat([b["mask"] for b in batches])


def test_items_are_the_samples_of_the_seeds(fitted_synth):
    dataset = SyntheticDefects(fitted_synth, 5, seed=7, label="cut")
    images, masks = fitted_synth.sample(5, return_masks=True, seed=7)
    assert len(dataset) == 5
    for index in (3, 0, 4):
        item = dataset[index]
        torch.testing.assert_close(item["image"], images[index], rtol=0, atol=1e-4)
        assert torch.equal(item["mask"], masks[index])
        assert item["label"] == "cut"
    torch.testing.assert_close(dataset[-1]["image"], images[4], rtol=0, atol=1e-4)
    for index in (5, -6):
        with pytest.raises(IndexError, match="index: must be below 5"):
            dataset[index]


@pytest.mark.parametrize(("workers", "start"), [(0, None), (2, "fork"), (1, "spawn")])
def test_workers_repeat_nothing(fitted_synth, workers, start):
    dataset = SyntheticDefects(fitted_synth, 11, seed=3)
    images, masks = all_of(dataset, num_workers=workers, multiprocessing_context=start)
    expected, their = fitted_synth.sample(11, return_masks=True, seed=3)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-4)
    assert torch.equal(masks, their)
    assert masks.dtype == torch.bool
    assert len(torch.unique(images.flatten(1), dim=0)) == 11


def test_ranks_repeat_nothing(fitted_synth):
    dataset = SyntheticDefects(fitted_synth, 6, seed=0)
    parts = [
        all_of(dataset, sampler=DistributedSampler(dataset, num_replicas=2, rank=rank))[0]
        for rank in range(2)
    ]
    assert [len(part) for part in parts] == [3, 3]
    assert len(torch.unique(torch.cat(parts).flatten(1), dim=0)) == 6


def test_a_batch_is_rendered_in_one_pass(fitted_synth, monkeypatch):
    from defectgen import sampling

    passes = []
    draw = sampling.draw_defects
    monkeypatch.setattr(
        sampling, "draw_defects", lambda *a, **k: passes.append(a[2]) or draw(*a, **k)
    )
    next(iter(DataLoader(SyntheticDefects(fitted_synth, 8, seed=2), batch_size=8)))
    assert passes == [(2, 3, 4, 5, 6, 7, 8, 9)]


def test_truncation_reaches_the_samples(fitted_synth):
    item = SyntheticDefects(fitted_synth, 1, seed=0, truncation_psi=0.0)[0]
    expected = fitted_synth.sample(1, seed=0, truncation_psi=0.0)[0]
    torch.testing.assert_close(item["image"], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"n": 0}, "n: "), ({"seed": -1}, "seed: "), ({"truncation_psi": 3.0}, "truncation_psi: ")],
)
def test_bad_numbers_are_refused_at_once(fitted_synth, change, message):
    given = {"n": 4, **change}
    with pytest.raises(ConfigError, match=message):
        SyntheticDefects(fitted_synth, given.pop("n"), **given)


def test_what_is_no_synthesizer_is_refused(fitted_backbone):
    with pytest.raises(ConfigError, match="^synth: a fitted DefectSynthesizer; got .* Backbone"):
        SyntheticDefects(fitted_backbone, 4)


def test_an_unfitted_synthesizer_is_refused(fitted_backbone):
    with pytest.raises(NotFittedError):
        SyntheticDefects(DefectSynthesizer(fitted_backbone), 4)


def test_forked_workers_of_a_gpu_are_told_what_to_do(fitted_synth, monkeypatch):
    from defectgen import synthetic

    dataset = SyntheticDefects(fitted_synth, 2)
    monkeypatch.setattr(synthetic, "forked_beside_cuda", lambda device: True)
    with pytest.raises(ConfigError, match="num_workers: must be 0, or the workers spawned"):
        dataset[0]


def test_workers_of_a_gpu_are_refused_on_windows(fitted_synth, monkeypatch):
    from defectgen import synthetic

    dataset = SyntheticDefects(fitted_synth, 2)
    monkeypatch.setattr(dataset, "_device", lambda: torch.device("cuda"), raising=True)
    monkeypatch.setattr(synthetic, "WINDOWS", True)
    assert dataset.__getstate__()["n"] == 2  # kept in a file, it is no worker's
    monkeypatch.setattr(synthetic, "get_spawning_popen", object)
    with pytest.raises(ConfigError, match="^num_workers: must be 0 for a synthesizer on a GPU"):
        dataset.__getstate__()
    monkeypatch.setattr(synthetic, "WINDOWS", False)
    assert dataset.__getstate__()["n"] == 2
    monkeypatch.setattr(synthetic, "WINDOWS", True)
    monkeypatch.setattr(dataset, "_device", lambda: torch.device("cpu"))
    assert dataset.__getstate__()["n"] == 2
