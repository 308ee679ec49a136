"""Services beside the loop: progress, run folder, mask alarms, TensorBoard."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from defectgen.errors import TrainingWarning
from defectgen.files import RESUME_NAME, atomic_file
from defectgen.messages import say, warn
from defectgen.system import advice, move
from defectgen.training.state import TrainState

HISTORY_NAME, BOARD_NAME = "history.jsonl", "tensorboard"
#: Sheets as `RunFolder` names them; a user's photos may lie beside these.
_SHEET = re.compile(r"sheet_\d{5,}\.\d\dkimg\.png")
#: Where an earlier run goes, within its run folder; further ones get a number.
PREVIOUS_NAME = "previous.run"
#: Ticks between two resume files, and between two contact sheets.
RESUME_TICKS = 5
SHEET_TICKS = 10
#: Iterations after which speed and time left are stated.
SPEED_ITERATIONS = 10
#: A mean mask area below this share, or above this multiple, of the real one raises an alarm.
AREA_LOW, AREA_HIGH = 0.1, 5.0


class Progress:
    """One bar: s/kimg, time left, losses, p, mask area. Off at verbose 0 or without a terminal.

    The clock is read here to inform; nothing in training depends on it.
    """

    def __init__(self, kimg: float, title: str, verbose: int) -> None:
        self.kimg, self.title, self.verbose = kimg, title, verbose
        self._bar: tqdm[Any] | None = None
        self._first = 0
        self._began = 0.0

    def on_iteration(self, state: TrainState) -> None:
        """Move the bar; after the first iterations state speed and time left."""
        if self._bar is None:
            self._first = state.images
            self._began = time.perf_counter()
            # verbose=2 shows the bar even where there is no terminal (logs, notebooks).
            hidden = {0: True, 1: None}.get(self.verbose, False)
            self._bar = tqdm(
                total=self.kimg,
                initial=round(state.images / 1000, 3),
                unit="kimg",
                desc=self.title,
                disable=hidden,
                bar_format="{desc} {percentage:3.0f}%|{bar}| {n:.2f}/{total:g} kimg "
                "[{elapsed}<{remaining}, {rate_inv_fmt}{postfix}]",
            )
            return
        adversarial = state.config.warm_kimg * 1000
        if state.images - state.config.batch_size < adversarial <= state.images:
            # From here on an iteration costs several times as much: measured again.
            self._first, self._began = state.images, time.perf_counter()
        # The last batch may reach a little beyond the budget.
        self._bar.update(min(state.config.batch_size / 1000, self.kimg - self._bar.n))
        done = (state.images - self._first) / state.config.batch_size
        if done == SPEED_ITERATIONS:
            pace = (time.perf_counter() - self._began) / (state.images - self._first) * 1000
            left = pace * (self.kimg - state.images / 1000)
            say(
                f"{self.title}: {self.kimg:g} kimg in all, {pace:.1f} s/kimg, about "
                f"{left / 60:.1f} min left{self._proviso(state)}",
                self.verbose,
            )

    @staticmethod
    def _proviso(state: TrainState) -> str:
        """What the estimate cannot know yet."""
        if state.images >= state.config.warm_kimg * 1000:
            return ""
        return (
            f" at this speed; the adversarial part, from {state.config.warm_kimg:.2f} kimg on, is "
            "slower and estimated again"
        )

    def on_tick(self, state: TrainState) -> None:
        """Show the newest record."""
        if self._bar is None:
            return
        record = state.history[-1]
        wanted = ("loss/reconstruction", "loss/G", "loss/D", "loss/D_match", "area/fake")
        shown = {k.split("/")[-1]: f"{record[k]:.3f}" for k in wanted if k in record}
        self._bar.set_postfix({**shown, "p": f"{state.ada.p:.2f}"}, refresh=False)

    def on_end(self, state: TrainState) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


class RunFolder:
    """Writes history, resume file and contact sheets into ``run_dir``, each atomically.

    Args:
        folder: created with its parents.
        save: writes the resume file to the path it is given.
        draw: writes a contact sheet to the path it is given.
    """

    def __init__(
        self,
        folder: Path,
        save: Callable[[Path, TrainState], None],
        draw: Callable[[Path], None],
    ) -> None:
        self.folder, self.save, self.draw = folder, save, draw
        self._saved, self._told = True, False
        folder.mkdir(parents=True, exist_ok=True)

    def on_iteration(self, state: TrainState) -> None:
        """Nothing: files are written on ticks."""

    def on_tick(self, state: TrainState) -> None:
        """History every tick, resume file and sheet every few."""
        self._saved &= len(state.history) % RESUME_TICKS != 0
        with self._goes_on(
            "training goes on, and writing is tried again at the next record; without, the run "
            "cannot be resumed"
        ):
            with atomic_file(self.folder / HISTORY_NAME) as path:
                lines = [json.dumps(record) + "\n" for record in state.history]
                path.write_text("".join(lines), encoding="ascii", newline="\n")
            if not self._saved and len(state.history) >= RESUME_TICKS:
                self.save(self.folder / RESUME_NAME, state)
                self._saved = True
            if len(state.history) % SHEET_TICKS == 0:
                self._sheet(state)

    def on_end(self, state: TrainState) -> None:
        """The state as it is now: complete, with a last sheet, or the last good one."""
        self._told = False
        with self._goes_on("the run cannot be resumed from its end: save what was learned"):
            self.save(self.folder / RESUME_NAME, state)
            if state.images >= state.config.kimg * 1000:
                self._sheet(state)

    def _sheet(self, state: TrainState) -> None:
        self.draw(self.folder / f"sheet_{state.images / 1000:08.2f}kimg.png")

    @contextmanager
    def _goes_on(self, then: str) -> Iterator[None]:
        """A disk that is full or gone for a while costs a warning, not the training."""
        try:
            yield
        except OSError as error:
            if not self._told:
                _warn(self.folder, error, then)
            self._told = True
        else:
            self._told = False


def _warn(folder: Path, error: OSError, then: str) -> None:
    warn(
        f"run_dir: must take what is written; got {error.strerror or error} in {str(folder)!r}; "
        f"{then}; {advice(error)}",
        TrainingWarning,
    )


def has_run(folder: Path) -> bool:
    """Whether a run has begun in this folder."""
    return any((folder / name).is_file() for name in (HISTORY_NAME, RESUME_NAME))


def put_aside(folder: Path) -> Path | None:
    """Move an earlier run into a new folder within its own; nothing is removed.

    What was stopped before its first resume file is no run: nothing could go on with it.

    Returns:
        The new folder; None if there was no run.
    """
    if not (folder / RESUME_NAME).is_file():
        return None
    names = [HISTORY_NAME, BOARD_NAME]
    names += [path.name for path in folder.iterdir() if _SHEET.fullmatch(path.name)]
    place, number = folder / PREVIOUS_NAME, 1
    while place.exists() or place.is_symlink():
        number += 1
        place = folder / f"{PREVIOUS_NAME}.{number}"
    place.mkdir()
    # The resume file last: until then this is still the folder of that run.
    for path in [folder / name for name in (*names, RESUME_NAME)]:
        if path.exists():
            move(path, place / path.name)
    return place


class MaskMonitor:
    """Alarms for dead masks (black) and full masks (white), each once per fit."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def on_iteration(self, state: TrainState) -> None:
        """Nothing: areas are judged on ticks."""

    def on_tick(self, state: TrainState) -> None:
        """Compare the mean area of generated and real masks."""
        record = state.history[-1]
        if "area/fake" not in record or state.images < 500 * state.config.warm_kimg:
            return  # in the first half of the reconstruction a mask of few pixels is still to come
        fake, real = record["area/fake"], record["area/real"]
        if fake < AREA_LOW * real:
            self._tell("dead", "nearly empty", fake, real, state)
        elif fake > min(AREA_HIGH * real, 0.9):
            self._tell("full", "far too large", fake, real, state)

    def _tell(self, kind: str, words: str, fake: float, real: float, state: TrainState) -> None:
        if kind in self._told:
            return
        self._told.add(kind)
        warn(
            f"predicted masks are {words}: mean area {fake:.2%} against {real:.2%} of the real "
            f"ones at {state.images / 1000:.1f} kimg; if it stays so, check the masks or train "
            "with another seed.",
            TrainingWarning,
        )

    def on_end(self, state: TrainState) -> None:
        """Nothing."""


class TensorBoard:
    """Scalars of every tick for TensorBoard (extra ``tensorboard``)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None
        with self._dropped():
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder))

    def on_iteration(self, state: TrainState) -> None:
        """Nothing."""

    def on_tick(self, state: TrainState) -> None:
        """Write the newest record."""
        if self._writer is None:
            return
        with self._dropped():
            for key, value in state.history[-1].items():
                self._writer.add_scalar(key, value, state.images)

    def on_end(self, state: TrainState) -> None:
        """Flush and close."""
        if self._writer is None:
            return
        with self._dropped():
            self._writer.close()

    @contextmanager
    def _dropped(self) -> Iterator[None]:
        """What the disk refuses costs a warning and the curves, not the training."""
        try:
            yield
        except OSError as error:
            self._writer = None
            _warn(self._folder, error, "the run has no more curves for TensorBoard")


def tensorboard_available() -> bool:
    """Whether the extra is installed; a broken installation counts as absent."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except Exception:  # noqa: BLE001 - a mismatched protobuf raises anything but ImportError
        return False
    return True
