"""The loop: order, intervals, records, and what is left when something goes wrong."""

from __future__ import annotations

import pytest
import torch

from defectgen.errors import TrainingError
from defectgen.training.loop import SKIP_LIMIT, run

TICK = 8  # images: two iterations of four


class Recorder:
    """Callback that keeps the state of every tick and what it was told."""

    def __init__(self):
        self.told, self.ticks = [], []

    def on_iteration(self, state):
        self.told.append(("iteration", state.iteration))

    def on_tick(self, state):
        self.told.append(("tick", state.iteration))
        self.ticks.append(state.snapshot())

    def on_end(self, state):
        self.told.append(("end", state.iteration))
        self.end = state.snapshot()


class Poisoned(torch.autograd.Function):
    """The identity with a gradient of the test's choice: a finite loss that cannot be followed."""

    @staticmethod
    def forward(ctx, x, value):
        ctx.value = value
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.value, None


def weight(state):
    return state.modules["net"].weight.tolist()


def poison(state, when, value=float("inf")):
    """Make the gradient not finite in the calls for which when(iteration) holds."""
    return lambda loss: Poisoned.apply(loss, value) if when(state.iteration) else loss


# -- what runs when ---


def test_phases_run_at_their_interval_and_inside_their_window(make_state, linear_phase, batches):
    state = make_state()
    often = linear_phase(state)
    seldom = linear_phase(state, interval=3)
    middle = linear_phase(state, first=8, last=20)
    run(state, batches, [often, seldom, middle], tick_images=TICK)
    iterations = [[k for k, _ in p.loss.calls] for p in (often, seldom, middle)]
    assert iterations == [list(range(10)), [0, 3, 6, 9], [2, 3, 4]]
    assert [n for _, n in middle.loss.calls] == [8, 12, 16]
    assert batches.asked == list(range(10))
    assert (state.iteration, state.images) == (10, 40)


def test_lazy_loss_is_multiplied_by_its_interval(make_state, linear_phase, batches):
    state = make_state()
    run(state, batches, [linear_phase(state, interval=3)], tick_images=TICK)
    # SGD, rate 1/8, gradient 1 times interval 3, due in iterations 0, 3, 6, 9: exact in binary.
    assert weight(state) == [1 - 4 * 3 / 8, -2 - 4 * 3 / 8]


def test_log_shows_the_loss_without_its_interval(make_state, linear_phase, batches):
    state = make_state(kimg=0.004)
    run(state, batches, [linear_phase(state, interval=3)], tick_images=TICK)
    assert state.history[0]["loss/net"] == -1.0


def test_only_the_parameters_of_a_phase_require_gradients_and_none_afterwards(
    make_state, linear_phase, batches
):
    state = make_state(kimg=0.004)
    other = torch.nn.Linear(1, 1).requires_grad_(False)
    state.modules["other"] = other
    seen = []

    def look(loss):
        seen.append((loss.requires_grad, [p.requires_grad for p in other.parameters()]))
        return loss

    run(state, batches, [linear_phase(state, before=look)], tick_images=TICK)
    assert seen == [(True, [False, False])]
    assert not any(p.requires_grad for m in state.modules.values() for p in m.parameters())
    assert all(p.grad is None for m in state.modules.values() for p in m.parameters())


def test_a_phase_may_step_several_optimizers(make_state, linear_phase, batches):
    state = make_state(kimg=0.004)
    extra = torch.nn.Parameter(torch.zeros(()), requires_grad=False)
    state.optimizers["extra"] = torch.optim.SGD([extra], lr=0.5)
    both = linear_phase(state, before=lambda loss: loss + extra, optimizers=("opt", "extra"))
    run(state, batches, [both], tick_images=TICK)
    assert float(extra) == -0.5
    assert weight(state) == [0.875, -2.125]


def test_augmentation_adapts_every_few_iterations(make_state, linear_phase, batches):
    state = make_state(ada_interval=4, ada_cap=None)
    # All signs are +1 and the target is 0: up by 16 images of 100 at iterations 4 and 8.
    run(state, batches, [linear_phase(state)], tick_images=TICK)
    assert state.ada.p == pytest.approx(0.32)


def test_augmentation_stays_off_with_interval_zero(make_state, linear_phase, batches):
    state = make_state(ada_interval=0)
    run(state, batches, [linear_phase(state)], tick_images=TICK)
    assert state.ada.p == 0


# -- history ---


def test_history_holds_means_since_the_last_tick(make_state, linear_phase, batches):
    state = make_state(kimg=0.02)
    run(state, batches, [linear_phase(state)], tick_images=TICK)
    # sum(weight) is -1, -1.25, -1.5, ...; the last tick is shorter: the budget ends there.
    losses = [record["loss/net"] for record in state.history]
    assert losses == [-1.125, -1.625, -2.0]
    assert [r["kimg"] for r in state.history] == [0.008, 0.016, 0.02]
    assert [r["iteration"] for r in state.history] == [2, 4, 5]
    assert all(type(v) is float for r in state.history for v in r.values())
    assert all(r["skipped"] == 0 for r in state.history)


