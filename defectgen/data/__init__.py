"""From what users have (files, arrays, tensors) to checked training tensors on the CPU.

`MVTecAD`, `VisA` and `Folder` read data sets as they lie on disk.
"""

from defectgen.data.mvtec import MVTecAD
from defectgen.data.own_folder import Folder
from defectgen.data.report import DataReport
from defectgen.data.survey import Problem
from defectgen.data.visa import VisA

__all__ = ["DataReport", "Folder", "MVTecAD", "Problem", "VisA"]
