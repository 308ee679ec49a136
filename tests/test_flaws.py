"""The flaws of the original stay behind: one test each, and why the original would fail it.

Where a flaw is a line of arithmetic, the original's line stands in the test and is seen to fail.
More cases of the same: tests/training (loop, state, callbacks, resume), tests/data/test_masks.py,
tests/augment, tests/networks/test_defect.py.
"""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import defectgen
import defectgen.synthesizer
from defectgen import Backbone, DefectSynthesizer, TrainingError, TrainingWarning
from defectgen.augment.pipe import AdaptiveProbability
from defectgen.config import backbone_config, backbone_training, defect_config, defect_training
from defectgen.data.images import load_pairs
from defectgen.losses import mode_seeking
from defectgen.networks.defect import DefectBranch
from defectgen.networks.defect_block import DefectAwareResBlock
from defectgen.rng import SampleNoise, latents, sample_seeds
from defectgen.training.defect_start import set_mask_bias
from defectgen.training.defect_task import DefectTask
from defectgen.training.phases import Phase
from defectgen.weights import load_resume

pytestmark = pytest.mark.filterwarnings("ignore::defectgen.errors.TrainingWarning")
#: Two iterations of the published method: no warm start comes before the two discriminators.
PUBLISHED = {
    "preset": "dfmgan", "kimg": 0.008, "batch_size": 4, "seed": 0, "device": "cpu", "verbose": 0
}  # fmt: skip


@pytest.fixture
def prepared(monkeypatch):
    """prepared(change): from now on fit lets change(task) act on a task before it trains."""

    def install(change):
        build = defectgen.synthesizer.build_task

        def changed(*args):
            task = build(*args)
            change(task)
            return task

        monkeypatch.setattr(defectgen.synthesizer, "build_task", changed)

    return install


# -- moving average (spec 2.7; 2.8, 5) ---


def test_average_runs_over_trained_parameters_only(fitted_backbone, defects, tiny, prepared):
    """The original averages all of G, so its backbone drifts to the raw weights of stage 1."""
    before = copy.deepcopy(fitted_backbone.tensors())
    states = []
    prepared(lambda task: states.append(task.state))
    DefectSynthesizer(fitted_backbone, **PUBLISHED).fit(*defects(4))
    (state,) = states
    averaged = {id(p) for m in state.averages.values() for p in m.parameters()}
    backbone = {id(p) for p in fitted_backbone.parameters()}
    assert averaged
    assert not averaged & backbone
    stepped = {
        id(p) for o in state.optimizers.values() for g in o.param_groups for p in g["params"]
    }
    assert stepped
    assert not stepped & backbone
    after = fitted_backbone.tensors()
    assert all(torch.equal(after[k], before[k]) for k in before)
    # The original: an average over everything, with the raw weights as its source.
    average = copy.deepcopy(fitted_backbone.generator)
    raw = [p + 0.1 for p in average.parameters()]
    torch._foreach_lerp_(list(average.parameters()), raw, 0.01)
    same = [
        torch.equal(a, b)
        for a, b in zip(average.parameters(), fitted_backbone.generator.parameters(), strict=True)
    ]
    assert not any(same)


def test_running_mean_of_the_backbones_latents_stands_still(fitted_backbone, defects, tiny):
    """The original keeps updating w_avg of the frozen mapping, the center of truncation."""
    before = fitted_backbone.generator.mapping.w_avg.clone()
    DefectSynthesizer(fitted_backbone, **PUBLISHED).fit(*defects(4))
    assert torch.equal(fitted_backbone.generator.mapping.w_avg, before)
    original = copy.deepcopy(fitted_backbone.generator.mapping)
    original(torch.randn(4, original.z_dim, generator=torch.Generator()), update_mean=True)
    assert not torch.equal(original.w_avg, before)


# -- precision of the mask (spec 2.8, 6) ---


