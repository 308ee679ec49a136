"""What both estimators share: parameters by name, device, seed, and one supervised run."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from defectgen.checks import check_path, check_range
from defectgen.config import check_preset
from defectgen.data.sources import pictures
from defectgen.errors import ConfigError, WeightsError
from defectgen.files import RESUME_NAME, check_fillable
from defectgen.locks import held
from defectgen.memory import kept_memory
from defectgen.messages import say
from defectgen.networks.precision import check_precision, resolve_precision
from defectgen.rng import SEED_LIMIT, fresh_seed
from defectgen.training.callbacks import (
    BOARD_NAME,
    MaskMonitor,
    Progress,
    RunFolder,
    TensorBoard,
    has_run,
    put_aside,
    tensorboard_available,
)
from defectgen.training.loop import Callback, run
from defectgen.training.phases import Batch, Phase
from defectgen.training.state import TrainState
from defectgen.weights import load_resume, save_resume

_E = TypeVar("_E", bound="Parameters")

#: Records of the history per run, at least; a tick is never shorter than one batch, nor longer than
#: this many images: what an interrupt loses has to be minutes, also in a run of days.
TICKS, LONGEST_TICK = 100, 1000
#: The smallest budget, thousands of images.
FEWEST_KIMG = 0.001


class Parameters:
    """``get_params`` and ``set_params`` as scikit-learn defines them, without depending on it."""

    @classmethod
    def _parameter_names(cls) -> list[str]:
        names = inspect.signature(cls.__init__).parameters
        return [name for name in names if name != "self"]

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self).__init__).parameters
        given = {
            name: value
            for name, value in self.get_params().items()
            if value is not defaults[name].default and value != defaults[name].default
        }
        shown = ", ".join(f"{name}={value!r}" for name, value in given.items())
        return f"{type(self).__name__}({shown})"

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor's arguments as they were given."""
        return {name: getattr(self, name) for name in self._parameter_names()}

    def set_params(self: _E, **params: Any) -> _E:
        """Change constructor arguments; they take effect at the next ``fit``.

        Raises:
            ConfigError: for a name that the constructor does not have.
        """
        known = self._parameter_names()
        for name, value in params.items():
            if name not in known:
                raise ConfigError(
                    f"set_params: one of {', '.join(known)}; got {name!r}; check the spelling."
                )
            setattr(self, name, value)
        return self


def check_budget(
    preset: str | None, kimg: float | None, batch_size: int | None, precision: str
) -> None:
    """Raise ConfigError for a preset, budget, batch size or precision outside its rule."""
    check_preset(preset)
    check_precision(precision)
    if kimg is not None:
        check_range("kimg", kimg, low=FEWEST_KIMG)
    if batch_size is not None:
        check_range("batch_size", batch_size, low=1, integer=True)


def check_manner(seed: int | None, device: str | torch.device | None, verbose: int) -> None:
    """Raise ConfigError for a seed, device or verbosity outside its rule."""
    if seed is not None:
        given_seed(seed)
    resolve_device(device)
    check_range("verbose", int(verbose) if isinstance(verbose, bool) else verbose, integer=True)


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device asked for; None takes a GPU where there is one."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(
            f"device: a torch device such as cpu or cuda:0; got {device!r}; choose one of these."
        ) from error
    if found.type == "mps":
        raise ConfigError(
            f"device: one that this torch can use; got {device!r} (it has none of the 64-bit "
            "numbers that are used here); use cpu."
        )
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device: one that this torch can use; got {device!r} without a usable GPU; "
            "use cpu, or install a CUDA build of torch."
        )
    try:  # whatever else is wrong with it: no such backend, no such number, no memory behind it
        torch.zeros(1, device=found).cpu()
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"device: one that this torch can use; got {device!r} ({reason}); use cpu."
        ) from error
    return found


def to_signed(images: Tensor, device: torch.device) -> Tensor:
    """uint8 0..255 -> float32 [-1, 1] on the device."""
    return images.to(device=device, dtype=torch.float32) / 127.5 - 1


