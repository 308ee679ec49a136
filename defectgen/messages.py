"""What `fit` tells its user: a log line where logging shows it, else a line on stderr."""

from __future__ import annotations

import logging
import sys

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