def test_mask_logits_are_float32():
    """The original casts the logits to fp16: near zero a negative one becomes 0 and opens."""
    block = DefectAwareResBlock(8, 8, 12, 16, has_mask=True)
    features = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    w = torch.zeros(1, 12)
    with torch.no_grad():
        # All styles are one, so the logit is the scaled sum of the channels: tiny, of both signs.
        block.to_mask.weight.fill_(1e-8)
        logits = block.logits(features.half(), w)
    assert logits.dtype == torch.float32
    exact = features.half().double().sum(dim=1, keepdim=True)
    assert torch.equal(logits >= 0, exact >= 0)
    assert not torch.equal(logits.half() >= 0, exact >= 0)


def test_a_saturated_fp16_mask_has_no_gradient_where_ours_has_one():
    """tanh(10 m) in fp16 is exactly 1 from m = 0.45 on, and then m never moves again."""
    m = torch.tensor([0.5], requires_grad=True)
    (ours,) = torch.autograd.grad(torch.tanh(10 * m).sum(), m)
    (original,) = torch.autograd.grad(torch.tanh((10 * m).half()).sum(), m)
    assert ours > 0
    assert original == 0


# -- mode seeking (spec 2.5; 2.8, 6 and 8) ---


def test_mode_seeking_survives_equal_masks():
    """The original has no epsilon: with all masks dead the ratio is infinite, its gradient NaN."""
    ws = [torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(k)) for k in (0, 1)]

    def gradients(epsilon):
        leaves = [w.clone().requires_grad_() for w in ws]
        m = torch.full((2, 1, 8, 8), -0.5, requires_grad=True)
        masks = [torch.tanh(10 * m + 0 * w.sum()) for w in leaves]
        loss = mode_seeking(*leaves, *masks, epsilon)
        return loss, torch.autograd.grad(loss, [*leaves, m])

    loss, found = gradients(1e-3)
    assert loss.isfinite()
    assert all(g.isfinite().all() for g in found)
    loss, found = gradients(0.0)
    assert loss.isinf()
    assert not all(g.isfinite().all() for g in found)


def kill_masks(task):
    """Close every mask of this branch for good."""
    with torch.no_grad():
        task.branch.first.to_mask.bias.fill_(-1e4)


def test_training_survives_dead_masks(fitted_backbone, defects, tiny, prepared, monkeypatch):
    """The original divides by zero here, and scrubs the gradients that follow."""
    prepared(kill_masks)
    DefectSynthesizer(fitted_backbone, **PUBLISHED).fit(*defects(4))
    train = defectgen.synthesizer.defect_training
    monkeypatch.setattr(
        defectgen.synthesizer,
        "defect_training",
        lambda *a, **k: replace(train(*a, **k), mode_seeking_epsilon=0.0),
    )
    with pytest.raises(TrainingError, match="a finite loss; got inf"):
        DefectSynthesizer(fitted_backbone, **PUBLISHED).fit(*defects(4))


@pytest.mark.parametrize("fresh", [False, True])
def test_both_renders_of_mode_seeking_share_their_noise(
    fitted_backbone, defects, tiny, prepared, monkeypatch, fresh
):
    """The original draws fresh noise for the second render: masks may differ by noise alone."""
    compared = []

    def seen(ws_a, ws_b, masks_a, masks_b, epsilon):
        compared.append((masks_a.detach(), masks_b.detach()))
        return mode_seeking(ws_a, ws_b, masks_a, masks_b, epsilon)

    def noisy_and_alike(task):
        with torch.no_grad():
            for block in task.branch.blocks.values():
                for layer in (block.conv0, block.conv1):
                    layer.noise_strength.fill_(1.0)
        defects = task._defects(1)
        task._defects = lambda count: defects.expand(count, -1, -1)

    prepared(noisy_and_alike)
    monkeypatch.setattr("defectgen.losses.mode_seeking", seen)
    if fresh:  # what the original does
        noise = DefectTask._noise
        monkeypatch.setattr(DefectTask, "_noise", lambda self, keep=False: noise(self))
    DefectSynthesizer(fitted_backbone, **PUBLISHED).fit(*defects(4))
    # Latents are equal, objects are equal: whatever differs, the noise did it. The second render
    # is a smaller batch, hence the last digits.
    distances = [float((a - b).abs().max()) for a, b in compared]
    assert len(distances) == 2
    assert all((d > 0.1) == fresh and (d < 1e-3) != fresh for d in distances)


