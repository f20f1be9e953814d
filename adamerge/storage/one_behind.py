"""One call that runs while its caller prepares the next, such as a write to disk."""

from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeAlias

Work: TypeAlias = Callable[[], None]
"""What runs in a thread of its own."""


@contextmanager
def one_behind() -> Generator[Callable[[Work], None]]:
    """Make a function that starts a call in a thread, when the one before has ended.

    The next call and the end of the block wait for it, and raise what it raised.

    Example:
        >>> done = []
        >>> with one_behind() as behind:
        ...     for number in range(3):
        ...         behind(lambda number=number: done.append(number))
        >>> done
        [0, 1, 2]
    """
    running: list[Future[None]] = []

    def start(work: Work) -> None:
        if running:
            running.pop().result()
        running.append(thread.submit(work))

    with ThreadPoolExecutor(1) as thread:
        yield start
        if running:
            running.pop().result()
