"""ST-LPIPS: the numbers of the published package, its definition, and masks as weights."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch
import torch.nn.functional as F

from defectgen.errors import ConfigError
from defectgen.metrics import perceptual
from defectgen.metrics.features import load_state, package_file
from defectgen.metrics.perceptual import lpips, pairwise, st_lpips

WEIGHTS = package_file("stlpips_pytorch", "weights", "vST0.0", "alex_shift_tolerant.pth")
needs_weights = pytest.mark.skipif(WEIGHTS is None, reason="needs stlpips-pytorch")


def waves(side: int, phase: float) -> torch.Tensor:
    """One smooth color picture (1, 3, side, side), the same on every machine."""
    y, x = torch.meshgrid(torch.arange(side) / side, torch.arange(side) / side, indexing="ij")
    slow = 0.3 * torch.sin(20 * x + 7 * y + phase)
    fast = [0.15 * torch.cos(360 * (x - 0.5) ** 2 + 30 * k * y + phase) for k in (1, 2, 3)]
    return torch.stack([0.5 + slow + part for part in fast])[None]


def texture(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, height // 6, width // 6, generator=source)
    return F.interpolate(coarse, size=(height, width), mode="bilinear")


@pytest.fixture(scope="module")
def metric():
    return st_lpips()


def maps(seed: int, count: int = 3) -> list[torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    shapes = (4, 8, 6), (2, 4, 3)
    return [torch.rand(count, *shape, generator=source) for shape in shapes]


# -- the network ---


@needs_weights
@pytest.mark.parametrize(
    ("side", "phase", "lighter"),
    [(64, 0.01916893571615219, 0.0026167756877839565), (97, 0.0347872264683247, 0.005667507648468)],
)
def test_the_distances_are_those_of_the_published_package(metric, side, phase, lighter):
    """Recorded from stlpips_pytorch 0.0.2, net "alex", variant "shift_tolerant"."""
    a = waves(side, 0.0)
    assert metric.distance(a, waves(side, 1.0)).item() == pytest.approx(phase, rel=1e-3)
    assert metric.distance(a, a + 0.05).item() == pytest.approx(lighter, rel=1e-3)


@needs_weights
def test_maps_have_unit_length_before_the_heads_weigh_them(metric):
    state = load_state("weights", WEIGHTS)
    features = metric.features(texture(2, 64, 70))
    assert [f.shape[1] for f in features] == [64, 192, 384, 256, 256]
    for layer, found in enumerate(features):
        head = state[f"lin{layer}.model.1.weight"]
        used = head[0, :, 0, 0] > 1e-6
        rest = (found[:, used] / head[:, used].sqrt()).square().sum(1)
        assert float(rest.max()) < 1 + 1e-4
        if bool(used.all()):
            torch.testing.assert_close(rest, torch.ones_like(rest), rtol=0, atol=1e-3)


@needs_weights
def test_equal_images_have_no_distance_and_the_order_of_two_does_not_matter(metric):
    a, b = texture(2, 64, 64), texture(2, 64, 64, seed=1)
    assert metric.distance(a, a).tolist() == [0, 0]
    torch.testing.assert_close(metric.distance(a, b), metric.distance(b, a))
    torch.testing.assert_close(metric.distance(a, b)[1:], metric.distance(a[1:], b[1:]))
    assert bool((metric.distance(a, b) > 0.1).all())


@needs_weights
def test_distances_grow_with_the_change(metric):
    large = texture(2, 96, 96)
    a = large[..., 16:80, 16:80]
    by_shift = [metric.distance(a, large[..., 16:80, 16 + s : 80 + s]) for s in (0, 1, 8)]
    assert bool((by_shift[0] < by_shift[1]).all())
    assert bool((3 * by_shift[1] < by_shift[2]).all())
    noise = torch.randn(a.shape, generator=torch.Generator().manual_seed(3))
    by_noise = [metric.distance(a, (a + s * noise).clamp(0, 1)) for s in (0.01, 0.04, 0.16)]
    assert bool((by_noise[0] < by_noise[1]).all())
    assert bool((by_noise[1] < by_noise[2]).all())


@needs_weights
def test_small_images_are_enlarged_and_gray_is_rgb(metric):
    a, b = texture(1, 32, 48), texture(1, 32, 48, seed=1)
    large = [F.interpolate(x, size=(64, 96), mode="bilinear") for x in (a, b)]
    torch.testing.assert_close(metric.distance(a, b), metric.distance(*large))
    gray = a[:, :1], b[:, :1]
    rgb = [x.repeat(1, 3, 1, 1) for x in gray]
    torch.testing.assert_close(metric.distance(*gray), metric.distance(*rgb))


@needs_weights
def test_the_package_of_the_weights_is_not_run(monkeypatch):
    monkeypatch.delitem(sys.modules, "stlpips_pytorch", raising=False)
    assert st_lpips().name == "stlpips_alex"
    assert "stlpips_pytorch" not in sys.modules


def test_without_weights_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"stlpips-pytorch.*pip install .defectgen\[metrics\]."):
        st_lpips()


@needs_weights
@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_a_weight_file_of_another_kind_is_refused(monkeypatch, tmp_path, change):
    state = load_state("weights", WEIGHTS)
    key = "lin4.model.1.weight"
    if change == "missing":
        del state[key]
    elif change == "extra":
        key = "lin5.model.1.weight"
        state[key] = torch.zeros(1)
    else:
        state[key] = torch.zeros(1, 128, 1, 1)
    torch.save(state, tmp_path / "weights.pth")
    monkeypatch.setattr(perceptual, "package_file", lambda *parts: tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match=f"perceptual: .*{key} wrong"):
        st_lpips()


# -- pairs and weights ---


def test_pairwise_is_its_definition():
    a, b = maps(0), maps(1)
    for k, got in enumerate(pairwise(a, b).tolist()):
        expected = 0.0
        for x, y in zip(a, b, strict=True):
            _, channels, height, width = x.shape
            places = [(i, j) for i in range(height) for j in range(width)]
            sums = [
                sum((x[k, c, i, j] - y[k, c, i, j]) ** 2 for c in range(channels))
                for i, j in places
            ]
            expected += float(sum(sums)) / len(places)
        assert got == pytest.approx(expected, rel=1e-5)


def test_one_is_compared_with_many():
    a, b = maps(0), maps(1, count=1)
    many = [f.expand(3, -1, -1, -1) for f in b]
    torch.testing.assert_close(pairwise(a, b), pairwise(a, many))
    torch.testing.assert_close(pairwise(b, a), pairwise(a, many))


def test_equal_weights_change_nothing():
    a, b = maps(0), maps(1)
    torch.testing.assert_close(pairwise(a, b, torch.full((3, 1, 16, 12), 0.5)), pairwise(a, b))


def test_weights_are_shares_of_each_place_of_a_layer():
    a, b = maps(0, count=1), maps(1, count=1)
    mask = torch.zeros(1, 1, 8, 6, dtype=torch.bool)
    mask[..., 1:3, 0] = True  # two places of the first layer, halves of two cells of the second
    first = (a[0] - b[0]).square().sum(1)[0]
    second = (a[1] - b[1]).square().sum(1)[0]
    expected = (first[1, 0] + first[2, 0] + second[0, 0] + second[1, 0]) / 2
    torch.testing.assert_close(pairwise(a, b, mask)[0], expected)


def test_weights_may_be_coarser_than_a_layer():
    a, b = maps(0, count=1), maps(1, count=1)
    mask = torch.tensor([1.0, 0.0]).reshape(1, 1, 2, 1).expand(1, 1, 2, 3)
    expected = sum(
        (x - y).square().sum(1)[0, : x.shape[2] // 2].mean() for x, y in zip(a, b, strict=True)
    )
    torch.testing.assert_close(pairwise(a, b, mask)[0], expected)


@needs_weights
def test_a_change_far_from_the_mask_does_not_count(metric):
    a = texture(1, 128, 128)
    changed = a.clone()
    changed[..., 88:120, 88:120] = 1 - changed[..., 88:120, 88:120]
    near, far = torch.zeros(2, 1, 1, 128, 128, dtype=torch.bool)
    near[..., 96:112, 96:112] = True
    far[..., 8:24, 8:24] = True
    features = metric.features(a), metric.features(changed)
    everywhere = pairwise(*features)
    assert pairwise(*features, far) == 0
    assert pairwise(*features, near) > 3 * everywhere


@pytest.mark.parametrize(
    "weights",
    [
        torch.zeros(3, 1, 8, 6),
        torch.tensor([1.0, 1.0, 0.0]).reshape(3, 1, 1, 1).expand(3, 1, 8, 6),
        torch.tensor([2.0, -1.0]).repeat(24).reshape(1, 1, 8, 6).expand(3, 1, 8, 6),
        torch.full((3, 1, 8, 6), torch.nan),
        torch.ones(3, 8, 6),
    ],
)
def test_weights_that_say_nothing_are_refused(weights):
    with pytest.raises(ConfigError, match="weights: must be"):
        pairwise(maps(0), maps(1), weights)


def test_maps_of_different_sizes_are_refused():
    with pytest.raises(ConfigError, match="features_a, features_b: must be maps of images of one"):
        pairwise(maps(0), [f[..., 1:] for f in maps(1)])
    with pytest.raises(ConfigError, match="features_a, features_b"):
        pairwise(maps(0), maps(1)[:1])


# -- LPIPS with weights of the user ---


@pytest.fixture
def files(tmp_path):
    """A trunk in torchvision's layout and heads in that of the package lpips, both random."""
    source = torch.Generator().manual_seed(3)
    widths = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3)}
    trunk = {}
    for k, shape in {**widths, 10: (256, 256, 3, 3)}.items():
        scale = (shape[1] * shape[2] * shape[3] / 2) ** -0.5
        trunk[f"features.{k}.weight"] = torch.randn(shape, generator=source) * scale
        trunk[f"features.{k}.bias"] = torch.randn(shape[0], generator=source) * 0.1
    trunk["classifier.6.bias"] = torch.zeros(1000)
    sizes = enumerate((64, 192, 384, 256, 256))
    heads = {f"lin{k}.model.1.weight": torch.rand(1, n, 1, 1, generator=source) for k, n in sizes}
    torch.save(trunk, tmp_path / "trunk.pth")
    torch.save(heads, tmp_path / "heads.pth")
    return trunk, heads, tmp_path


