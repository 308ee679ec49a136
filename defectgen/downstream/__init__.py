"""The downstream test: do the samples make a detector of defects better?"""

from defectgen.downstream.report import Downstream
from defectgen.downstream.trial import downstream_test

__all__ = ["Downstream", "downstream_test"]
