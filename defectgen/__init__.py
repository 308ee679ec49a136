"""Turn ten photos of a defect into a labelled training set.

Every public name is importable from here and loaded on first use, so that ``import defectgen``
costs milliseconds: no torch, no compiler, no network.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from defectgen.backbone import Backbone
    from defectgen.batch import DefectBatch
    from defectgen.data.mvtec import MVTecAD
    from defectgen.data.own_folder import Folder
    from defectgen.data.visa import VisA
    from defectgen.errors import (
        ConfigError,
        DataWarning,
        DefectGenError,
        DefectGenWarning,
        ImageError,
        KernelBuildError,
        KernelWarning,
        MaskError,
        NotFittedError,
        TrainingError,
        TrainingWarning,
        WeightsError,
    )
    from defectgen.networks.defect_block import DefectAwareResBlock
    from defectgen.synthesizer import DefectSynthesizer
    from defectgen.synthetic import SyntheticDefects

__version__ = "0.1.0"

__all__ = [
    "Backbone",
    "ConfigError",
    "DataWarning",
    "DefectAwareResBlock",
    "DefectBatch",
    "DefectGenError",
    "DefectGenWarning",
    "DefectSynthesizer",
    "Folder",
    "ImageError",
    "KernelBuildError",
    "KernelWarning",
    "MVTecAD",
    "MaskError",
    "NotFittedError",
    "SyntheticDefects",
    "TrainingError",
    "TrainingWarning",
    "VisA",
    "WeightsError",
    "__version__",
]

# Names that do not live in defectgen.errors, and the module that defines each.
_MODULES = {
    "Backbone": "defectgen.backbone",
    "DefectAwareResBlock": "defectgen.networks.defect_block",
    "DefectBatch": "defectgen.batch",
    "DefectSynthesizer": "defectgen.synthesizer",
    "Folder": "defectgen.data.own_folder",
    "MVTecAD": "defectgen.data.mvtec",
    "SyntheticDefects": "defectgen.synthetic",
    "VisA": "defectgen.data.visa",
}

# A library logs and stays silent until the application configures logging.
logging.getLogger("defectgen").addHandler(logging.NullHandler())


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_MODULES.get(name, "defectgen.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names too, loaded or not."""
    return sorted({*globals(), *__all__})
