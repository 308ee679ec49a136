"""The zoo's list: every category of MVTec AD and VisA, published or not (``zoo.json``)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, fields, replace
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
_COMMIT, _SUM = re.compile(r"[0-9a-f]{40}"), re.compile(r"sha256:[0-9a-f]{64}")

#: How the owners of a data set want it to be cited.
CITATIONS = {
    "MVTec AD": "Bergmann, Batzner, Fauser, Sattlegger, Steger: The MVTec Anomaly Detection "
    "Dataset: A Comprehensive Real-World Dataset for Unsupervised Anomaly Detection, International "
    "Journal of Computer Vision 129(4), 2021; Bergmann, Fauser, Sattlegger, Steger: MVTec AD - A "
    "Comprehensive Real-World Dataset for Unsupervised Anomaly Detection, CVPR 2019",
    "VisA": "Zou, Jeong, Pemula, Zhang, Dabeer: SPot-the-Difference Self-Supervised Pre-training "
    "for Anomaly Detection and Segmentation, ECCV 2022",
}

# The list in use in this thread.
_list: ContextVar[Path] = ContextVar("zoo", default=ZOO_FILE)


@contextmanager
def use_zoo(path: Path) -> Iterator[None]:
    """Take another list inside this block, for every name that is looked up in this thread.

    Args:
        path: such as a copy of `ZOO_FILE` with entries of one's own.
    """
    token = _list.set(path)
    try:
        yield
    finally:
        _list.reset(token)


def zoo_path() -> Path:
    """The list in use."""
    return _list.get()


def slug(defect: str) -> str:
    """Name of a folder for a type of defect: VisA's have spaces."""
    return re.sub(r"[^A-Za-z0-9]+", "_", defect).strip("_")


@dataclass(frozen=True)
class PublishedBranch:
    """Where the branch of one type of defect lies.

    Attributes:
        repo_id: of its repository.
        revision: the commit there.
        sha256: of its list of sums, as in `ZooRecord`.
    """

    repo_id: str
    revision: str
    sha256: str


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
        repo_id: where weights of the backbone will be, or are.
        published: whether weights are there.
        revision: the commit, where they are.
        sha256: of its list of sums, "sha256:" and 64 hexadecimal digits, where they are.
        branches: the branches that are published on it, by type of defect.
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
    branches: Mapping[str, PublishedBranch] = field(default_factory=dict)

    @property
    def noncommercial(self) -> bool:
        """Whether the license of the photos forbids commercial use."""
        return "-NC" in self.data_license.upper()

    @property
    def citation(self) -> str:
        """How the owners of the photos want to be cited."""
        return CITATIONS[self.data]

    def branch_name(self, defect: str) -> str:
        """The name under which the branch of a type of defect is loaded."""
        return f"{self.name}/{slug(defect)}"

    def branch_repo(self, defect: str, repo_id: str | None = None) -> str:
        """The repository of the branch of a type of defect, beside that of the backbone."""
        return f"{repo_id or self.repo_id}-{slug(defect)}"

    def published_as(
        self,
        revision: str,
        sha256: str,
        *,
        repo_id: str | None = None,
        branches: Mapping[str, PublishedBranch] | None = None,
    ) -> ZooRecord:
        """The same, with weights, in this repository or the one that was meant for them."""
        return replace(
            self,
            published=True,
            repo_id=repo_id or self.repo_id,
            revision=revision,
            sha256=sha256,
            branches=dict(branches or {}),
        )


def zoo_records(path: Path | None = None) -> dict[str, ZooRecord]:
    """Read the list.

    Args:
        path: None takes the one in use: that of this installation, or of `use_zoo`.

    Raises:
        WeightsError: the file is no such list.
    """
    path = path or _list.get()
    try:
        whole = json.loads(read_text(path, _MAX_BYTES))
        check_fields("zoo", ("format_version", "entries"), whole)
        if whole["format_version"] != ZOO_VERSION:
            raise ConfigError(f"format_version: must be {ZOO_VERSION}")
        return {name: _record(name, entry) for name, entry in whole["entries"].items()}
    except (OSError, ValueError, TypeError, AttributeError, ConfigError) as error:
        repair = (
            "install defectgen again" if path == ZOO_FILE else "check the path, or copy it anew"
        )
        raise WeightsError(
            f"zoo: must be the list of the zoo; got {str(path)!r} ({error}); {repair}"
        ) from error


def zoo_record(name: str, path: Path | None = None) -> ZooRecord:
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


def write_record(record: ZooRecord, path: Path | None = None) -> None:
    """Put an entry in the place of the old one; the file is whole at any time.

    Args:
        record: the entry.
        path: of the list; None takes the one in use.
    """
    path = path or _list.get()
    found = {**zoo_records(path), record.name: record}
    entries = {name: _plain(entry) for name, entry in found.items()}
    text = json.dumps({"format_version": ZOO_VERSION, "entries": entries}, indent=1)
    with atomic_file(path.resolve()) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8", newline="\n")


def _plain(record: ZooRecord) -> dict[str, Any]:
    return {key: value for key, value in asdict(record).items() if key != "name"}


def _record(name: str, entry: dict[str, Any]) -> ZooRecord:
    names = [one.name for one in fields(ZooRecord) if one.name != "name"]
    check_fields(name, names, entry)
    lists = {key: tuple(entry[key]) for key in ("defects", "augment")}
    branches = {kind: _branch(f"{name}: {kind}", at) for kind, at in entry["branches"].items()}
    found = ZooRecord(name=name, **{**entry, **lists, "branches": branches})
    if found.published:
        _check_pin(name, found.revision, found.sha256)
    if not found.published and (found.revision, found.sha256, branches) != (None, None, {}):
        raise ConfigError(
            f"{name}: must have revision, sha256 and branches only if it is published"
        )
    if set(branches) - set(found.defects):
        raise ConfigError(f"{name}: must have branches of its types of defect only")
    return found


def _branch(name: str, entry: dict[str, Any]) -> PublishedBranch:
    check_fields(name, [one.name for one in fields(PublishedBranch)], entry)
    _check_pin(name, entry["revision"], entry["sha256"])
    return PublishedBranch(**entry)


def _check_pin(name: str, revision: str | None, sha256: str | None) -> None:
    """Raise ConfigError unless these are a full commit and a sum."""
    if not _COMMIT.fullmatch(revision or "") or not _SUM.fullmatch(sha256 or ""):
        raise ConfigError(f"{name}: must name a full commit and its sha256 if it is published")