@torch.no_grad()
def test_lpips_is_its_definition_on_torchvisions_network(files):
    """Zhang et al. 2018, equation 1, with the layers of an AlexNet written out."""
    trunk, heads, folder = files
    nn = torch.nn
    network = nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(), nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(),
    )  # fmt: skip
    network.load_state_dict({k[9:]: v for k, v in trunk.items() if k.startswith("features.")})
    a, b = waves(96, 0.0), waves(96, 1.0)
    x = torch.cat([a, b]) * 2 - 1
    mean, spread = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = (x - mean.view(1, 3, 1, 1)) / spread.view(1, 3, 1, 1)
    expected = 0.0
    for k, layer in enumerate(network):
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            unit = F.normalize(x, dim=1)
            weight = heads[f"lin{(1, 4, 7, 9, 11).index(k)}.model.1.weight"][0]
            expected += float((weight * (unit[0] - unit[1]).square()).sum(0).mean())
    found = lpips(folder / "trunk.pth", folder / "heads.pth")
    assert found.name == "lpips_alex"
    assert found.distance(a, b).item() == pytest.approx(expected, rel=1e-4)
    assert expected > 0.01
    assert found.distance(a, a).item() == 0


@pytest.mark.parametrize(
    ("which", "change", "message"),
    [
        ("trunk", {"features.0.weight": torch.zeros(64, 3, 3, 3)}, "trunk: must hold exactly"),
        ("trunk", {"more": torch.zeros(1)}, "trunk: must hold exactly .* more wrong"),
        ("heads", {"lin0.model.1.weight": -torch.ones(1, 64, 1, 1)}, "heads: must not be neg"),
        ("heads", {"lin0.model.1.weight": torch.ones(1, 65, 1, 1)}, "heads: must hold exactly"),
    ],
)
def test_files_that_do_not_fit_are_refused(files, which, change, message):
    trunk, heads, folder = files
    torch.save({**(trunk if which == "trunk" else heads), **change}, folder / f"{which}.pth")
    with pytest.raises(ConfigError, match=message):
        lpips(folder / "trunk.pth", folder / "heads.pth")


def test_heads_come_from_the_installed_package(files, monkeypatch):
    _, _, folder = files
    monkeypatch.setattr(perceptual, "package_file", lambda *parts: folder / "heads.pth")
    assert lpips(folder / "trunk.pth").name == "lpips_alex"
    monkeypatch.setattr(perceptual, "package_file", lambda *parts: None)
    with pytest.raises(ConfigError, match="heads: .*run pip install --no-deps lpips"):
        lpips(folder / "trunk.pth")
    with pytest.raises(ConfigError, match="trunk: must be a file of tensors"):
        lpips(folder / "none.pth", folder / "heads.pth")
