"""Where a backbone's codes begin."""

from __future__ import annotations

import pytest
import torch

from defectgen.augment.pipe import AugmentPipe
from defectgen.augment.policy import POLICIES
from defectgen.backbone_fit import new_networks
from defectgen.config import backbone_config, backbone_training
from defectgen.networks.mapping import CodeMapping, blend
from defectgen.training.backbone_task import KEY_LENGTH, BackboneTask


@pytest.fixture(scope="module")
def images():
    """Blobs anywhere, a third of them far brighter than the rest."""
    draw = torch.Generator().manual_seed(0)
    found = torch.zeros(30, 1, 32, 32)
    for k, (x, y) in enumerate(torch.randint(0, 20, (30, 2), generator=draw).tolist()):
        found[k, :, y : y + 12, x : x + 12] = 1.0 if k % 3 == 0 else 0.2
    return found * 2 - 1


def begun(images, layout, kimg=1.0):
    shape = backbone_config(32, 1, None, layout, codes=len(images))
    train = backbone_training(
        shape, preset=None, kimg=kimg, batch_size=4, seed=0, precision="fp32", layout=layout
    )
    return BackboneTask(new_networks(shape, 0), train, images, AugmentPipe(POLICIES["none"]))


def test_every_photo_of_many_poses_is_drawn(images):
    mapping = begun(images, "free").network.mapping
    assert isinstance(mapping, CodeMapping)
    torch.testing.assert_close(mapping.keys.norm(dim=1), torch.full((30,), KEY_LENGTH))
    z = torch.randn(20000, mapping.z_dim, generator=torch.Generator().manual_seed(1))
    weights = blend(z, mapping.keys)
    shares = 30 * weights.mean(dim=0)
    assert float(shares.min()) > 0.1  # half of them never, with keys of several lengths
    assert float(shares.max()) < 3
    assert float(weights.amax(dim=1).mean()) > 0.85  # hardly ever a blend of two poses


@pytest.mark.parametrize(("layout", "kimg"), [("aligned", 0.5), ("texture", 6.0)])
def test_the_linear_mapping_of_a_short_run_begins_where_the_codes_are(images, layout, kimg):
    """It has too few steps to fit it, 83 of 4 images; for a texture there are none in any run."""
    task = begun(images, layout, kimg)
    mapping, codes = task.network.mapping, task.codes
    z = torch.randn(500, mapping.z_dim, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(mapping(z), codes.blend(z), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(mapping.w_avg, codes.table.mean(dim=0))
    assert float(mapping(z).std(dim=0).max()) > 0.3


def test_that_of_a_longer_run_is_drawn(images):
    task = begun(images, "aligned", 1.0)
    mapping, codes = task.network.mapping, task.codes
    z = torch.randn(500, mapping.z_dim, generator=torch.Generator().manual_seed(1))
    assert float((mapping(z) - codes.blend(z)).abs().mean()) > 0.3


def test_nothing_of_a_texture_is_reconstructed(images):
    """Its codes stay where the shading put them; no loss asks where its grain lies."""
    for layout, wanted in (("texture", 0), ("aligned", 667)):
        task = begun(images, layout)
        last = [phase.last for phase in task.phases() if phase.name == "reconstruction"]
        assert last == [wanted]
        assert (task.config.anchor_weight > 0) == (wanted > 0)


def grains(count):
    """Noise that is weak in the first half of the images, (n, 1, 32, 32)."""
    found = torch.randn(count, 1, 32, 32, generator=torch.Generator().manual_seed(2))
    return found * torch.where(torch.arange(count) < count // 2, 0.1, 0.3).view(-1, 1, 1, 1)


def test_codes_of_a_texture_are_what_z_can_draw():
    codes = begun(grains(80), "texture").codes
    matrix, mean = codes.line()
    torch.testing.assert_close(codes.table, mean + codes.keys @ matrix, rtol=1e-3, atol=1e-3)
