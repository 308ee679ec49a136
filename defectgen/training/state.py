"""Everything a run is, and nothing it could derive: the object that a resume file holds."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from defectgen.augment.pipe import AdaptiveProbability
from defectgen.config import TrainConfig
from defectgen.errors import WeightsError

#: Version of the dictionary below; a resume file of another one is refused.
STATE_VERSION = 3
#: Numbers that a user gives; others follow from these.
GIVEN = ("kimg", "batch_size", "seed", "precision")


class TrainState:
    """Networks, optimizers, averages, counters and random numbers of one run.

    Attributes:
        config: the resolved numbers.
        modules: trained networks by name.
        averages: name -> moving average of the module of that name.
        optimizers: by name.
        ada: the adaptive augmentation probability.
        path_mean: running mean of the path length.
        generator: the only source of random numbers in training, on the training device.
        iteration, images: counters.
        skipped: steps left out because a gradient was not finite.
        skipped_in_row: of these, how many just now without a good one between.
        skipped_phase: the phase these belong to.
        history: one record per tick.
        best_score: lowest score of a snapshot so far; infinite before the first.
        best: the averages of that snapshot.
    """

    def __init__(
        self,
        config: TrainConfig,
        modules: dict[str, nn.Module],
        averages: dict[str, nn.Module],
        optimizers: dict[str, torch.optim.Optimizer],
        ada: AdaptiveProbability,
        generator: torch.Generator,
    ) -> None:
        self.config = config
        self.modules = modules
        self.averages = averages
        self.optimizers = optimizers
        self.ada = ada
        self.generator = generator
        self.path_mean = torch.zeros((), device=generator.device)
        self.iteration = 0
        self.images = 0
        self.skipped = 0
        self.skipped_in_row = 0
        self.skipped_phase = ""
        self.history: list[dict[str, float]] = []
        self.best_score = math.inf
        self.best: dict[str, dict[str, Tensor]] = {}

    def weights(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for module in self.modules.values() for p in module.parameters())

    def consider(self, score: float) -> None:
        """Keep the averages as they are now if no earlier ones had so low a score."""
        if score < self.best_score:
            self.best_score = score
            self.best = {k: _clone(m.state_dict()) for k, m in self.averages.items()}

    def take_best(self) -> None:
        """Let the averages be the best ones; as they are if none were considered."""
        for name, values in self.best.items():
            self.averages[name].load_state_dict(values)

    @torch.no_grad()
    def update_averages(self) -> None:
        """p_ema <- lerp(p, p_ema, 0.5 ** (batch / half_life)); buffers are copied.

        The half-life is at most ``ema_rampup`` times the images seen. Only trained modules have an
        average: a frozen backbone is not among them, so it stays what it is.
        """
        half_life = self.config.ema_kimg * 1000
        if self.config.ema_rampup is not None:
            half_life = min(half_life, self.images * self.config.ema_rampup)
        beta = 0.5 ** (self.config.batch_size / max(half_life, 1e-8))
        for name, average in self.averages.items():
            source = self.modules[name]
            torch._foreach_lerp_(list(average.parameters()), list(source.parameters()), 1 - beta)
            for a, b in zip(average.buffers(), source.buffers(), strict=True):
                a.copy_(b)

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain types only; the tensors are not copies."""
        return {
            "version": STATE_VERSION,
            "config": self.config.to_dict(),
            "modules": {k: m.state_dict() for k, m in self.modules.items()},
            "averages": {k: m.state_dict() for k, m in self.averages.items()},
            "optimizers": {k: o.state_dict() for k, o in self.optimizers.items()},
            "ada": self.ada.state_dict(),
            "generator": self.generator.get_state(),
            "path_mean": self.path_mean,
            "counters": {
                "iteration": self.iteration,
                "images": self.images,
                "skipped": self.skipped,
                "skipped_in_row": self.skipped_in_row,
                "skipped_phase": self.skipped_phase,
            },
            "history": self.history,
            "best_score": self.best_score,
            "best": self.best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take everything over from `state_dict`.

        Raises:
            WeightsError: if version, configuration or names differ.
        """
        if state.get("version") != STATE_VERSION:
            raise WeightsError(
                f"resume file: format version {STATE_VERSION}; got {state.get('version')!r}; "
                "finish that run with the version of defectgen that began it."
            )
        then, now = state["config"], self.config.to_dict()
        changed = {
            key: (then.get(key), now.get(key))
            for key in {**then, **now}
            if then.get(key) != now.get(key)
        }
        # What follows from these is of no use to whoever changed one of them.
        given = {key: changed[key] for key in GIVEN if key in changed}
        if changed:
            changed = given or changed
            text = ", ".join(f"{k}: {old!r} then, {new!r} now" for k, (old, new) in changed.items())
            raise WeightsError(
                f"resume: the run must go on with its own numbers; got {text}; "
                "use the same parameters and data, or another run_dir."
            )
        for kind in ("modules", "averages", "optimizers"):
            if set(state[kind]) != set(getattr(self, kind)):
                raise WeightsError(
                    f"resume file: {kind}: {', '.join(sorted(getattr(self, kind)))}; got "
                    f"{', '.join(sorted(state[kind]))}; use the file of a run of this kind."
                )
        for kind in ("modules", "averages"):
            for key, item in getattr(self, kind).items():
                _check_shapes(f"{kind}.{key}", item.state_dict(), state[kind][key])
        for kind in ("modules", "averages", "optimizers"):
            for key, item in getattr(self, kind).items():
                item.load_state_dict(state[kind][key])
        self.ada.load_state_dict(state["ada"])
        self.generator.set_state(state["generator"].cpu())
        self.path_mean = state["path_mean"].to(self.path_mean.device)
        for key, value in state["counters"].items():
            setattr(self, key, value)
        self.history = [dict(record) for record in state["history"]]
        self.best_score, self.best = state["best_score"], _clone(state["best"])

    def snapshot(self) -> dict[str, Any]:
        """Return a deep copy of `state_dict`, to come back to."""
        copy: dict[str, Any] = _clone(self.state_dict())
        return copy


def _clone(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {k: _clone(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_clone(v) for v in value]
    return value


def _check_shapes(what: str, own: dict[str, Tensor], stored: dict[str, Tensor]) -> None:
    """Raise WeightsError unless the stored tensors are those of this network."""
    for name in sorted({*own, *stored}):
        now, then = (tuple(some[name].shape) if name in some else None for some in (own, stored))
        if now != then:
            raise WeightsError(
                f"resume file: networks of this version; got {what}.{name} of shape {then}, now "
                f"{now}; finish that run with the version of defectgen that began it, or use "
                "another run_dir."
            )
