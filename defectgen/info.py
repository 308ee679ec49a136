"""Weights in words."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

from defectgen.adapter import find_backbone
from defectgen.errors import ConfigError, WeightsError
from defectgen.files import FOLDER_MARK, read_text
from defectgen.hub import HubOptions, Resolved, resolved
from defectgen.weights import entries_of, load_folder

_MAX_BYTES = 1 << 20
_KINDS = ("backbone", "synthesizer")


def describe(name: str | os.PathLike[str], *, revision: str | None = None) -> list[str]:
    """Read weights as strictly as for use, and say what they are.

    Args:
        name: a folder written by ``save_pretrained``, a name of the zoo, or a repository.
        revision: branch, tag or commit of a repository.

    Returns:
        Lines "name: value": kind, versions, digest, parameters of each network, and every entry of
        the configuration under its full name.

    Raises:
        WeightsError: if there is no such thing, or it is damaged.
        ConfigError: a revision of something that has none.
    """
    with resolved(name, None, HubOptions(revision=revision)) as found:
        config, tensors = load_folder(found.folder, _kind(found.folder))
    sizes: Counter[str] = Counter()
    for name, tensor in tensors.items():
        sizes[name.partition(".")[0]] += math.prod(tensor.shape)
    first = ("kind", "library_version", "torch_version", "format_version", "digest")
    lines = [f"{name}: {config[name]}" for name in first if name in config]
    if found.source is not None:
        lines.insert(1, f"repository: {found.source.repo_id} at {found.source.revision}")
    lines += [f"parameters.{name}: {count:,}" for name, count in sizes.items()]
    if config["kind"] == "synthesizer":
        lines += _place(found, config)
    rest = {name: value for name, value in config.items() if name not in (*first, "config")}
    return lines + _flat("", rest) + _flat("", config.get("config", {}))


def _place(found: Resolved, config: dict[str, Any]) -> list[str]:
    """Where a branch finds its backbone, or why it does not."""
    try:
        with entries_of(found.folder):
            place = find_backbone(found, config["backbone"])
    except WeightsError as error:
        return [f"backbone.found: no; {error}"]
    return [] if place is None else [f"backbone.found: {place}"]


def _kind(root: Path) -> str:
    """The kind that the folder says it is; "backbone" where it says nothing, which then fails."""
    if not root.is_dir():
        raise WeightsError(
            f"folder: must be an existing weights folder; got {str(root)!r}; check the path"
        )
    try:
        kind = json.loads(read_text(root / FOLDER_MARK, _MAX_BYTES))["kind"]
    except OSError as error:
        raise WeightsError(
            f"folder: must be a weights folder; got {str(root)!r}, whose {FOLDER_MARK} cannot be "
            "read; pass the folder that save_pretrained wrote"
        ) from error
    except (ConfigError, ValueError, KeyError, TypeError, RecursionError):
        return _KINDS[0]
    return kind if kind in _KINDS else _KINDS[0]


def _flat(prefix: str, value: Any) -> list[str]:
    """Nested dictionaries as lines with dotted names."""
    if not isinstance(value, dict):
        return [f"{prefix}: {value}"]
    lines: list[str] = []
    for name, inner in value.items():
        lines += _flat(f"{prefix}.{name}" if prefix else str(name), inner)
    return lines
