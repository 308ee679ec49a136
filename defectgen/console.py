"""What a command says on stderr: log lines and warnings, one line each, and errors of the disk."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from defectgen.errors import DefectGenWarning
from defectgen.system import advice


def disk_text(error: OSError) -> str:
    """One sentence about what a file system refused."""
    place = "" if error.filename is None else f" at {str(error.filename)!r}"
    said = f"got {error.strerror or error}{place}"
    return f"disk: must do what it is asked for; {said}; {advice(error)}"


class _Printer(logging.Handler):
    """Prints log lines without cutting through the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm.auto import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


@contextmanager
def messages_on_stderr() -> Iterator[None]:
    """Show the library's log lines and warnings on stderr, one line each."""
    logger, printer = logging.getLogger("defectgen"), _Printer()
    level = logger.level
    logger.addHandler(printer)
    logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            usual = warnings.showwarning

            def show(
                message: Warning | str,
                category: type[Warning],
                filename: str,
                lineno: int,
                file: TextIO | None = None,
                line: str | None = None,
            ) -> None:
                if issubclass(category, DefectGenWarning):
                    logger.warning("warning: %s", message)
                else:
                    usual(message, category, filename, lineno, file, line)

            warnings.showwarning = show
            yield
    finally:
        logger.removeHandler(printer)
        logger.setLevel(level)
