"""Try a call in a child process of limited time and memory: what files of others make of a row may have no bound."""

import faulthandler
import os
import resource
import signal
import warnings
from collections.abc import Callable
from pathlib import Path

_KILOBYTE = 1024

_FAILED = 1
"""Exit code of a child whose call raised MemoryError."""

_KILLED = (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGKILL)
"""Exit codes of a child that ended without memory in code that is not Python, or was ended by the system."""


def beyond_limits(call: Callable[[], object], seconds: int, memory: int) -> str:
    """Say which limit a call goes beyond; empty if it goes beyond none.

    The child shares nothing that it changes with this process, prints nothing, and ends at the limit. What else the
    call raises is not reported: this process makes the call again.

    Args:
        call: Called without arguments; its result is dropped.
        seconds: Processor time that it may take.
        memory: Bytes that it may take beside what this process has.

    Returns:
        The limit in words: "10 s", or "1 GB of memory".

    Example:
        >>> beyond_limits(lambda: "x" * 2**31, 10, 2**30), beyond_limits(lambda: int("a"), 10, 2**30)
        ('1 GB of memory', '')
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # other threads wait, and hold nothing of its
        child = os.fork()
    if not child:
        _call_and_exit(call, seconds, memory)
    status = None
    try:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        if status is None:  # interrupted
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    if status == -signal.SIGXCPU:
        return f"{seconds} s"
    return f"{memory / 2**30:.2g} GB of memory" if status in (_FAILED, *_KILLED) else ""


def _call_and_exit(call: Callable[[], object], seconds: int, memory: int) -> None:
    """Make the call under limits in this process, which then ends."""
    code = 0
    try:
        faulthandler.disable()
        null = os.open(os.devnull, os.O_WRONLY)
        for standard in (1, 2):
            os.dup2(null, standard)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        _limit(resource.RLIMIT_CORE, 0)
        _limit(resource.RLIMIT_CPU, seconds)
        _limit(resource.RLIMIT_AS, _address_space() + memory)
        call()
    except MemoryError:
        code = _FAILED
    except BaseException:  # the parent makes the call again, and reports it
        code = 0
    finally:
        os._exit(code)


def _limit(kind: int, size: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))


def _address_space() -> int:
    """Return the bytes of this process's address space."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * _KILOBYTE for line in lines if line.startswith("VmSize:"))