@dataclass(frozen=True, kw_only=True)
class Run:
    """One supervised training run.

    Attributes:
        title: of the progress bar.
        kind: "backbone" or "synthesizer", written into the resume file.
        identity: what a resumed run must agree in: data digest, policy, weights it stands on.
        run_dir: folder for history, sheets and resume file, or None.
        verbose: 0 silent, 1 lines and a bar on a terminal, 2 a bar everywhere.
        draw: writes a contact sheet of the running average to a path.
        judge: score of the running average, lower is better; see the loop.
        continued_from_kimg: what earlier fits had trained; a resumed run has to remember it.
    """

    title: str
    kind: str
    identity: dict[str, str]
    run_dir: Path | None
    verbose: int
    draw: Callable[[Path], None]
    judge: Callable[[], float]
    continued_from_kimg: float = 0.0

    def execute(
        self,
        state: TrainState,
        batches: Callable[[int], Batch],
        phases: list[Phase],
        resumed: dict[str, Any] | None,
    ) -> None:
        """Train from where ``resumed`` ended, or from the beginning.

        Raises:
            TrainingError: see `defectgen.training.loop.run`.
            WeightsError: if ``resumed`` belongs to other data, weights or numbers.
        """
        if resumed is not None:
            self._check_identity(resumed)
            state.load_state_dict(resumed["state"])
        elif self.run_dir is not None and (place := put_aside(self.run_dir)):
            say(f"run_dir: the run that was there now lies in {place}", self.verbose)
        callbacks: list[Callback] = [
            Progress(state.config.kimg, self.title, self.verbose),
            MaskMonitor(),
        ]
        if self.run_dir is not None:
            callbacks.append(RunFolder(self.run_dir, self._save, self.draw))
            if tensorboard_available():
                callbacks.append(TensorBoard(self.run_dir / BOARD_NAME))
        total = round(state.config.kimg * 1000)
        tick = max(state.config.batch_size, min(total // TICKS, LONGEST_TICK))
        with kept_memory():
            run(state, batches, phases, callbacks, tick_images=tick, judge=self.judge)

    def _save(self, path: Path, state: TrainState) -> None:
        payload = {
            "kind": self.kind,
            "identity": self.identity,
            "continued_from_kimg": self.continued_from_kimg,
            "state": state.state_dict(),
        }
        save_resume(path, payload)

    def _check_identity(self, resumed: dict[str, Any]) -> None:
        if resumed.get("kind") != self.kind:
            raise WeightsError(
                f"resume: a file of kind {self.kind}; got {resumed.get('kind')!r}; "
                "give each object its own run_dir."
            )
        other = resumed.get("identity", {})
        for key, value in self.identity.items():
            if other.get(key) != value:
                raise WeightsError(
                    f"resume: the same {key} as when the run began; got {value} now, "
                    f"{other.get(key)} then; use the same input, or another run_dir."
                )


def load_resumed(run_dir: Path | None, resume: bool, verbose: int) -> dict[str, Any] | None:
    """The resume file of a run folder, or None if the run has to begin.

    Raises:
        ConfigError: if ``resume`` is asked for without a run folder.
    """
    if not resume:
        return None
    if run_dir is None:
        raise ConfigError(
            "resume: needs the run_dir of the run to continue; got run_dir=None; "
            "construct the object with run_dir=..."
        )
    path = run_dir / RESUME_NAME
    if not path.exists():
        say(f"resume: {run_dir.name} holds no run yet; beginning one", verbose)
        return None
    return load_resume(path)


def resolve_seed(seed: int | None, resumed: dict[str, Any] | None) -> int:
    """The user's seed, else the resumed run's, else a fresh one."""
    if seed is None and resumed is not None:
        return int(resumed["state"]["config"]["seed"])
    return given_seed(seed)


def run_precision(precision: str, device: torch.device, resumed: dict[str, Any] | None) -> str:
    """What a run computes in: "auto" takes the resumed run's, wherever that began."""
    if precision == "auto" and resumed is not None:
        return str(resumed["state"]["config"]["precision"])
    return resolve_precision(precision, device)


def given_seed(seed: int | None) -> int:
    """The user's seed as a plain number, or a fresh one.

    Raises:
        ConfigError: if it is no integer, negative or above what a file can hold.
    """
    if seed is None:
        return fresh_seed()
    check_range("seed", seed, low=0, high=SEED_LIMIT - 1, integer=True)
    return int(seed)


@contextmanager
def own_folder(run_dir: str | os.PathLike[str] | None) -> Iterator[Path | None]:
    """``run_dir`` as a path, for this run alone while the block lasts: before it is read.

    It is made; and removed if the block leaves nothing in it.

    Raises:
        ConfigError: if it is none, holds photos and no run, cannot be written to, or another run
            is using it.
    """
    if run_dir is None:
        yield None
        return
    folder = check_path("run_dir", run_dir)
    check_fillable(folder, "run_dir")
    # Contact sheets among photos would be photos at the next fit.
    photos = pictures(folder) if folder.is_dir() and not has_run(folder) else []
    if photos:
        raise ConfigError(
            f"run_dir: must be a folder without photos; got {str(folder)!r} with "
            f"{photos[0].name}; choose another folder, which is made"
        )
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with held(folder, "run_dir"):
            yield folder
    finally:
        if made:
            with suppress(OSError):  # it holds the run
                folder.rmdir()