# -- augmentation (spec 1.6, section 6) ---


def climb(cap):
    ada = AdaptiveProbability(ada_kimg=100, cap=cap)
    for _ in range(200):
        ada.accumulate(torch.ones(8))  # a discriminator that knows all real images by heart
        ada.update(1000)
    return ada.p


def test_augmentation_probability_is_capped_in_the_default_recipe():
    """The original lets p pass 1: then the turned parts are as likely as the upright ones."""
    shape = backbone_config(64, 3, None)
    runs = [
        backbone_training(shape, preset=None, kimg=None, batch_size=None, seed=0),
        defect_training(shape, preset=None, kimg=None, batch_size=None, seed=0, warm=True),
    ]
    for run in runs:
        assert run.ada_cap is not None
        assert climb(run.ada_cap) == run.ada_cap <= 0.8
    assert AdaptiveProbability().cap == 0.8
    assert climb(None) > 1


def test_augmentation_keeps_the_orientation_and_the_colors_of_the_part(product, tiny):
    """The original turns, mirrors and recolors every product, and the generator learns it."""
    numbers = {key: value for key, value in PUBLISHED.items() if key != "preset"}
    backbone = Backbone(32, **numbers).fit(product(16))
    harmful = {"flip_x", "rot90", "rotate", "luma_flip", "hue"}
    chosen = backbone.config_["augment"]["policy"]
    assert {name for name in harmful if chosen[name]} == set()
    assert backbone.config_["augment"]["reason"]
    published = Backbone(32, preset="dfmgan", **numbers).fit(product(16))
    assert all(published.config_["augment"]["policy"][name] for name in harmful)


# -- masks at the start and on the way (spec 2.6) ---


def mean_area(network, branch, seed=5):
    seeds, dim = sample_seeds(32, seed), network.config.z_dim
    objects = network.mapping(latents(seeds, dim, "object"))
    defects = branch.mapping(latents(seeds, dim, "defect"))
    hook = branch.start(branch.broadcast(defects), SampleNoise(seeds))
    with torch.no_grad():
        network.synthesis(network.broadcast(objects), SampleNoise(seeds), hook)
    return float(hook.mask.float().mean())


@pytest.mark.parametrize("area", [0.02, 0.1, 0.3])
def test_first_masks_cover_about_the_real_area(fitted_backbone, area):
    """The original starts with bias 0: about half of the image is overwritten with noise."""
    network = fitted_backbone.generator
    branch = DefectBranch(network.config, defect_config(network.config, None))
    branch.reset(torch.Generator().manual_seed(3))
    original = mean_area(network, branch)
    set_mask_bias(network, branch, area, seed=0)
    ours = mean_area(network, branch)
    assert 0.4 * area < ours < 2.5 * area
    assert abs(ours - area) < abs(original - area)
    assert original > 0.3


def test_fit_starts_with_masks_of_the_real_area(fitted_backbone, defects, tiny, prepared):
    areas = []
    prepared(lambda task: areas.append(mean_area(task.backbone, task.branch)))
    images, masks = defects(6)
    DefectSynthesizer(fitted_backbone, **PUBLISHED).fit(images, masks)
    real = float(masks.float().mean())
    assert 0.4 * real < areas[0] < 2.5 * real


