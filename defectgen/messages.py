"""What a user is told: lines of `fit`, in a log or on stderr, and warnings in his own file."""

from __future__ import annotations

import logging
import sys
import warnings
from types import FrameType

logger = logging.getLogger("defectgen")


def say(text: str, verbose: int) -> None:
    """Tell the user of a plain script too, who has never heard of logging.

    Args:
        text: one line.
        verbose: 0 logs it only; from 1 on it is written to stderr, beside the progress bar, if no
            logging at level INFO shows it.
    """
    handlers = [*logger.handlers, *logging.getLogger().handlers]
    seen = any(not isinstance(handler, logging.NullHandler) for handler in handlers)
    if seen and logger.isEnabledFor(logging.INFO):
        logger.info("%s", text)
    elif verbose:
        from tqdm.auto import tqdm

        tqdm.write(text, file=sys.stderr)


def warn(text: str, category: type[Warning]) -> None:
    """Warn whoever called this package, from however deep within it.

    Args:
        text: one sentence, "argument: rule; got value; do this".
        category: of the warning.
    """
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and _within(frame):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)


def _within(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] == __package__
