"""What a name means: which are repository ids, and which are reserved for the zoo."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from defectgen.checks import check_fields
from defectgen.data.example import example_folders
from defectgen.errors import ConfigError, WeightsError
from defectgen.registry import PublishedBranch, ZooRecord, slug, zoo_record

#: First parts of the zoo's names: nobody's repositories.
RESERVED = ("mvtec", "visa")
# Letters, digits, "_", "-" and "."; the first and the last neither "-" nor "."; up to 96.
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_REPO_ID = re.compile(f"{_PART}/{_PART}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubSource:
    """One commit of one repository: it never changes.

    Attributes:
        repo_id: "owner/name".
        revision: the commit, 40 hexadecimal digits.
    """

    repo_id: str
    revision: str

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> HubSource:
        """Build from a dictionary that came from anywhere.

        Raises:
            ConfigError: a field is missing, unknown, or no id or commit.
        """
        check_fields("source", ("repo_id", "revision"), values)
        source = cls(**values)
        if not is_repo_id(source.repo_id) or not is_commit(source.revision):
            raise ConfigError(
                f"source: must be a repository id and a commit of 40 digits; got {values!r}; "
                "publish it with push_to_hub"
            )
        return source


@dataclass(frozen=True, kw_only=True)
class ZooEntry:
    """Where weights of the zoo lie: in this installation, or pinned in a repository.

    Attributes:
        kind: "backbone" or "synthesizer".
        folder: of this installation, or None.
        source: the commit to download, or None.
        digest: of its SHA256SUMS, "sha256:" and 64 hexadecimal digits.
    """

    kind: str = "backbone"
    folder: Path | None = None
    source: HubSource | None = None
    digest: str | None = None


def zoo_entry(name: str) -> ZooEntry | None:
    """Look a name up in the zoo; None if it is not one of the zoo's.

    Args:
        name: "demo", a category such as "mvtec/bottle", which is a backbone, or a type of defect of
            it such as "mvtec/bottle/broken_large", which is a synthesizer.

    Raises:
        WeightsError: the name is reserved, and nothing has been published under it yet.
    """
    if name == "demo":
        return ZooEntry(folder=example_folders().backbone)
    if not isinstance(name, str) or "/" not in name:
        return None
    home = name.partition("/")[0]
    if home not in RESERVED:
        return None
    category, _, defect = name.removeprefix(f"{home}/").partition("/")
    record = zoo_record(f"{home}/{category}")
    pin: ZooRecord | PublishedBranch | None = record
    if defect:
        pin = record.branches.get(_defect_of(record, defect))
    if pin is None or pin.revision is None:
        raise WeightsError(
            f"name: must be of published weights; got {name!r}, which is not published yet; train "
            f"it with `defectgen zoo train {record.name} --data PATH`, or pass a folder or a "
            "repository id"
        )
    source = HubSource.from_dict({"repo_id": pin.repo_id, "revision": pin.revision})
    kind = "synthesizer" if defect else "backbone"
    return ZooEntry(kind=kind, source=source, digest=pin.sha256)


def _defect_of(record: ZooRecord, name: str) -> str:
    """The type of defect as the data set spells it; a name may have "_" instead of spaces.

    Raises:
        WeightsError: the category has no such type.
    """
    for defect in record.defects:
        if name in (defect, slug(defect)):
            return defect
    raise WeightsError(
        f"name: must end in a type of defect of {record.name}; got {name!r}; "
        f"`defectgen zoo show {record.name}` lists them"
    )


def is_repo_id(name: object) -> bool:
    """Whether this could be the id of a repository, "owner/name"."""
    if not isinstance(name, str) or not _REPO_ID.fullmatch(name):
        return False
    return "--" not in name and ".." not in name and not name.endswith(".git")


def is_commit(revision: object) -> bool:
    """Whether this is a full commit, which nobody can move as branches and tags can be."""
    return isinstance(revision, str) and _COMMIT.fullmatch(revision) is not None


def check_repo_id(repo_id: object) -> str:
    """Return the id of a repository of one's own.

    Raises:
        ConfigError: it is none, or begins like a name of the zoo.
    """
    if not is_repo_id(repo_id) or str(repo_id).partition("/")[0] in RESERVED:
        raise ConfigError(
            f"repo_id: must be 'owner/name' of letters, digits, '_', '-', '.', and not begin with "
            f"{' or '.join(f'{home}/' for home in RESERVED)}; got {repo_id!r}; rename it"
        )
    return str(repo_id)
