"""The zoo's list: every category of MVTec AD and VisA, published or not (``zoo.json``)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from defectgen.checks import check_fields
from defectgen.errors import ConfigError, WeightsError
from defectgen.files import atomic_file, read_text

#: The list of this installation.
ZOO_FILE = Path(__file__).with_name("zoo.json")
#: Version of the list.
ZOO_VERSION = 1
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ZooRecord:
    """One category of a public data set, and what is known of weights for it.

    Attributes:
        name: "mvtec/bottle".
        data: name of the data set.
        category: its folder there.
        defects: its types of defect, as the data set spells them.
        resolution: pixels of the published experiment.
        channels: 3, or 1 where all photos are grey.
        augment: changes of orientation and color that turn a good part into another good part,
            besides small shifts, scale, brightness and contrast; operations of `AugmentPolicy`.
        because: why these and no others.
        recipe: "default", or the preset of the experiment.
        data_license: of the photos.
        repo_id: where weights will be, or are.
        published: whether weights are there.
        revision: the commit, where they are.
        sha256: of its list of sums, "sha256:" and 64 hexadecimal digits, where they are.
    """

    name: str
    data: str
    category: str
    defects: tuple[str, ...]
    resolution: int
    channels: int
    augment: tuple[str, ...]
    because: str
    recipe: str
    data_license: str
    repo_id: str
    published: bool = False
    revision: str | None = None
    sha256: str | None = None

    @property
    def noncommercial(self) -> bool:
        """Whether the license of the photos forbids commercial use."""
        return "-NC" in self.data_license.upper()

    def published_as(self, revision: str, sha256: str) -> ZooRecord:
        """The same, with weights."""
        return replace(self, published=True, revision=revision, sha256=sha256)


def zoo_records(path: Path = ZOO_FILE) -> dict[str, ZooRecord]:
    """Read the list.

    Raises:
        WeightsError: the file is no such list.
    """
    try:
        whole = json.loads(read_text(path, _MAX_BYTES))
        check_fields("zoo", ("format_version", "entries"), whole)
        if whole["format_version"] != ZOO_VERSION:
            raise ConfigError(f"format_version: must be {ZOO_VERSION}")
        return {name: _record(name, entry) for name, entry in whole["entries"].items()}
    except (OSError, ValueError, TypeError, AttributeError, ConfigError) as error:
        raise WeightsError(
            f"zoo: must be the list of the zoo; got {str(path)!r} ({error}); "
            "install defectgen again"
        ) from error


def zoo_record(name: str, path: Path = ZOO_FILE) -> ZooRecord:
    """One entry of the list.

    Raises:
        WeightsError: there is none of this name.
    """
    found = zoo_records(path)
    if name not in found:
        raise WeightsError(
            f"name: must be of the zoo; got {name!r}; `defectgen zoo list` shows all names"
        )
    return found[name]


def write_record(record: ZooRecord, path: Path = ZOO_FILE) -> None:
    """Put an entry in the place of the old one; the file is whole at any time."""
    found = {**zoo_records(path), record.name: record}
    entries = {name: _plain(entry) for name, entry in found.items()}
    text = json.dumps({"format_version": ZOO_VERSION, "entries": entries}, indent=1)
    with atomic_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _plain(record: ZooRecord) -> dict[str, Any]:
    return {key: value for key, value in asdict(record).items() if key != "name"}


def _record(name: str, entry: dict[str, Any]) -> ZooRecord:
    names = [field.name for field in fields(ZooRecord) if field.name != "name"]
    check_fields(name, names, entry)
    lists = {key: tuple(entry[key]) for key in ("defects", "augment")}
    found = ZooRecord(name=name, **{**entry, **lists})
    complete = found.revision is not None and found.sha256 is not None
    if found.published is not complete:
        raise ConfigError(
            f"{name}: must have revision and sha256 if it is published, and only then"
        )
    return found
