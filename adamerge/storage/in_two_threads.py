"""Work of many parts, two at a time: one computes while the other waits for a disk."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock

import torch

from adamerge.storage.signals import unhurried


def in_two_threads(parts: Iterable[Callable[[], None]]) -> None:
    """Call all parts, begun in their order, two at a time; each thread has half of the threads that torch may use.

    After an error, which is raised, nothing new is begun, and what runs is waited for; signals wait for that too, as it
    writes to files.

    Example:
        >>> done = []
        >>> in_two_threads(lambda number=number: done.append(number) for number in range(4))
        >>> sorted(done)
        [0, 1, 2, 3]
    """
    left, taking, stop = iter(parts), Lock(), Event()

    def take() -> Callable[[], None] | None:
        with taking:
            return None if stop.is_set() else next(left, None)

    def work() -> None:
        try:
            while part := take():
                part()
        except BaseException:
            stop.set()
            raise

    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(max(1, threads // 2),))
    try:
        with unhurried():  # the pool does not know a thread in whose start it is interrupted
            running = [pool.submit(work), pool.submit(work)]
        for one in running:
            one.result()
    finally:
        stop.set()
        with unhurried():
            pool.shutdown()
            torch.set_num_threads(threads)  # of libraries in which the last call counts for all threads