@pytest.mark.parametrize(("bias", "words"), [(-1e4, "nearly empty"), (1e4, "far too large")])
def test_dead_and_full_masks_raise_an_alarm(fitted_backbone, defects, tiny, prepared, bias, words):
    """The original trains on in silence for hundreds of kimg, black or white masks or not."""

    def spoil(task):
        with torch.no_grad():
            task.branch.first.to_mask.bias.fill_(bias)

    prepared(spoil)
    with pytest.warns(TrainingWarning, match=f"predicted masks are {words}") as told:
        DefectSynthesizer(fitted_backbone, **{**PUBLISHED, "kimg": 0.02}).fit(*defects(4))
    assert len([w for w in told if issubclass(w.category, TrainingWarning)]) == 1


# -- numbers that are not numbers (spec 2.6; 2.8, 6) ---


def broken(task, when, how):
    """Let the G phase of this task fail in the iterations for which when(iteration) holds."""
    phases = task.phases

    def spoiled():
        found = phases()
        (index,) = [k for k, phase in enumerate(found) if phase.name == "G"]
        phase = found[index]

        def loss(batch):
            value, scalars = phase.loss(batch)
            return (how(value) if when(task.state.iteration) else value), scalars

        fields = {k: getattr(phase, k) for k in ("name", "optimizers", "first", "last", "interval")}
        found[index] = Phase(loss=loss, **fields)
        return found

    task.phases = spoiled


def infinite_slope(loss):
    """The same value with a gradient that is not finite."""
    zero = loss - loss.detach()
    return loss + (zero.square()).sqrt()


def test_non_finite_gradient_is_skipped_not_scrubbed(fitted_backbone, defects, tiny, prepared):
    """The original turns NaN into 0 and inf into 1e5, and takes the step."""
    weights = {}

    def change(task):
        def watch(when):
            weights[when] = [p.clone() for p in task.branch.parameters()]
            return True

        # The published phases of G alone; both iterations are bad.
        broken(task, watch, infinite_slope)
        phases = task.phases
        task.phases = lambda: [phase for phase in phases() if phase.name == "G"]

    prepared(change)
    synth = DefectSynthesizer(fitted_backbone, **PUBLISHED).fit(*defects(4))
    assert synth.history_[-1]["skipped"] == 2
    assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    # The original's rule on such a gradient:
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([weight], lr=0.01)
    infinite_slope(weight.sum() * 0.0 + weight.sum()).backward()
    assert weight.grad.isnan().all()
    weight.grad = torch.nan_to_num(weight.grad, nan=0.0, posinf=1e5, neginf=-1e5)
    optimizer.step()
    assert optimizer.state[weight]["step"] == 1  # "trained", and nobody is told


def test_non_finite_loss_stops_with_the_last_good_state(fitted_backbone, defects, tiny, prepared):
    """The original goes on, with weights that were scrubbed at random."""
    prepared(lambda task: broken(task, lambda k: k == 3, lambda loss: loss * float("nan")))
    numbers = {**PUBLISHED, "kimg": 0.04}
    synth = DefectSynthesizer(fitted_backbone, **numbers)
    with pytest.raises(TrainingError, match="G: a finite loss; got nan"):
        synth.fit(*defects(4))
    assert synth.config_["trained_kimg"] == pytest.approx(0.012)
    assert len(synth.history_) == 3
    assert synth.sample(2, seed=0).isfinite().all()


def test_ten_skips_in_a_row_stop(fitted_backbone, defects, tiny, prepared):
    """The original would fill the budget with such steps."""

    def change(task):
        broken(task, lambda k: True, infinite_slope)
        phases = task.phases
        task.phases = lambda: [phase for phase in phases() if phase.name == "G"]

    prepared(change)
    with pytest.raises(TrainingError, match="10 steps in a row"):
        DefectSynthesizer(fitted_backbone, **{**PUBLISHED, "kimg": 0.08}).fit(*defects(4))


# -- machines (spec 1.1; 2.8, 10) ---


