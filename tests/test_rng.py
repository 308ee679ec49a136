from __future__ import annotations

import hashlib
import sys

import numpy as np
import pytest
import torch

from defectgen.rng import (
    SEED_LIMIT,
    ConstantNoise,
    GeneratorNoise,
    SampleNoise,
    fresh_seed,
    generator,
    latents,
    no_noise,
    sample_seeds,
)

#: First number of a stream: files written by one version must give the same pictures in the next.
GOLDEN = 149302904502509093


def draw(seed, *stream):
    return torch.randn(64, generator=generator(seed, *stream))


def test_equal_arguments_give_equal_numbers():
    assert torch.equal(draw(3, "z", 1), draw(3, "z", 1))


def test_streams_and_neighboring_seeds_are_unrelated():
    numbers = [draw(3), draw(4), draw(3, "z"), draw(3, "z", 1), draw(3, "w"), draw(31), draw(-3)]
    table = torch.stack(numbers)
    similar = torch.corrcoef(table) - torch.eye(len(numbers))
    assert float(similar.abs().max()) < 0.5


def test_numbers_stay_for_ever():
    digest = hashlib.sha256(b"7/latent").digest()
    wanted = int.from_bytes(digest[:8], "little") // 2
    assert generator(7, "latent").initial_seed() == wanted == GOLDEN
    assert 0 <= wanted < SEED_LIMIT


def test_generators_live_on_the_cpu_and_leave_the_global_state_alone():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    assert generator(0).device.type == "cpu"
    latents([1, 2], 8, "z")
    SampleNoise([1])("layer", 1, 4)
    ConstantNoise()("layer", 1, 4)
    GeneratorNoise(generator(0))("layer", 1, 4)
    fresh_seed()
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002


def test_fresh_seeds_differ_and_fit_in_31_bits():
    seeds = {fresh_seed() for _ in range(50)}
    assert len(seeds) > 45
    assert all(0 <= s < 2**31 for s in seeds)
    torch.manual_seed(0)
    first = fresh_seed()
    torch.manual_seed(0)
    assert fresh_seed() != first  # not from a global generator


def test_sample_seeds_of_few_are_the_first_of_many():
    assert tuple(sample_seeds(3, 10)) == (10, 11, 12)
    assert sample_seeds(5, 10)[:3] == sample_seeds(3, 10)
    assert tuple(sample_seeds(0, 10)) == ()
    assert tuple(sample_seeds(3, SEED_LIMIT - 1)) == (SEED_LIMIT - 1, 0, 1)
    assert tuple(sample_seeds(2, SEED_LIMIT - 2)) == (SEED_LIMIT - 2, SEED_LIMIT - 1)
    assert sys.getsizeof(sample_seeds(10**12, 10)) < 100


def test_latents_depend_on_their_own_seed_and_stream_only():
    z = latents([5, 6, 5], 16, "object")
    assert z.shape == (3, 16)
    assert z.dtype == torch.float32
    assert torch.equal(z[0], z[2])
    assert torch.equal(z[1:2], latents([6], 16, "object"))
    assert not torch.equal(z[0], z[1])
    assert not torch.equal(z, latents([5, 6, 5], 16, "defect"))
    assert latents([], 16, "object").shape == (0, 16)


def test_latents_are_standard_normal():
    z = latents(range(400), 32, "object").flatten()
    assert float(z.mean()) == pytest.approx(0, abs=0.04)
    assert float(z.std()) == pytest.approx(1, abs=0.04)


# -- noise ---


def test_sample_noise_is_a_function_of_seed_and_layer():
    noise = SampleNoise([5, 6, 5])
    planes = noise("b8.conv0", 3, 8)
    assert planes.shape == (3, 1, 8, 8)
    assert torch.equal(planes, noise("b8.conv0", 3, 8))
    assert torch.equal(planes[0], planes[2])
    assert not torch.equal(planes[0], planes[1])
    assert torch.equal(planes[1:2], SampleNoise([6])("b8.conv0", 1, 8))
    assert not torch.equal(planes, noise("b8.conv1", 3, 8))
    assert float(noise("b64.conv0", 3, 64).std()) == pytest.approx(1, abs=0.05)
    assert SampleNoise([])("b8.conv0", 0, 8).shape == (0, 1, 8, 8)


def test_sample_noise_refuses_another_batch_size():
    with pytest.raises(ValueError, match="^batch: one row per seed; got 3 for 2 seeds"):
        SampleNoise([0, 1])("layer", 3, 4)


def test_sample_noise_differs_from_the_latents_of_the_same_seed():
    assert not torch.equal(latents([5], 64, "noise")[0], SampleNoise([5])("x", 1, 8).flatten())


def test_constant_noise_is_one_plane_for_all():
    planes = ConstantNoise()("b8.conv0", 3, 8)
    assert planes.shape == (3, 1, 8, 8)
    assert torch.equal(planes[0], planes[2])
    assert torch.equal(planes[:1], ConstantNoise(0)("b8.conv0", 1, 8))
    assert not torch.equal(planes, ConstantNoise(1)("b8.conv0", 3, 8))
    assert not torch.equal(planes, ConstantNoise()("b8.conv1", 3, 8))


def test_generator_noise_is_fresh_at_every_call():
    noise = GeneratorNoise(generator(0))
    first = noise("b8.conv0", 2, 8)
    assert first.shape == (2, 1, 8, 8)
    assert not torch.equal(first, noise("b8.conv0", 2, 8))
    assert torch.equal(first, GeneratorNoise(generator(0))("b8.conv0", 2, 8))


def test_generator_noise_can_be_kept_for_a_second_render():
    noise = GeneratorNoise(generator(0), keep=True)
    first = noise("b8.conv0", 2, 8)
    other = noise("b8.conv1", 2, 8)
    assert not torch.equal(first, other)
    assert torch.equal(first, noise("b8.conv0", 2, 8))
    assert torch.equal(other, noise("b8.conv1", 2, 8))
    assert noise("b8.conv0", 3, 8).shape == (3, 1, 8, 8)  # another batch, other planes


def test_no_noise_is_none():
    assert no_noise("b8.conv0", 2, 8) is None
