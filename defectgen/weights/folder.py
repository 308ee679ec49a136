"""The weights folder: `config.json` and `model.safetensors`, neither of which can run code."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from defectgen import __version__
from defectgen.errors import ConfigError, WeightsError
from defectgen.files import FOLDER_MARK, atomic_folder, read_text
from defectgen.system import WINDOWS
from defectgen.weights.header import MAX_TENSOR_BYTES, check_header, damaged
from defectgen.weights.migrations import FORMAT_VERSION, MIGRATIONS
from defectgen.weights.values import canonical, check_finite, storable, tensor_digest

TENSOR_FILE = "model.safetensors"
#: Sub-folder that holds the backbone of a self-contained synthesizer.
BACKBONE_FOLDER = "backbone"
MAX_CONFIG_BYTES = 1 << 20
# Which class reads which kind of folder, for the message to whoever took the wrong one.
_READERS = {"backbone": "Backbone", "synthesizer": "DefectSynthesizer"}
_RESERVED = ("format_version", "library_version", "torch_version", "kind", "digest")


def save_folder(
    folder: str | os.PathLike[str],
    kind: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    half: bool = False,
    include: Mapping[str, Path] | None = None,
) -> str:
    """Write a weights folder; an older one is replaced only when the new one is complete.

    Args:
        folder: The folder to write.
        kind: What the folder holds, "backbone" or "synthesizer" for those of the public classes.
        config: JSON content, without the keys this function writes itself.
        tensors: Finite floating or integer tensors on any device; stored as float32 and int64.
        half: Store floating tensors as float16. The digest is that of the rounded values.
        include: Name of a sub-folder -> weights folder whose two files are copied into it.

    Returns:
        The digest of the stored tensors, as `tensor_digest` computes it.

    Raises:
        ConfigError: `config` is not JSON or uses a key of this function; a name in `include` is
            taken or not plain; `folder` holds anything but weights.
        WeightsError: a tensor is not finite (once rounded) or of another type, there are more than
            4 GB, or a folder in `include` is incomplete. Nothing is written.
        OSError: the file system refuses. Nothing is written.
    """
    include = include or {}
    stored = {name: storable(name, tensors[name], half) for name in sorted(tensors)}
    total = sum(tensor.nbytes for tensor in stored.values())
    if total > MAX_TENSOR_BYTES:
        raise WeightsError(
            f"tensors: at most {MAX_TENSOR_BYTES} bytes; got {total}; store with half=True"
        )
    _check_included(include)
    digest = tensor_digest(stored)
    text = _config_text(kind, digest, config)
    with atomic_folder(folder, foreign_content) as temporary:
        (temporary / FOLDER_MARK).write_text(text, encoding="utf-8", newline="\n")
        _save_tensors(stored, temporary / TENSOR_FILE)
        # The writer keeps the file to its owner; weights are meant to be passed on.
        shutil.copymode(temporary / FOLDER_MARK, temporary / TENSOR_FILE)
        for name, source in include.items():
            (temporary / name).mkdir()
            for part in (FOLDER_MARK, TENSOR_FILE):
                shutil.copyfile(source / part, temporary / name / part)
    return digest


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write the file; what the system says about it is an OSError, as of any other file."""
    try:
        safetensors.torch.save_file(tensors, path)
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        number = int(code[1])
        if WINDOWS:  # a number of Windows, of which the fourth argument makes the usual one
            raise OSError(0, str(error), str(path), number) from error
        raise OSError(number, os.strerror(number), str(path)) from error


def load_folder(
    folder: str | os.PathLike[str], kind: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a weights folder strictly and bring an older format up to date.

    Args:
        folder: A folder written by `save_folder`.
        kind: The kind expected.

    Returns:
        The whole content of `config.json`, and the tensors on the CPU: float32, or int64 where
        they are integers. The tensors do not share memory with the file.

    Raises:
        WeightsError: something is missing, damaged, foreign, too large, of another kind or newer
            than this version, or the tensors are not those the digest was taken of.
    """
    root = Path(folder)
    config = _read_config(root)
    _check_origin(root, config, kind)
    path = root / TENSOR_FILE
    check_header(path)
    try:
        raw = safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(path, f"content safetensors cannot read ({error})") from error
    # Copies: the originals are views into the file, which Windows keeps while one is left.
    try:
        tensors = {name: canonical(name, raw[name]).clone() for name in sorted(raw)}
    finally:
        raw.clear()
    found = tensor_digest(tensors)
    if found != config["digest"]:
        raise damaged(path, f"the digest {found} where config.json says {config['digest']!r}")
    check_finite(tensors, "train or download the weights again")
    return _migrated(root, config, tensors)


def read_config(folder: str | os.PathLike[str], kind: str | None = None) -> dict[str, Any]:
    """The content of `config.json` alone; weights are not read.

    Args:
        folder: A folder written by `save_folder`.
        kind: The kind expected; None takes any.

    Raises:
        WeightsError: there is no readable `config.json` of ours, or it is of another kind.
    """
    root = Path(folder)
    config = _read_config(root)
    _check_origin(root, config, str(config.get("kind")) if kind is None else kind)
    return config


def foreign_content(folder: Path) -> list[str]:
    """Names of what a folder holds beside weights: whoever replaces it would lose that.

    All names where `config.json` is not ours; the backbone that a synthesizer includes belongs to
    it.
    """
    names = sorted(os.listdir(folder))
    try:
        config = read_config(folder)
    except WeightsError:
        return names
    own = {FOLDER_MARK, TENSOR_FILE}
    found = [name for name in names if name not in own]
    inner = folder / BACKBONE_FOLDER
    if _is_included(inner, config.get("backbone")):
        found.remove(BACKBONE_FOLDER)
        found += [f"{BACKBONE_FOLDER}/{name}" for name in foreign_content(inner)]
    return found


def _is_included(inner: Path, entry: object) -> bool:
    """Whether a sub-folder is the backbone that its synthesizer says it includes."""
    if not isinstance(entry, dict) or entry.get("included") is not True or not inner.is_dir():
        return False
    try:
        digest = read_config(inner, "backbone")["digest"]
    except WeightsError:
        return False
    return bool(digest == entry.get("digest"))


@contextmanager
def entries_of(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what a config.json without its entries would raise into one sentence.

    Raises:
        WeightsError: instead of KeyError, TypeError, AttributeError or ConfigError.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, ConfigError) as error:
        raise WeightsError(
            f"folder: every entry of config.json as it was written; got {str(folder)!r} with "
            f"{type(error).__name__}: {error}; save or download it again."
        ) from error


def _migrated(
    root: Path, config: dict[str, Any], tensors: dict[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    # The digest in the config stays that of the file: others refer to these weights by it.
    for version in range(config["format_version"], FORMAT_VERSION):
        if version not in MIGRATIONS:
            raise WeightsError(
                f"folder: format {version} can no longer be read; got {str(root)!r}; "
                f"load it with defectgen {config.get('library_version')} or train again"
            )
        with entries_of(root):
            config, tensors = MIGRATIONS[version](config, tensors)
        config["format_version"] = version + 1
    return config, tensors


def _config_text(kind: str, digest: str, config: Mapping[str, Any]) -> str:
    """Return the text of `config.json`: what identifies the folder first, the rest by name."""
    taken = sorted(set(config) & set(_RESERVED))
    if taken:
        raise ConfigError(f"config: must not hold {taken}; got them; save_folder writes these")
    head = (FORMAT_VERSION, __version__, str(torch.__version__), kind, digest)
    content = {**dict(zip(_RESERVED, head, strict=True)), **dict(sorted(config.items()))}
    try:
        text = json.dumps(content, allow_nan=False, indent=2) + "\n"
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config: must be JSON without NaN; got {error}; convert it") from error
    if len(text) > MAX_CONFIG_BYTES:  # ASCII, so that characters are bytes
        raise ConfigError(
            f"config: at most {MAX_CONFIG_BYTES} bytes of JSON; got {len(text)}; leave some out"
        )
    return text


def _check_included(include: Mapping[str, Path]) -> None:
    names = [FOLDER_MARK, TENSOR_FILE, *include]
    for name in names:
        # Lower case: some file systems do not tell the two apart.
        twice = [other.lower() for other in names].count(name.lower()) > 1
        if twice or name in ("", ".", "..") or set(name) & set("/\\:\0"):
            raise ConfigError(
                f"include: names must be plain and different; got {name!r}; choose another"
            )
    for name, source in include.items():
        missing = [part for part in (FOLDER_MARK, TENSOR_FILE) if not (source / part).is_file()]
        if missing:
            raise WeightsError(
                f"include: {name} must be a weights folder; got {str(source)!r} without "
                f"{' and '.join(missing)}; save it first"
            )


def _read_config(root: Path) -> dict[str, Any]:
    if not root.is_dir():
        raise WeightsError(
            f"folder: must be an existing weights folder; got {str(root)!r}; check the path"
        )
    path = root / FOLDER_MARK
    if not path.is_file():
        raise WeightsError(
            f"folder: must hold {FOLDER_MARK}; got {str(root)!r} without it; "
            "pass the folder that save_pretrained wrote"
        )
    try:
        config = json.loads(read_text(path, MAX_CONFIG_BYTES), parse_constant=_refuse_constant)
    except (ConfigError, ValueError, RecursionError) as error:
        raise damaged(path, f"no JSON of up to {MAX_CONFIG_BYTES} bytes ({error})") from error
    if not isinstance(config, dict):
        raise damaged(path, "JSON that is not an object")
    return config


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _check_origin(root: Path, config: Mapping[str, Any], kind: str) -> None:
    """Refuse folders of other programs, of newer versions and of other kinds."""
    version, found = config.get("format_version"), config.get("kind")
    if type(version) is not int or version < 1:
        raise WeightsError(
            f"folder: must have been written by defectgen; got {str(root)!r} with format_version "
            f"{version!r}; pass the folder that save_pretrained wrote"
        )
    if version > FORMAT_VERSION:
        raise WeightsError(
            f"folder: this defectgen {__version__} reads formats up to {FORMAT_VERSION}; got "
            f"format {version} in {str(root)!r}; update defectgen"
        )
    if found != kind:
        reader = _READERS.get(found) if isinstance(found, str) else None
        advice = f"load it with {reader}.from_pretrained" if reader else "pass another folder"
        raise WeightsError(
            f"folder: must hold weights of the kind {kind!r}; got {found!r} in {str(root)!r}; "
            f"{advice}"
        )
    if not isinstance(config.get("digest"), str):
        raise damaged(root / FOLDER_MARK, "no digest")
