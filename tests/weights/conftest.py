"""A disk that is too small."""

from __future__ import annotations

from contextlib import contextmanager

import pytest


@pytest.fixture
def small_files():
    """small_files(): within the block no file grows beyond 100 kB, as on a disk that is full."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def limited():
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited
