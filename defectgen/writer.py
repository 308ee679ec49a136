"""Samples to disk, batch by batch: PNG files and one line of metadata for each sample."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from defectgen import __version__
from defectgen.batch import DefectBatch
from defectgen.errors import ConfigError
from defectgen.files import atomic_file

#: Written last: a folder with this file is complete.
METADATA_NAME = "metadata.jsonl"

_OWN_KEYS = ("image", "mask", "normal", "seed", "label", "mask_area", "library_version")


def write_samples(
    batches: Iterable[DefectBatch],
    folder: str | os.PathLike[str],
    *,
    metadata: Mapping[str, Any],
) -> int:
    """Write samples as they come, so that a million never sit in memory.

    ``images/000000.png`` and, where the batches have them, ``masks/`` (0 and 255) and ``normals/``
    under the same names. ``metadata.jsonl`` has one object per sample: ``image``, ``mask`` and
    ``normal`` (paths in the folder), ``seed``, ``label``, ``mask_area`` (share of the pixels),
    ``library_version`` and everything in ``metadata``; what a batch does not have is left out. It
    appears when all pictures are there: a folder without it was not finished.

    Args:
        batches: for instance what :meth:`defectgen.DefectSynthesizer.iter_samples` yields.
        folder: created with its parents; an existing one must be empty.
        metadata: JSON values that are the same for all samples: truncation_psi, model digest.

    Returns:
        The number of samples written.

    Raises:
        ConfigError: ``folder`` has content, or ``metadata`` is not JSON or uses a key of ours.
        OSError: the file system refuses.
    """
    root = Path(folder)
    _check_metadata(metadata)
    _check_empty(root)
    root.mkdir(parents=True, exist_ok=True)
    count = 0
    with atomic_file(root / METADATA_NAME) as temporary, temporary.open("w", encoding="utf-8") as f:
        for batch in batches:
            count += _write_batch(batch, root, count, metadata, f)
    return count


def _write_batch(
    batch: DefectBatch, root: Path, first: int, metadata: Mapping[str, Any], lines: TextIO
) -> int:
    """Write one batch whose samples are numbered from ``first``; return how many there were."""
    arrays = batch.numpy()
    for part in arrays:
        (root / part).mkdir(exist_ok=True)
    for index, record in enumerate(_records(batch)):
        name = f"{first + index:06d}.png"
        for part, array in arrays.items():
            _save(array[index], root / part / name)
        files = {part.removesuffix("s"): f"{part}/{name}" for part in arrays}
        line = {**files, **record, "library_version": __version__, **metadata}
        lines.write(json.dumps(line, allow_nan=False) + "\n")
    return len(batch)


def _records(batch: DefectBatch) -> Iterator[dict[str, Any]]:
    """What is known about each sample of the batch."""
    for index in range(len(batch)):
        record: dict[str, Any] = {}
        if batch.seeds:
            record["seed"] = batch.seeds[index]
        if batch.labels is not None:
            record["label"] = batch.labels[index]
        if batch.masks is not None:
            record["mask_area"] = round(float(batch.masks[index].float().mean()), 6)
        yield record


def _save(pixels: NDArray[np.uint8], path: Path) -> None:
    # (H, W, C) or (H, W); PIL takes gray pictures without the channel axis.
    gray = pixels.ndim == 3 and pixels.shape[2] == 1
    Image.fromarray(pixels[..., 0] if gray else pixels).save(path, format="PNG")


def _check_metadata(metadata: Mapping[str, Any]) -> None:
    taken = sorted(set(metadata) & set(_OWN_KEYS))
    if taken:
        raise ConfigError(
            f"metadata: must not hold {', '.join(_OWN_KEYS)}; got {taken}; rename these keys"
        )
    try:
        json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"metadata: must be JSON without NaN; got {error}; convert the values"
        ) from error


def _check_empty(root: Path) -> None:
    if root.exists() and not root.is_dir():
        raise ConfigError(
            f"folder: must name a folder; got the file {str(root)!r}; choose another name"
        )
    if root.is_dir() and any(root.iterdir()):
        raise ConfigError(
            f"folder: must be new or empty; got {str(root)!r} with content; choose another name, "
            "or empty it"
        )
