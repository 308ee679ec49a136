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


@pytest.mark.parametrize(("kimg", "spread"), [(36.0, 1.0), (18.0, 0.5), (3.6, 0.2), (72.0, 1.0)])
def test_codes_of_a_texture_begin_the_narrower_the_shorter_the_run(images, kimg, spread):
    task = begun(images, "texture", kimg)
    assert task.config.code_spread == spread
    wide = begun(images, "texture", 36.0)
    z = torch.randn(500, task.network.config.z_dim, generator=torch.Generator().manual_seed(1))
    ratio = task.codes.blend(z).std(dim=0) / wide.codes.blend(z).std(dim=0)
    torch.testing.assert_close(ratio, torch.full_like(ratio, spread))


def test_codes_of_an_aligned_part_are_as_wide_as_they_are(images):
    assert begun(images, "aligned", 3.6).codes.spread == 1.0
