"""Weights folders and resume files: written whole or not at all, read strictly or refused."""

from defectgen.weights.folder import (
    BACKBONE_FOLDER,
    MAX_CONFIG_BYTES,
    TENSOR_FILE,
    entries_of,
    foreign_content,
    load_folder,
    read_config,
    save_folder,
)
from defectgen.weights.header import MAX_FILE_BYTES, check_header
from defectgen.weights.migrations import FORMAT_VERSION, MIGRATIONS
from defectgen.weights.module import build_strict, load_strict, unclaimed
from defectgen.weights.resume import load_resume, save_resume
from defectgen.weights.values import tensor_digest

__all__ = [
    "BACKBONE_FOLDER",
    "FORMAT_VERSION",
    "MAX_CONFIG_BYTES",
    "MAX_FILE_BYTES",
    "MIGRATIONS",
    "TENSOR_FILE",
    "build_strict",
    "check_header",
    "entries_of",
    "foreign_content",
    "load_folder",
    "load_resume",
    "load_strict",
    "read_config",
    "save_folder",
    "save_resume",
    "tensor_digest",
    "unclaimed",
]
