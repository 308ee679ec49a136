"""Best, not last: which averages a run ends with."""

from __future__ import annotations

import math

import pytest
import torch

from defectgen.training.loop import JUDGE_TICKS, run


def averaged(state):
    (average,) = state.averages.values()
    return average.weight.clone()


def judged_by(state, scores):
    """A judge that gives these scores in turn, and remembers what it saw."""
    seen = []

    def judge():
        seen.append((state.images, averaged(state)))
        return scores[len(seen) - 1]

    return judge, seen


def test_the_run_ends_with_the_averages_of_the_lowest_score(make_state, linear_phase, batches):
    state = make_state()
    judge, seen = judged_by(state, [3.0, 1.0, 2.0])
    run(state, batches, [linear_phase(state)], tick_images=4 // JUDGE_TICKS or 1, judge=judge)
    # 10 ticks of one iteration each, every fifth of the second half and the end: 5 (20 of 40
    # images) and 10, which is the end as well.
    assert [images for images, _ in seen] == [20, 40]
    assert torch.equal(averaged(state), seen[1][1])
    assert [r["score"] for r in state.history if "score" in r] == [3.0, 1.0]


def test_a_worse_end_is_not_taken(make_state, linear_phase, batches):
    state = make_state()
    judge, seen = judged_by(state, [1.0, 2.0])
    run(state, batches, [linear_phase(state)], tick_images=1, judge=judge)
    assert torch.equal(averaged(state), seen[0][1])
    assert not torch.equal(seen[0][1], seen[1][1])


def test_without_a_judge_the_last_averages_stay(make_state, linear_phase, batches):
    state, other = make_state(), make_state()
    run(state, batches, [linear_phase(state)], tick_images=1)
    judge, seen = judged_by(other, [2.0, 1.0])
    run(other, batches, [linear_phase(other)], tick_images=1, judge=judge)
    assert torch.equal(averaged(state), seen[-1][1])
    assert state.best_score == math.inf
    assert not state.best


def test_scores_that_are_no_numbers_choose_nothing(make_state, linear_phase, batches):
    state = make_state()
    judge, seen = judged_by(state, [math.nan, math.nan])
    run(state, batches, [linear_phase(state)], tick_images=1, judge=judge)
    assert torch.equal(averaged(state), seen[-1][1])


def test_the_best_survives_an_interruption(make_state, linear_phase, batches):
    state = make_state()
    judge, seen = judged_by(state, [1.0, 2.0])

    class Stop:
        def on_iteration(self, state):
            if state.iteration == 7:
                raise KeyboardInterrupt

        def on_tick(self, state):
            self.left = state.snapshot()

        def on_end(self, state): ...

    stop = Stop()
    with pytest.raises(KeyboardInterrupt):
        run(state, batches, [linear_phase(state)], [stop], tick_images=1, judge=judge)
    again = make_state()
    again.load_state_dict(stop.left)
    judge, _ = judged_by(again, [5.0])
    run(again, batches, [linear_phase(again)], tick_images=1, judge=judge)
    assert torch.equal(averaged(again), seen[0][1])
    assert again.best_score == 1.0