@pytest.mark.parametrize("tick", [1, 3, 4, 7, 13, 1000])
def test_every_run_ends_with_a_tick(make_state, linear_phase, batches, tick):
    state = make_state()
    run(state, batches, [linear_phase(state)], tick_images=tick)
    assert len(state.history) == len({r["kimg"] for r in state.history})
    assert state.history[-1]["kimg"] == 0.04
    assert len(state.history) == len({n // tick for n in range(4, 40, 4)} - {0} | {"end"})


def test_callbacks_hear_every_iteration_then_its_tick_and_the_end_once(
    make_state, linear_phase, batches
):
    state, recorder = make_state(kimg=0.012), Recorder()
    run(state, batches, [linear_phase(state)], [recorder], tick_images=TICK)
    assert recorder.told == [
        ("iteration", 1), ("iteration", 2), ("tick", 2), ("iteration", 3), ("tick", 3), ("end", 3),
    ]  # fmt: skip


def test_run_goes_on_where_the_state_stands(make_state, linear_phase, batches, assert_same):
    whole, first, second = (make_state(adam=True) for _ in range(3))
    run(whole, batches, [linear_phase(whole)], tick_images=TICK)
    recorder = Recorder()
    run(first, batches, [linear_phase(first)], [recorder], tick_images=TICK)
    second.load_state_dict(recorder.ticks[1])
    batches.asked.clear()
    run(second, batches, [linear_phase(second)], tick_images=TICK)
    assert batches.asked == list(range(4, 10))
    assert_same(second.state_dict(), whole.state_dict())


def test_finished_run_does_nothing_more(make_state, linear_phase, batches, assert_same):
    state = make_state()
    run(state, batches, [linear_phase(state)], tick_images=TICK)
    before = state.snapshot()
    phase = linear_phase(state)
    run(state, batches, [phase], tick_images=TICK)
    assert phase.loss.calls == []
    assert_same(state.state_dict(), before)


# -- a loss that is not finite ---


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("iteration", [1, 5])
def test_non_finite_loss_stops_at_the_last_tick_bit_for_bit(
    make_state, linear_phase, batches, assert_same, value, iteration
):
    state, recorder = make_state(adam=True), Recorder()
    start = state.snapshot()

    def before(loss):
        return loss + value if state.iteration == iteration else loss

    phases = [linear_phase(state), linear_phase(state, before=before, name="bad")]
    with pytest.raises(TrainingError, match=r"bad: a finite loss; got .*(nan|inf).*another seed"):
        run(state, batches, phases, [recorder], tick_images=TICK)
    ticks = [start, *recorder.ticks]
    assert len(ticks) == 1 + iteration // 2
    assert_same(state.state_dict(), ticks[-1])
    assert_same(recorder.end, ticks[-1])  # what a callback writes at the end is good, too


def test_state_that_came_back_can_be_trained_on(make_state, linear_phase, batches, assert_same):
    whole, state = make_state(adam=True), make_state(adam=True)
    run(whole, batches, [linear_phase(whole)], tick_images=TICK)

    def before(loss):
        return loss * float("nan") if state.iteration == 5 else loss

    with pytest.raises(TrainingError):
        run(state, batches, [linear_phase(state, before=before)], tick_images=TICK)
    run(state, batches, [linear_phase(state)], tick_images=TICK)
    assert_same(state.state_dict(), whole.state_dict())


# -- a gradient that is not finite ---


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("adam", [False, True])
def test_non_finite_gradient_skips_the_step_and_is_counted(
    make_state, linear_phase, batches, assert_same, value, adam
):
    state = make_state(adam=adam, kimg=0.012)
    seen = []

    def before(loss):
        seen.append((weight(state), state.snapshot()["optimizers"]))
        return Poisoned.apply(loss, value) if state.iteration == 1 else loss

    run(state, batches, [linear_phase(state, before=before)], tick_images=TICK)
    start, (bad, bad_optimizer), (after, after_optimizer) = seen
    assert bad != start[0]
    assert after == bad
    assert_same(after_optimizer, bad_optimizer)
    assert weight(state) != after  # the next good step counts again
    assert (state.skipped, state.skipped_in_row) == (1, 0)
    assert state.history[-1]["skipped"] == 1


def test_one_bad_parameter_keeps_all_of_the_step_back(make_state, linear_phase, batches):
    state = make_state(kimg=0.004)
    extra = torch.nn.Parameter(torch.zeros(()), requires_grad=False)
    state.optimizers["extra"] = torch.optim.SGD([extra], lr=0.5)

    def before(loss):
        return loss + Poisoned.apply(extra, float("nan"))

    phase = linear_phase(state, before=before, optimizers=("opt", "extra"))
    run(state, batches, [phase], tick_images=TICK)
    assert float(extra) == 0
    assert weight(state) == [1, -2]
    assert state.skipped == 1


@pytest.mark.parametrize("bad", [SKIP_LIMIT - 1, SKIP_LIMIT])
def test_ten_skips_in_a_row_stop_and_nine_do_not(
    make_state, linear_phase, batches, assert_same, bad
):
    assert SKIP_LIMIT == 10
    state, recorder = make_state(kimg=0.08, adam=True), Recorder()
    start = 3
    before = poison(state, lambda k: start <= k < start + bad)
    phases = [linear_phase(state, before=before)]
    if bad < SKIP_LIMIT:
        run(state, batches, phases, [recorder], tick_images=TICK)
        assert (state.skipped, state.skipped_in_row, state.images) == (9, 0, 80)
        return
    with pytest.raises(TrainingError, match="net: finite gradients; got 10 steps in a row"):
        run(state, batches, phases, [recorder], tick_images=TICK)
    # The tenth is in iteration 12, begun at the tick of iteration 12.
    assert state.iteration == 12
    assert_same(state.state_dict(), recorder.ticks[-1])


def test_a_good_step_begins_the_row_anew(make_state, linear_phase, batches):
    state = make_state(kimg=0.08)
    phase = linear_phase(state, before=poison(state, lambda k: k % 10 != 9))
    run(state, batches, [phase], tick_images=TICK)
    assert state.skipped == 18
    assert weight(state) == [1 - 2 / 8, -2 - 2 / 8]


# -- interrupts ---


class Odd(Exception):
    """Stands for whatever a driver or a disk may raise."""


@pytest.mark.parametrize(
    ("error", "told"),
    [(KeyboardInterrupt, KeyboardInterrupt), (Odd, Odd), (MemoryError, TrainingError)],
)
@pytest.mark.parametrize("iteration", [0, 3])
def test_interrupt_inside_an_iteration_goes_back_to_the_last_tick(
    make_state, linear_phase, batches, assert_same, error, told, iteration
):
    state, recorder, at_interrupt = make_state(adam=True), Recorder(), []
    start = state.snapshot()

    def before(loss):
        if state.iteration == iteration:
            at_interrupt.append(weight(state))
            raise error
        return loss

    phases = [linear_phase(state), linear_phase(state, before=before)]
    with pytest.raises(told):
        run(state, batches, phases, [recorder], tick_images=TICK)
    good = [start, *recorder.ticks][-1]
    # The first phase of the broken iteration had stepped: without going back, a resume file
    # written now would repeat that step.
    assert at_interrupt[0] != good["modules"]["net"]["weight"].tolist()
    assert_same(state.state_dict(), good)
    assert_same(recorder.end, good)
    assert recorder.told[-1][0] == "end"
    assert sum(kind == "end" for kind, _ in recorder.told) == 1


def test_interrupted_run_ends_like_one_never_interrupted(
    make_state, linear_phase, batches, assert_same
):
    whole, state = make_state(adam=True), make_state(adam=True)
    run(whole, batches, [linear_phase(whole), linear_phase(whole, interval=2)], tick_images=TICK)

    def before(loss):
        if state.iteration == 6 and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        return loss

    interrupted = []
    phases = [linear_phase(state), linear_phase(state, interval=2, before=before)]
    with pytest.raises(KeyboardInterrupt):
        run(state, batches, phases, tick_images=TICK)
    run(state, batches, phases, tick_images=TICK)
    assert interrupted
    assert_same(state.state_dict(), whole.state_dict())


def test_good_steps_of_another_phase_do_not_excuse_a_dead_one():
    # With one count for all phases the discriminator's good steps would reset the generator's.
    from types import SimpleNamespace

    from defectgen.training import loop

    weight = torch.nn.Parameter(torch.ones(()))
    state = SimpleNamespace(
        optimizers={"opt": torch.optim.SGD([weight], lr=0.0)},
        skipped=0,
        skipped_in_row=0,
        skipped_phase="",
        images=0,
    )

    def bad(_):
        return (weight - weight.detach()).sqrt().sum(), {}  # finite, with an infinite slope

    def good(_):
        return weight * 1.0, {}

    phases = [
        loop.Phase(name=name, optimizers=("opt",), loss=loss)
        for name, loss in (("G", bad), ("D", good))
    ]
    for one in 9 * phases:
        loop._step(state, one, None)
    with pytest.raises(TrainingError, match="^G: finite gradients; got 10 steps in a row"):
        loop._step(state, phases[0], None)
    assert state.skipped == 10
