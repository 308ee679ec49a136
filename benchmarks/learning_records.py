"""What the learning benchmark has measured: kept beside each run, and gathered in one folder.

A record is a dictionary for JSON. With it go *draws*: a quantity on the data as they are, then on
each resample of them (`learning_bootstrap`). Intervals of differences are made of these alone, so
runs may be spread over days and machines without keeping weights or features.
"""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.measure import commit, machine
from defectgen.files import atomic_file

#: Part, recipe, set or product, seed.
Key = tuple[str, str, str, int]
Record = dict[str, Any]
Measured = tuple[Record, dict[str, Tensor]]
RECORDS, DRAWS, LOCK = "records.json", "draws.safetensors", ".lock"
_ID = re.compile(r"(?P<part>\w+)/(?P<label>[\w-]+)/(?P<name>.+)/(?P<seed>\d+)/?(?P<rest>.*)")


def beside(folder: Path, part: str) -> Path:
    """Where the record of this part of what was measured of a run lies."""
    return folder.with_name(f"{folder.name}-{part}.json")


def keep(path: Path, make: Callable[[], Measured]) -> None:
    """Write a record to this file and its draws beside it, unless they are there."""
    if not path.is_file():
        record, draws = make()
        if draws:
            save_file(draws, _draws(path))
        # Last, for it says that all is there.
        _write(path, {**record, "commit": commit(), "machine": machine()})


def _read(path: Path) -> Record:
    found: Record = json.loads(path.read_text(encoding="utf-8"))
    if "commit" not in found or "machine" not in found:
        raise ValueError(
            f"{path.name}: a record must tell its commit and machine; got one of an older "
            "benchmark; remove the file, and it is measured again"
        )
    return found


def _draws(path: Path) -> Path:
    return path.with_suffix(".safetensors")


@dataclass
class Records:
    """Everything that was measured, here or elsewhere."""

    found: dict[Key, Record] = field(default_factory=dict)
    draws: dict[Key, dict[str, Tensor]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Records:
        """Those that `write_into` left there; none if it did not."""
        result = cls()
        if (folder / RECORDS).is_file():
            for name, record in json.loads((folder / RECORDS).read_text("utf-8")).items():
                result.found[_key(name)[0]] = record
        if (folder / DRAWS).is_file():
            for name, values in load_file(folder / DRAWS).items():
                key, rest = _key(name)
                result.draws.setdefault(key, {})[rest] = values
        return result

    def take(self, key: Key, path: Path) -> None:
        """Add the record of this file, as `keep` wrote it."""
        self.found[key] = _read(path)
        if _draws(path).is_file():
            self.draws[key] = load_file(_draws(path))

    def add(self, other: Records) -> None:
        """Take all of another's, in place of one's own where both have one."""
        self.found.update(other.found)
        self.draws.update(other.draws)

    def write_into(self, folder: Path) -> None:
        """Add these to what lies in the folder: records as JSON, draws as one safetensors file."""
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be adding its own
            both = Records.read(folder)
            both.add(self)
            draws = {
                f"{_id(key)}/{name}": values.float().contiguous()
                for key, some in sorted(both.draws.items())
                for name, values in some.items()
            }
            with atomic_file(folder / DRAWS) as path:
                save_file(draws, path)
            _write(folder / RECORDS, {_id(key): both.found[key] for key in sorted(both.found)})

    def seeds(self, part: str, label: str, name: str) -> list[int]:
        """Seeds for which this was measured."""
        return sorted(k[3] for k in self.found if k[:3] == (part, label, name))

    def all(self, part: str, label: str, name: str) -> list[Record]:
        """The records of all seeds."""
        return [self.found[part, label, name, s] for s in self.seeds(part, label, name)]

    def names(self, part: str, label: str, order: Iterable[str]) -> list[str]:
        """Those of these sets or products for which this was measured, in their order."""
        return [name for name in order if self.seeds(part, label, name)]

    def origins(self) -> list[str]:
        """How many records each commit and processor has, in words."""
        counts: dict[str, int] = {}
        for record in self.found.values():
            where = record["machine"]
            special = [name for name in where.get("instructions", ()) if name != "avx2"]
            words = f"commit {record['commit']} on {where['cpu']}"
            words += f" ({', '.join(special)})" if special else ""
            counts[words] = counts.get(words, 0) + 1
        return [f"{count} records of {words}" for words, count in sorted(counts.items())]


def _write(target: Path, content: dict[str, Any]) -> None:
    with atomic_file(target) as path:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _id(key: Key) -> str:
    return "/".join(map(str, key))


def _key(name: str) -> tuple[Key, str]:
    found = _ID.fullmatch(name)
    if found is None:
        raise ValueError(f"records: part/recipe/set/seed; got {name!r}; do not edit the files")
    return (found["part"], found["label"], found["name"], int(found["seed"])), found["rest"]
