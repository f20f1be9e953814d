"""Signals that end a process behave as Ctrl-C, and wait while something is tidied up: nothing incomplete remains."""

import os
import signal
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TypeAlias

ENDING = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end a process: of `kill`, a scheduler or a shutdown, and of a terminal that is closed."""

_Handler: TypeAlias = Callable[[int, FrameType | None], object]


@contextmanager
def as_ctrl_c() -> Generator[None]:
    """Let `ENDING` raise KeyboardInterrupt in the block, as Ctrl-C does, unless a signal is ignored, as by nohup.

    An error after a signal was heard is raised as KeyboardInterrupt too: libraries in C turn one into an error of their
    own where they call Python.
    """
    heard: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        raise KeyboardInterrupt

    usual = (signal.SIG_DFL, signal.default_int_handler)
    former = {number: one for number, one in _heard().items() if one in usual}
    try:
        with _handled_by(interrupt, former):
            yield
    except Exception as error:
        if not heard:
            raise
        stop = KeyboardInterrupt()
        stop.__notes__ = list(getattr(error, "__notes__", ()))
        raise stop from error


def end_at_once() -> None:
    """Let Ctrl-C end this process without Python's report, as other signals do, where no `as_ctrl_c` is.

    For a process that runs one command: before it and after it, nothing is left to tidy up.
    """
    if may_listen() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def unhurried() -> Generator[None]:
    """Let a signal that ends the process wait until the block has ended: for tidying up, which takes a moment."""
    waiting: list[int] = []
    try:
        with _handled_by(lambda number, frame: waiting.append(number), _heard()):
            yield
    finally:
        for number in waiting[:1]:
            signal.raise_signal(number)


@contextmanager
def told_when_written(path: Path) -> Generator[None]:
    """Say of an interruption in the block that a file or folder was written, if it appeared before.

    Args:
        path: What is written in the block, complete or not at all.
    """
    there = os.path.lexists(path)
    try:
        yield
    except KeyboardInterrupt as stop:
        if os.path.lexists(path) and not there:
            stop.add_note(f"{path} is complete.")
        raise


def may_listen() -> bool:
    """Return whether this thread can install handlers, as only the main thread can."""
    return threading.current_thread() is threading.main_thread()


def _heard() -> dict[int, object]:
    """Return the handlers of the signals that end this process, where they are Python's and not ignored."""
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, *ENDING)} if may_listen() else {}
    return {number: one for number, one in found.items() if one not in (None, signal.SIG_IGN)}


@contextmanager
def _handled_by(handler: _Handler, former: Mapping[int, object]) -> Generator[None]:
    """Handle signals otherwise in the block.

    Args:
        handler: Handles them in the block.
        former: The signals, and the handlers that they have again after it.
    """
    for number in former:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, one in former.items():
            signal.signal(number, one)  # pyright: ignore[reportArgumentType]
