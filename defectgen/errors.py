"""Every exception and warning category of the library.

Each message is one sentence of the form "argument: rule; got value; do this".
"""

from __future__ import annotations


class DefectGenError(Exception):
    """Base class: catch this to catch everything the library raises on purpose."""


class ConfigError(DefectGenError, ValueError):
    """A parameter is outside its rule, or two parameters contradict each other."""


class ImageError(DefectGenError, ValueError):
    """An input image cannot be used; the message lists every bad one."""


class MaskError(DefectGenError, ValueError):
    """A mask cannot be read as a two-valued picture of the defect, or does not fit its image."""


class NotFittedError(DefectGenError, ValueError, AttributeError):
    """The object has learned nothing yet; call ``fit`` or ``from_pretrained`` first.

    Inherits ``ValueError`` and ``AttributeError`` as scikit-learn's class of the same name does.
    """


class WeightsError(DefectGenError):
    """A weights folder or a resume file is missing, damaged, of another version or not ours."""


class TrainingError(DefectGenError):
    """Training stopped because going on would have destroyed what was learned."""


class KernelBuildError(DefectGenError):
    """A native kernel was demanded and cannot be had on this machine."""


class DefectGenWarning(UserWarning):
    """Base class of every warning of the library, so that one filter reaches all of them."""


class DataWarning(DefectGenWarning):
    """The data are usable, but look as if something went wrong before they came here."""


class TrainingWarning(DefectGenWarning):
    """Training goes on, but the numbers say that its result may be poor, or that it may not end."""


class KernelWarning(DefectGenWarning):
    """A native kernel cannot be had; plain PyTorch computes the same, slower."""
