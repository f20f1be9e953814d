"""Memory: what this machine has free, within the limits of its containers, what this process takes; giving it back."""

import ctypes
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

_LIMIT_AND_USE = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
"""Files of a control group, versions 2 and 1."""


def free_memory(root: Path = Path("/")) -> int:
    """Return the free memory in bytes: the machine's, or less if a control group (a container) has a limit.

    The page cache counts as free: memory-mapped checkpoints fill it, and the kernel frees it on demand.

    Args:
        root: Folder of `proc` and `sys`.

    Example:
        >>> free_memory() > 0
        True
    """
    return max(0, min((_of_machine(root), *_of_groups(root))))


def anonymous_memory(root: Path = Path("/")) -> int:
    """Return the bytes that this process has in memory apart from mapped files; 0 where the system does not say.

    Args:
        root: Folder of `proc`.

    Example:
        >>> anonymous_memory() >= 0
        True
    """
    return 1024 * _numbers(root / "proc/self/status").get("RssAnon:", 0)


def read_from_disk(root: Path = Path("/")) -> int:
    """Return the bytes that the system has read from a disk for this process; 0 where it does not say.

    Pages of mapped files count when they are read; what the page cache had does not.

    Args:
        root: Folder of `proc`.

    Example:
        >>> read_from_disk() >= 0
        True
    """
    return _numbers(root / "proc/self/io").get("read_bytes:", 0)


SLACK = 2**28
"""Bytes by which the process may grow before freed memory is given back: what is used again at once costs no faults."""


def give_back(slack: int = SLACK) -> None:
    """Give the memory of freed tensors back to the system, if the process has grown since it last did.

    glibc keeps freed pieces below 32 MiB. Where smaller ones live on among them, a block of a model that is made after
    another one was freed does not fit into the holes, and takes new memory.

    Args:
        slack: Bytes by which it may grow.

    Example:
        >>> give_back()
    """
    _heap().give_back(slack)


@cache
def _heap() -> "_Heap":
    return _Heap()


class _Heap:
    """What this process's C library keeps, and how much memory there was when it last gave back."""

    def __init__(self) -> None:
        self._trim, self._then = _trim(), 0

    def give_back(self, slack: int) -> None:
        now = anonymous_memory()
        if self._trim is not None and now > self._then + slack:
            self._trim(0)
            self._then = anonymous_memory()
        self._then = min(self._then, now)


def _trim() -> Callable[[int], int] | None:
    """Find glibc's function for it; other C libraries have none."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None


def _of_machine(root: Path) -> int:
    kilobytes = _numbers(root / "proc/meminfo").get("MemAvailable:")
    return 1024 * kilobytes if kilobytes else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _of_groups(root: Path) -> Iterator[int]:
    """Yield the free memory of each control group of this process that has a limit."""
    try:
        groups = (root / "proc/self/cgroup").read_text()
    except OSError:  # not Linux
        return
    for _, controllers, path in (line.split(":", 2) for line in groups.splitlines()):
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        own = top / path.lstrip("/")
        if not controllers or "memory" in controllers.split(","):
            for group in (own, *own.parents):
                if group.is_relative_to(top):
                    yield from _left(group)


def _left(group: Path) -> Iterator[int]:
    for limit, use in _LIMIT_AND_USE:
        try:
            most, used = int((group / limit).read_text()), int((group / use).read_text())
        except (OSError, ValueError):  # there is no such file, or its content is "max"
            continue
        cache = _numbers(group / "memory.stat")
        prefix = "total_" if "total_inactive_file" in cache else ""  # version 1 counts groups inside apart
        yield most - used + sum(cache.get(f"{prefix}{kind}_file", 0) for kind in ("active", "inactive"))


def _numbers(file: Path) -> dict[str, int]:
    """Read lines of a name and a number; empty if there is no such file."""
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdigit()}
