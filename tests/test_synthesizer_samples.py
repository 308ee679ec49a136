"""DefectSynthesizer.sample: what a seed decides, what it gives, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from defectgen import ConfigError, DefectBatch
from defectgen.networks.defect import DefectBranch


def one_sentence(error):
    """The house form: "argument: rule; got value; do this"."""
    text = str(error.value)
    return ": " in text and "; got " in text and text.count("\n") == 0 and len(text) < 400


def everything(synth, n, **arguments):
    return synth.sample(n, return_masks=True, return_normals=True, **arguments)


def test_samples_have_the_promised_types(fitted_synth):
    images, masks, normals = everything(fitted_synth, 20, seed=0)
    assert images.shape == normals.shape == (20, 3, 32, 32)
    assert masks.shape == (20, 1, 32, 32)
    assert (images.dtype, masks.dtype, normals.dtype) == (torch.float32, torch.bool, torch.float32)
    for part in (images, normals):
        assert 0 <= part.min() < part.max() <= 1
        assert not part.requires_grad
    assert masks.any()
    assert not masks.all()


def test_flags_choose_images_then_masks_then_normals(fitted_synth):
    images, masks, normals = everything(fitted_synth, 2, seed=0)
    alone = fitted_synth.sample(2, seed=0)
    assert isinstance(alone, torch.Tensor)
    assert torch.equal(alone, images)
    with_masks = fitted_synth.sample(2, seed=0, return_masks=True)
    with_normals = fitted_synth.sample(2, seed=0, return_normals=True)
    assert isinstance(with_masks, tuple)
    assert isinstance(with_normals, tuple)
    for found, wanted in ((with_masks, (images, masks)), (with_normals, (images, normals))):
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_normals_are_the_backbones_own_parts(fitted_synth, fitted_backbone):
    normals = everything(fitted_synth, 4, seed=3)[2]
    assert torch.equal(normals, fitted_backbone.sample(4, seed=3))


def test_batch_size_does_not_matter(fitted_synth):
    wanted = everything(fitted_synth, 16, seed=11, batch_size=16)
    for size in (1, 3, 16):
        images, masks, normals = everything(fitted_synth, 16, seed=11, batch_size=size)
        torch.testing.assert_close(images, wanted[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(normals, wanted[2], atol=1e-4, rtol=0)
        assert torch.equal(masks, wanted[1])
    assert not torch.allclose(everything(fitted_synth, 16, seed=12)[0], wanted[0], atol=1e-3)


@pytest.mark.parametrize("size", [1, 3, 16])
def test_latents_and_noise_are_bit_equal_for_any_batch_size(fitted_synth, monkeypatch, size):
    import defectgen.sampling as module

    def watched(batch_size):
        drawn = {}
        noise, latents = module.SampleNoise.__call__, module.latents

        def planes(self, layer, batch, resolution):
            result = noise(self, layer, batch, resolution)
            drawn.setdefault(layer, []).append(result)
            return result

        def codes(seeds, dim, stream):
            result = latents(seeds, dim, stream)
            drawn.setdefault(stream, []).append(result)
            return result

        with monkeypatch.context() as patch:
            patch.setattr(module.SampleNoise, "__call__", planes)
            patch.setattr(module, "latents", codes)
            fitted_synth.sample(16, seed=3, batch_size=batch_size)
        return {name: torch.cat(parts) for name, parts in drawn.items()}

    found, wanted = watched(size), watched(8)
    assert found.keys() == wanted.keys() > {"object", "defect", "b32.conv1", "defect32.conv1"}
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert len({v.numpy().tobytes() for v in wanted.values()}) == len(wanted)  # no stream twice


def test_a_short_sample_is_the_beginning_of_a_long_one(fitted_synth):
    long, short = everything(fitted_synth, 20, seed=5), everything(fitted_synth, 6, seed=5)
    for a, b in zip(short, long, strict=True):
        torch.testing.assert_close(a.float(), b[:6].float(), atol=1e-4, rtol=0)
    assert torch.equal(short[1], long[1][:6])


def test_sample_i_depends_on_its_own_seed_only(fitted_synth):
    long = everything(fitted_synth, 8, seed=5)
    alone = everything(fitted_synth, 1, seed=5 + 7)
    for a, b in zip(alone, long, strict=True):
        torch.testing.assert_close(a.float(), b[7:].float(), atol=1e-4, rtol=0)


def test_without_seed_a_fresh_one_is_drawn_and_kept(fitted_synth):
    (first,), (second,) = (list(fitted_synth.iter_samples(3)) for _ in range(2))
    assert first.seeds != second.seeds
    assert not torch.equal(first.images, second.images)
    assert first.seeds == tuple(range(first.seeds[0], first.seeds[0] + 3))
    assert torch.equal(fitted_synth.sample(3, seed=first.seeds[0]), first.images)


def test_a_generator_gives_the_seed(fitted_synth):
    def draw(state):
        return fitted_synth.sample(2, generator=torch.Generator().manual_seed(state))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    source = torch.Generator().manual_seed(1)
    first, second = (fitted_synth.sample(2, generator=source) for _ in range(2))
    assert torch.equal(first, draw(1))
    assert not torch.equal(first, second)


def test_iter_samples_yields_whole_batches_with_their_seeds(fitted_synth):
    batches = list(fitted_synth.iter_samples(7, seed=30, batch_size=3, return_normals=True))
    assert all(isinstance(batch, DefectBatch) for batch in batches)
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert [batch.seeds for batch in batches] == [(30, 31, 32), (33, 34, 35), (36,)]
    whole = DefectBatch.concat(batches)
    wanted = everything(fitted_synth, 7, seed=30, batch_size=3)
    for found, part in zip((whole.images, whole.masks, whole.normals), wanted, strict=True):
        assert torch.equal(found, part)
    without = next(iter(fitted_synth.iter_samples(1, seed=0)))
    assert without.masks is not None
    assert without.normals is None


def test_iter_samples_draws_only_what_is_asked_for(fitted_synth):
    million = fitted_synth.iter_samples(10**6, seed=0, batch_size=2)
    assert next(million).seeds == (0, 1)
    assert next(million).seeds == (2, 3)


def test_nothing_is_a_number_too(fitted_synth):
    images, masks, normals = everything(fitted_synth, 0)
    assert images.shape == normals.shape == (0, 3, 32, 32)
    assert masks.shape == (0, 1, 32, 32)
    assert (images.dtype, masks.dtype, normals.dtype) == (torch.float32, torch.bool, torch.float32)
    assert fitted_synth.sample(0).shape == (0, 3, 32, 32)
    assert list(fitted_synth.iter_samples(0)) == []


def test_truncation_pulls_to_the_mean(fitted_synth):
    none, half, full = (
        fitted_synth.sample(6, seed=0, truncation_psi=psi, return_normals=True)[1]
        for psi in (0.0, 0.5, 1.0)
    )
    assert 0 < (half - none).abs().mean() < (full - none).abs().mean()


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"n": -1}, "n"), ({"n": 2.0}, "n"), ({"n": True}, "n"), ({"n": "3"}, "n"),
        ({"n": 1, "truncation_psi": 2.5}, "truncation_psi"),
        ({"n": 1, "truncation_psi": None}, "truncation_psi"),
        ({"n": 1, "batch_size": 0}, "batch_size"), ({"n": 1, "batch_size": 1.5}, "batch_size"),
        ({"n": 1, "seed": -1}, "seed"), ({"n": 1, "seed": 0.5}, "seed"),
        ({"n": 1, "seed": 2**63}, "seed"),
        ({"n": 1, "seed": 0, "generator": torch.Generator()}, "seed, generator"),
    ],
    ids=lambda value: str(value).partition("<")[0],  # no address: it differs between processes
)  # fmt: skip
def test_wrong_sampling_arguments_are_refused_in_one_sentence(fitted_synth, arguments, name):
    for method in (fitted_synth.sample, fitted_synth.iter_samples):  # both at the call
        with pytest.raises(ConfigError, match=f"^{name}:") as error:
            method(**arguments)
        assert one_sentence(error)


# -- gates ---


@pytest.fixture
def passes(monkeypatch):
    """All forward passes of branches since the test began, with the gates they opened."""
    seen = []
    start = DefectBranch.start

    def watch(self, *args):
        seen.append(start(self, *args))
        return seen[-1]

    monkeypatch.setattr(DefectBranch, "start", watch)
    return seen


def test_gates_of_the_default_preset_lie_in_the_final_mask(fitted_synth, passes):
    masks = fitted_synth.sample(16, return_masks=True, seed=0)[1]
    (hook,) = passes
    assert torch.equal(hook.mask, masks)
    assert list(hook.gates) == [8, 16, 32]
    for resolution, gate in hook.gates.items():
        large = torch.nn.functional.interpolate(gate.float(), 32) > 0
        assert gate.any(), resolution
        assert not (large & ~masks).any(), resolution


def test_more_than_fits_into_memory_is_refused_and_drawn_in_batches(fitted_synth):
    with pytest.raises(ConfigError, match="^n: as many as fit into memory; got 10{12}, ") as error:
        fitted_synth.sample(10**12)
    assert one_sentence(error)
    assert "iter_samples" in str(error.value)
    batch = next(fitted_synth.iter_samples(10**12, seed=5, batch_size=2))
    assert batch.seeds == (5, 6)
