"""Signals that end a process behave as Ctrl-C, so that nothing incomplete remains."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end a process: of `kill`, a scheduler or a shutdown, and of a terminal that is closed."""


@contextmanager
def as_ctrl_c() -> Generator[None]:
    """Let `ENDING` raise KeyboardInterrupt in the block, as Ctrl-C does, unless a signal is ignored, as by nohup."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    heard = [number for number in ENDING if may_listen() and signal.getsignal(number) is signal.SIG_DFL]
    for number in heard:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, signal.SIG_DFL)


def may_listen() -> bool:
    """Return whether this thread can install handlers, as only the main thread can."""
    return threading.current_thread() is threading.main_thread()
