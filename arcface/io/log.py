"""The log of a run: lines on stdout and in a file, prefixed as in the 2021 toolkit."""

import logging
import sys
from pathlib import Path

logger = logging.getLogger("arcface")


def start_log(file: Path | None = None) -> None:
    """Log to stdout and, if given, append to `file`."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may be invalid UTF-8
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if file:
        handlers.append(logging.FileHandler(file, encoding="utf-8", errors="backslashreplace"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("Training: %(asctime)s-%(message)s"))
    logger.handlers[:] = handlers
    logger.setLevel(logging.INFO)
    logger.propagate = False
