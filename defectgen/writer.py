"""Samples to disk, batch by batch: PNG files and one line of metadata for each sample."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from defectgen import __version__
from defectgen.batch import DefectBatch
from defectgen.checks import check_choice
from defectgen.errors import ConfigError
from defectgen.files import atomic_file

#: Written last: a folder with this file is complete.
METADATA_NAME = "metadata.jsonl"

#: Where pictures go and what is added to their stems, by the layout.
LAYOUTS: dict[str, dict[str, tuple[str, str]]] = {
    "plain": {"images": ("images", ""), "masks": ("masks", ""), "normals": ("normals", "")},
    # MVTec AD (Bergmann et al. 2019): good twins are what a detector may learn as normal.
    "mvtec": {
        "images": ("test/{defect}", ""),
        "masks": ("ground_truth/{defect}", "_mask"),
        "normals": ("train/good", ""),
    },
}

#: Type of defect where nobody names one.
DEFECT = "defect"

#: Names that a type of defect must not have, in any case of letters: Windows and macOS take
#: "Good" for "good", and Windows has no files of the others.
_TAKEN = re.compile(r"good|con|prn|aux|nul|(com|lpt)[0-9¹²³]", re.IGNORECASE)

_OWN_KEYS = (
    "image",
    "mask",
    "normal",
    "seed",
    "label",
    "background",
    "mask_area",
    "library_version",
)


def write_samples(
    batches: Iterable[DefectBatch],
    folder: str | os.PathLike[str],
    *,
    metadata: Mapping[str, Any],
    layout: str = "plain",
    defect: str = DEFECT,
) -> int:
    """Write samples as they come, so that a million never sit in memory.

    ``images/000000.png`` and, where the batches have them, ``masks/`` (0 and 255) and ``normals/``
    under the same names. In the layout "mvtec", which readers of MVTec AD take, they are
    ``test/DEFECT/000000.png``, ``ground_truth/DEFECT/000000_mask.png``, and
    ``train/good/000000.png``; of good photos below the samples each is written once.
    ``metadata.jsonl`` has one object per sample: ``image``, ``mask`` and ``normal`` (paths in the
    folder), ``seed``, ``label``, ``background`` (name of the good photo below), ``mask_area``
    (share of the pixels), ``library_version`` and everything in ``metadata``; what a batch does not
    have is left out. It appears when all pictures are there: a folder without it was not finished.

    Args:
        batches: for instance what `defectgen.DefectSynthesizer.iter_samples` yields.
        folder: created with its parents; an existing one must be empty.
        metadata: JSON values that are the same for all samples: truncation_psi, model digest.
        layout: "plain" or "mvtec".
        defect: name of the type of defect in the layout "mvtec": a name of a folder, not "good".

    Returns:
        The number of samples written.

    Raises:
        ConfigError: ``folder`` has content, ``metadata`` is not JSON or uses a key of ours, or
            another layout or name.
        OSError: the file system refuses.
    """
    root = Path(folder)
    _check_metadata(metadata)
    check_choice("layout", layout, list(LAYOUTS))
    check_defect(defect)
    check_empty(root)
    places = {k: (at.format(defect=defect), end) for k, (at, end) in LAYOUTS[layout].items()}
    root.mkdir(parents=True, exist_ok=True)
    count, shown = 0, dict[tuple[str, bytes], str]() if layout == "mvtec" else None
    with (
        atomic_file(root / METADATA_NAME) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as f,
    ):
        for batch in batches:
            count += _write_batch(batch, root, count, metadata, f, places, shown)
    return count


def _write_batch(
    batch: DefectBatch,
    root: Path,
    first: int,
    metadata: Mapping[str, Any],
    lines: TextIO,
    places: Mapping[str, tuple[str, str]],
    shown: dict[tuple[str, bytes], str] | None,
) -> int:
    """Write one batch whose samples are numbered from ``first``; return how many there were.

    ``shown``: by name and content of a good photo below samples the normal that shows it, which is
    not written again; None writes one for each sample.
    """
    arrays = batch.numpy()
    for part in arrays:
        (root / places[part][0]).mkdir(parents=True, exist_ok=True)
    for index, record in enumerate(_records(batch)):
        files = {}
        for part, array in arrays.items():
            folder, end = places[part]
            name = f"{folder}/{first + index:06d}{end}.png"
            there = name
            if part == "normals" and shown is not None and batch.backgrounds:
                content = hashlib.sha256(array[index].tobytes()).digest()
                there = shown.setdefault((batch.backgrounds[index], content), name)
            if there == name:
                _save(array[index], root / name)
            files[part.removesuffix("s")] = there
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
        if batch.backgrounds:
            record["background"] = batch.backgrounds[index]
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


def check_defect(defect: str) -> None:
    """Raise ConfigError unless this is the name of a type that every system can have."""
    plain = defect.replace("-", "").replace("_", "").replace(" ", "")
    if not plain.isalnum() or defect != defect.strip() or _TAKEN.fullmatch(defect):
        raise ConfigError(
            'defect: must be letters, digits, "-", "_" and spaces between them, and neither "good" '
            'nor "con", "com1", or what else Windows takes for a device; '
            f"got {defect!r}; name it otherwise"
        )


def check_empty(root: Path, name: str = "folder") -> None:
    """Raise ConfigError unless a folder is new or empty."""
    if root.exists() and not root.is_dir():
        raise ConfigError(
            f"{name}: must name a folder; got the file {str(root)!r}; choose another name"
        )
    if root.is_dir() and any(root.iterdir()):
        raise ConfigError(
            f"{name}: must be new or empty; got {str(root)!r} with content; choose another name, "
            "or empty it"
        )
