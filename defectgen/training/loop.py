"""The only training loop: it asks the phases that are due, steps, averages, adapts, ticks."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from defectgen.errors import TrainingError
from defectgen.memory import hand_back
from defectgen.training.footprint import out_of_memory
from defectgen.training.phases import Batch, Phase
from defectgen.training.state import TrainState

#: Consecutive steps with a non-finite gradient after which training stops.
SKIP_LIMIT = 10
#: Ticks between two snapshots that are judged.
JUDGE_TICKS = 5


class Callback(Protocol):
    """A service beside the loop; it may read the state and write files, never change the run."""

    def on_iteration(self, state: TrainState) -> None:
        """Called after every iteration; must be cheap."""
        ...

    def on_tick(self, state: TrainState) -> None:
        """Called after every tick, when ``state.history[-1]`` is new."""
        ...

    def on_end(self, state: TrainState) -> None:
        """Called once: at the end, after an interrupt or an error (then at the last good state)."""
        ...


def run(
    state: TrainState,
    batches: Callable[[int], Batch],
    phases: Sequence[Phase],
    callbacks: Sequence[Callback] = (),
    *,
    tick_images: int,
    judge: Callable[[], float] | None = None,
) -> None:
    """Train until ``state.config.kimg`` is reached; continues where the state stands.

    Args:
        state: changed in place.
        batches: iteration -> batch, a pure function, so that a resumed run sees the same order.
        phases: in the order in which they run.
        callbacks: services, called in order.
        tick_images: images between two records of the history. Depends on counters only: nothing
            in training looks at the clock.
        judge: score of the averages as they are, lower is better; asked in the second half of the
            run, every fifth tick and at the end. The averages end as the best ones it saw.

    Raises:
        TrainingError: if a loss is not finite, ten steps in a row had a non-finite gradient, or
            memory ended; the state is then the last good one (of the last tick), as after any
            other error.
    """
    good = [state.snapshot()]
    try:
        _iterate(state, batches, phases, callbacks, tick_images, good, judge)
        state.take_best()
    except BaseException as error:
        # Whatever it is, it may come between two steps of one iteration, and only ticks are
        # consistent; the callbacks must not write anything else into a resume file.
        if out_of_memory(error):
            traceback.clear_frames(error.__traceback__)  # what did not fit is let go
        state.load_state_dict(good[0])
        if not out_of_memory(error):
            raise
        reason = str(error).strip().partition("\n")[0][:80]
        raise TrainingError(
            f"batch_size: a training that fits into memory; got {state.config.batch_size}, and "
            f"memory ended ({reason or 'no more is known'}); "
            f"the last good state, of {state.images / 1000:.2f} kimg, is kept; construct with a "
            "smaller batch_size, or a lower resolution"
        ) from error
    finally:
        for callback in callbacks:
            callback.on_end(state)


def _iterate(
    state: TrainState,
    batches: Callable[[int], Batch],
    phases: Sequence[Phase],
    callbacks: Sequence[Callback],
    tick_images: int,
    good: list[dict[str, Any]],
    judge: Callable[[], float] | None,
) -> None:
    """The loop proper; ``good[0]`` is replaced by the state of each tick."""
    config = state.config
    total = round(config.kimg * 1000)
    sums: dict[str, list[Tensor]] = {}
    while state.images < total:
        batch = batches(state.iteration)
        for phase in phases:
            if phase.due(state.iteration, state.images):
                for key, value in _step(state, phase, batch).items():
                    sums.setdefault(key, []).append(value.detach())
        before = state.images
        state.images += config.batch_size
        state.iteration += 1
        state.update_averages()
        if config.ada_interval and state.iteration % config.ada_interval == 0:
            state.ada.update(config.batch_size * config.ada_interval)
        ticked = state.images // tick_images > before // tick_images or state.images >= total
        if ticked:
            state.history.append(_record(state, sums))
            sums = {}
            if judge is not None and _due(state, total):
                state.history[-1]["score"] = score = judge()
                state.consider(score)
            good[0] = state.snapshot()
        for callback in callbacks:
            callback.on_iteration(state)
            if ticked:
                callback.on_tick(state)


def _due(state: TrainState, total: int) -> bool:
    """Whether this tick's averages are judged."""
    late = state.images >= total / 2 and len(state.history) % JUDGE_TICKS == 0
    return late or state.images >= total


def _step(state: TrainState, phase: Phase, batch: Batch) -> dict[str, Tensor]:
    """One optimizer step; skips it when the gradient is not finite."""
    hand_back()
    optimizers = [state.optimizers[name] for name in phase.optimizers]
    parameters = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        loss, scalars = phase.loss(batch)
        if not bool(torch.isfinite(loss)):
            raise TrainingError(
                f"{phase.name}: a finite loss; got {float(loss.detach())} at "
                f"{state.images / 1000:.2f} kimg; the last good state is kept, check the data or "
                "try another seed."
            )
        gradients = torch.autograd.grad(loss * phase.interval, parameters, allow_unused=True)
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
    present = [g for g in gradients if g is not None]
    if not bool(torch.isfinite(torch.stack(torch._foreach_norm(present)).sum())):
        state.skipped += 1
        # Counted for one phase: good steps of a discriminator must not excuse a dead generator.
        again = state.skipped_phase in ("", phase.name)
        state.skipped_in_row = state.skipped_in_row + 1 if again else 1
        state.skipped_phase = phase.name
        if state.skipped_in_row >= SKIP_LIMIT:
            raise TrainingError(
                f"{phase.name}: finite gradients; got {SKIP_LIMIT} steps in a row without at "
                f"{state.images / 1000:.2f} kimg; the last good state is kept, check the data or "
                "try another seed."
            )
        return scalars
    if state.skipped_phase in ("", phase.name):
        state.skipped_in_row, state.skipped_phase = 0, ""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return scalars


def _record(state: TrainState, sums: dict[str, list[Tensor]]) -> dict[str, float]:
    record = {
        "kimg": state.images / 1000,
        "iteration": float(state.iteration),
        "ada_p": state.ada.p,
        "skipped": float(state.skipped),
    }
    for key, values in sorted(sums.items()):
        record[key] = float(torch.stack(values).float().mean())
    return record
