"""The state: moving averages by hand, and the way into a file and back."""

from __future__ import annotations

import copy

import pytest
import torch

from defectgen.errors import WeightsError
from defectgen.training.loop import run
from defectgen.weights import load_resume, save_resume


def values(module):
    return module.weight.tolist()


# -- moving averages ---


@pytest.mark.parametrize(
    ("images", "rampup", "half_life"),
    [
        (1000, None, 10),  # no cap: the half-life as given
        (1000, 0.05, 10),  # cap at 50 images: not reached
        (100, 0.05, 5),  # cap at 5 images
        (40, 0.05, 2),
    ],
)
def test_average_follows_the_formula(make_state, images, rampup, half_life):
    state = make_state(ema_kimg=0.01, ema_rampup=rampup)
    net, average = state.modules["net"], state.averages["net"]
    with torch.no_grad():
        net.weight.copy_(torch.tensor([5.0, 8.0]))  # the average is at 1, -2
    state.images = images
    state.update_averages()
    keep = 0.5 ** (4 / half_life)
    wanted = [5 + (1 - 5) * keep, 8 + (-2 - 8) * keep]
    assert values(average) == pytest.approx(wanted, rel=1e-6)
    state.update_averages()
    again = [5 + (1 - 5) * keep**2, 8 + (-2 - 8) * keep**2]
    assert values(average) == pytest.approx(again, rel=1e-6)


def test_half_of_the_way_in_one_half_life(make_state):
    state = make_state(ema_kimg=0.02, ema_rampup=None)  # five batches of four
    with torch.no_grad():
        state.modules["net"].weight.zero_()
    for _ in range(5):
        state.update_averages()
    assert values(state.averages["net"]) == pytest.approx([0.5, -1.0])


def test_without_images_seen_the_average_is_the_network(make_state):
    state = make_state(ema_rampup=0.05)
    with torch.no_grad():
        state.modules["net"].weight.copy_(torch.tensor([5.0, 8.0]))
    state.update_averages()
    assert values(state.averages["net"]) == [5.0, 8.0]


def test_buffers_are_copied_not_averaged(make_state):
    state = make_state()
    state.images = 1000
    state.modules["net"].seen.fill_(6.0)
    state.update_averages()
    assert float(state.averages["net"].seen) == 6.0
    assert state.averages["net"].seen is not state.modules["net"].seen


def test_the_network_itself_and_modules_without_average_are_not_touched(make_state):
    state = make_state()
    frozen = torch.nn.Linear(3, 3).requires_grad_(False)
    state.modules["judge"] = frozen
    before = copy.deepcopy([frozen.weight, frozen.bias, state.modules["net"].weight])
    state.averages["net"].weight.fill_(9.0)
    state.images = 1000
    state.update_averages()
    after = [frozen.weight, frozen.bias, state.modules["net"].weight]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


# -- into a file and back ---


@pytest.fixture
def trained(make_state, linear_phase, batches):
    """A state in which everything has moved, the unfinished sum of ADA signs included."""
    state = make_state(adam=True, kimg=0.036, ada_cap=None)  # nine iterations, ADA at 4 and 8
    run(state, batches, [linear_phase(state)], tick_images=8)
    state.path_mean = torch.tensor(3.5)
    state.skipped, state.skipped_in_row = 5, 2
    state.skipped_phase = "net"
    return state


def test_round_trip_through_a_resume_file_is_bit_exact(trained, make_state, assert_same, tmp_path):
    assert trained.ada.p > 0
    assert trained.ada.state_dict()["sign_count"] > 0
    save_resume(tmp_path / "resume.pt", {"state": trained.state_dict()})
    other = make_state(adam=True, kimg=0.036, ada_cap=None)
    other.load_state_dict(load_resume(tmp_path / "resume.pt")["state"])
    assert_same(other.state_dict(), trained.state_dict())
    # Not only equal on paper: the next random number is the same one, and so is the next step.
    draws = [torch.rand((), generator=s.generator) for s in (trained, other)]
    assert draws[0] == draws[1]
    for state in (trained, other):
        state.modules["net"].weight.grad = torch.ones(2)
        state.optimizers["opt"].step()
    assert values(trained.modules["net"]) == values(other.modules["net"])


