"""The embedded example: hazelnuts, good and with paint on them, at 64 px (CC BY 4.0)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: Everything the package ships beside code.
ASSETS = Path(__file__).parent.parent / "assets"


@dataclass(frozen=True)
class ExampleFolders:
    """Where the parts of the example lie.

    Attributes:
        good: 28 images without defect.
        defects: 17 images with paint on the nut.
        masks: their masks, equal stems.
        backbone: weights folder of a `Backbone`.
    """

    good: Path
    defects: Path
    masks: Path
    backbone: Path


def example_folders() -> ExampleFolders:
    """Return the folders of the example, which is part of every installation."""
    home = ASSETS / "hazelnut"
    return ExampleFolders(
        good=home / "good",
        defects=home / "defect",
        masks=home / "mask",
        backbone=home / "backbone",
    )