def test_no_number_depends_on_how_many_gpus_there_are(monkeypatch):
    """The original's batch, R1 weight and half-life change with the number of GPUs."""
    shape = backbone_config(256, 3, "dfmgan")
    found = []
    for count in (0, 1, 2, 8):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        for preset in (None, "dfmgan"):
            rest = {"preset": preset, "kimg": None, "batch_size": None, "seed": 0}
            found.append((preset, backbone_training(shape, **rest)))
            found.append((preset, defect_training(shape, warm=True, **rest)))
    assert len({repr(entry) for entry in found}) == 4
    original = {0.0002 * 256**2 / (16 * gpus) for gpus in (1, 2, 4)}
    assert len(original) == 3


ASKS_FOR_GPUS = re.compile(r"device_count|world_size|DataParallel|torch\.distributed|get_rank")


def test_nothing_in_the_package_counts_gpus():
    package = Path(defectgen.__file__).parent
    sources = {path: path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    assert len(sources) > 30
    found = [path.name for path, text in sources.items() if ASKS_FOR_GPUS.search(text)]
    # Kernels are compiled for the GPUs that are there; no number of a training depends on it.
    assert found == ["_recipe.py"]
    assert ASKS_FOR_GPUS.search("n = torch.cuda.device_count()")


def test_nothing_in_training_looks_at_the_clock():
    package = Path(defectgen.__file__).parent
    clock = re.compile(r"^\s*(import|from) (time|datetime)\b", re.MULTILINE)
    users = {p.name for p in package.rglob("*.py") if clock.search(p.read_text(encoding="utf-8"))}
    # The bar says how fast it goes, the demo how long it took, a build how long it may take, an
    # experiment what it will cost, a comparison of detectors what is left of it; a broken download
    # waits a second, a rename on Windows a few. None hands it to training.
    known = {"arms.py", "callbacks.py", "demo.py", "demo_speed.py", "_build.py", "transfer.py"}
    assert users == {*known, "experiment_cost.py", "system.py"}


# -- masks people have (spec section 6: issues 31, 57) ---


def codings(mask):
    """The same mask in the codings that annotation tools write."""
    zero_one = Image.fromarray(mask.astype(np.uint8))
    palette = Image.new("P", mask.shape[::-1])
    palette.putdata(mask.astype(np.uint8).ravel().tolist())
    palette.putpalette([0, 0, 0, 128, 0, 0] + [0] * 762)
    color = np.zeros((*mask.shape, 3), np.uint8)
    color[mask] = (90, 10, 60)
    opaque = np.dstack([np.where(mask, 120, 0)] * 3 + [np.full(mask.shape, 255)]).astype(np.uint8)
    return {
        "0 and 1": zero_one,
        "palette": palette,
        "color": Image.fromarray(color),
        "two greys": Image.fromarray(np.where(mask, 100, 0).astype(np.uint8)),
        "opaque alpha": Image.fromarray(opaque),
    }


@pytest.mark.parametrize("coding", ["0 and 1", "palette", "color", "two greys", "opaque alpha"])
def test_masks_are_read_in_the_coding_they_have(defects, coding):
    """The original compares with 127.5 whatever the coding: all of these come out black."""
    images, masks = defects(2)
    coded = [codings(mask[0].numpy())[coding] for mask in masks]
    pairs = load_pairs(images, coded, resolution=32, channels=3)
    assert torch.equal(pairs.masks.bool(), masks)
    assert not any((np.asarray(one.convert("L")) > 127.5).any() for one in coded)


# -- resuming (spec 2.8, 9): tests/training/test_resume.py ---


def test_resume_file_holds_what_the_original_forgets(fitted_backbone, defects, tiny, tmp_path):
    """The original restores weights only: p, optimizers, path mean and counter begin anew."""
    DefectSynthesizer(fitted_backbone, run_dir=tmp_path, **PUBLISHED).fit(*defects(4))
    state = load_resume(tmp_path / "resume.pt")["state"]
    assert float(state["path_mean"]) > 0
    assert state["counters"]["images"] == 8
    assert {"p", "r_t"} <= set(state["ada"])
    assert all(state["optimizers"][name]["state"] for name in ("G", "D", "D_match"))
