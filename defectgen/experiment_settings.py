"""What an experiment is given, and the files in its folder that remember it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from defectgen.checks import check_range, check_resolution
from defectgen.errors import ConfigError
from defectgen.estimator import FEWEST_KIMG, given_seed
from defectgen.files import read_text
from defectgen.networks.precision import check_precision

#: Files of an experiment: what it was begun with, what it will cost, and what came out.
SETTINGS, COST, REPORT = "settings.json", "cost.json", "report.json"
#: Fields of the settings that may differ when an experiment goes on.
FREE = ("device", "verbose")
_MAX_BYTES = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an experiment is given; None takes the default of the class it is passed to.

    Attributes:
        resolution: pixels; None takes 256; `defectgen.zoo.train` puts the entry's own in its place.
        kimg: budget of the backbone.
        defect_kimg: budget of each branch.
        precision: as of `Backbone`.
        samples: how many are scored; None takes 200.
        seed: of everything.
        device: torch device.
        verbose: as of `Backbone`.

    Raises:
        ConfigError: a value is none that a training takes: found here, before hours of another one.
    """

    resolution: int | None = None
    kimg: float | None = None
    defect_kimg: float | None = None
    precision: str = "auto"
    samples: int | None = None
    seed: int = 0
    device: str | None = None
    verbose: int = 1

    def __post_init__(self) -> None:
        if self.resolution is not None:
            check_resolution(self.resolution)
        for name in ("kimg", "defect_kimg"):
            if getattr(self, name) is not None:
                check_range(name, getattr(self, name), low=FEWEST_KIMG)
        if self.samples is not None:
            check_range("samples", self.samples, low=6, integer=True)
        check_precision(self.precision)
        given_seed(self.seed)


def read_record(path: Path, **entries: type | tuple[type, ...]) -> dict[str, Any]:
    """Read a JSON file that an experiment wrote.

    Args:
        path: of the file.
        entries: entries that it must have, with their types.

    Raises:
        ConfigError: it is damaged.
        FileNotFoundError: it is not there.
    """
    try:
        found = json.loads(read_text(path, _MAX_BYTES))
    except (ValueError, RecursionError, ConfigError) as error:
        found = error
    if isinstance(found, dict) and all(
        name in found and isinstance(found[name], kind) for name, kind in entries.items()
    ):
        return found
    undo = "restore it, or give another folder"
    raise ConfigError(
        f"folder: must hold the {path.name} of an experiment as it was written; got {str(path)!r}, "
        f"which cannot be read; {undo if path.name == SETTINGS else 'remove it: it is made again'}"
    )


def lost_settings(folder: Path, there: Sequence[str]) -> ConfigError:
    """The refusal of a folder with these results, and nothing that says what made them."""
    return ConfigError(
        f"folder: must hold {SETTINGS} beside what an experiment made; got {str(folder)!r} "
        f"with {', '.join(there)} but without it; restore it, or give another folder"
    )


def check_begun(folder: Path, record: dict[str, Any], results: Sequence[str]) -> None:
    """Compare with what the experiment in a folder was begun with, if there is one.

    Args:
        folder: of the experiment.
        record: what it would be begun with now.
        results: names of what it makes in its folder.

    Raises:
        ConfigError: it was something else, of which the message names the first field; or there
            are results, and nothing says what they were made with.
    """
    try:
        begun = read_record(folder / SETTINGS)
    except FileNotFoundError:
        there = [name for name in results if (folder / name).exists()]
        if not there:
            return
        raise lost_settings(folder, there) from None
    for field, value in record.items():
        if field in begun and begun[field] == value:
            continue
        got = "others" if field == "photos" else f"{value!r}, not {begun.get(field)!r}"
        raise ConfigError(
            f"{field}: must be as when the experiment in {folder} was begun; got {got}; "
            "give the same, or another folder"
        )