def test_state_names_everything_that_moves(trained):
    saved = trained.state_dict()
    assert set(saved) == {
        "version", "config", "modules", "averages", "optimizers", "ada", "generator", "path_mean",
        "counters", "history", "best_score", "best",
    }  # fmt: skip
    assert saved["counters"] == {
        "iteration": 9, "images": 36, "skipped": 5, "skipped_in_row": 2, "skipped_phase": "net",
    }  # fmt: skip
    assert float(saved["path_mean"]) == 3.5
    assert len(saved["history"]) == 5
    assert set(saved["optimizers"]["opt"]["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}


def test_snapshot_shares_no_memory(trained, assert_same):
    first, second = trained.snapshot(), trained.snapshot()
    with torch.no_grad():
        trained.modules["net"].weight.fill_(99.0)
        trained.modules["net"].seen.fill_(99.0)
    trained.modules["net"].weight.grad = torch.ones(2)
    trained.optimizers["opt"].step()
    trained.history[0]["kimg"] = 99.0
    trained.path_mean.fill_(99.0)
    torch.rand((), generator=trained.generator)
    assert_same(first, second)
    trained.load_state_dict(first)
    assert_same(trained.state_dict(), second)


def test_loading_an_untrained_state_forgets_the_optimizers_memory(
    trained, make_state, linear_phase, batches, assert_same
):
    fresh = make_state(adam=True, kimg=0.036, ada_cap=None)
    start = fresh.snapshot()
    trained.load_state_dict(start)
    assert trained.optimizers["opt"].state_dict()["state"] == {}
    assert_same(trained.state_dict(), fresh.state_dict())


@pytest.mark.parametrize(
    ("field", "value"), [("kimg", 0.08), ("seed", 1), ("batch_size", 8), ("r1_gamma", 2.0)]
)
def test_other_numbers_are_refused_by_name(make_state, assert_same, field, value):
    old, new = make_state(), make_state(**{field: value})
    before = new.snapshot()
    with pytest.raises(WeightsError, match=rf"{field}: .* then, {value!r} now.*another run_dir"):
        new.load_state_dict(old.state_dict())
    assert_same(new.state_dict(), before)


def test_what_follows_from_another_number_is_not_told(make_state):
    new = make_state(kimg=0.08, warm_kimg=0.02)
    with pytest.raises(WeightsError, match=r"got kimg: [\d.]+ then, 0\.08 now; use the same"):
        new.load_state_dict(make_state().state_dict())


@pytest.mark.parametrize("side", ["file", "program"])
def test_a_number_that_only_one_side_knows_is_refused(make_state, side):
    state = make_state()
    saved = state.snapshot()
    if side == "file":
        saved["config"]["lecam"] = 0.5
    else:
        del saved["config"]["r1_gamma"]
    with pytest.raises(WeightsError, match="lecam: 0.5 then, None now|r1_gamma: None then, 1.0"):
        state.load_state_dict(saved)


def test_another_version_is_refused(make_state):
    state = make_state()
    saved = {**state.state_dict(), "version": 99}
    with pytest.raises(WeightsError, match="format version 3; got 99"):
        state.load_state_dict(saved)


@pytest.mark.parametrize("kind", ["modules", "averages", "optimizers"])
def test_other_names_are_refused(make_state, kind):
    state = make_state()
    saved = state.state_dict()
    saved[kind] = {"other": next(iter(saved[kind].values()))}
    net, before = state.modules["net"], values(state.modules["net"])
    for part in saved["modules"].values():
        part["weight"] = part["weight"] + 1
    with pytest.raises(WeightsError, match=f"{kind}: .*net|{kind}: .*opt"):
        state.load_state_dict(saved)
    assert values(net) == before  # refused before anything was taken over


def test_networks_of_other_shapes_are_refused_and_nothing_is_taken(make_state):
    """As a texture's of before it had a grain."""
    state = make_state()
    stored = state.state_dict()
    name, tensors = next(iter(stored["modules"].items()))
    key = next(key for key, value in tensors.items() if value.ndim)
    wrong = {**tensors, key: torch.zeros(2, *tensors[key].shape)}
    before = {k: v.clone() for k, v in state.modules[name].state_dict().items()}
    with pytest.raises(WeightsError, match=f"networks of this version; got modules.{name}.*finish"):
        state.load_state_dict({**stored, "modules": {**stored["modules"], name: wrong}})
    after = state.modules[name].state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
