"""Silence for loggers of other libraries, whose messages our own errors repeat or replace."""

import logging
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def without_records(name: str, least: int) -> Generator[None]:
    """Drop what a logger and those below it hand to its own handlers inside the block.

    Args:
        name: Name of the logger.
        least: The lowest level of a record that is dropped.

    Example:
        >>> with without_records("transformers", logging.ERROR):
        ...     logging.getLogger("transformers.configuration_utils").error("in 30 lines")
    """
    handlers = logging.getLogger(name).handlers

    def wanted(record: logging.LogRecord) -> bool:
        return record.levelno < least

    for handler in handlers:
        handler.addFilter(wanted)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(wanted)
