"""What the processes of one session make once, and the others wait for."""

import fcntl
from collections.abc import Callable
from pathlib import Path

PLACE: list[Path] = []
"""The folder of all processes; empty where no session has named one."""


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """A folder in the common one that the first process to ask for it makes; the others wait for it."""
    (root,) = PLACE
    done, folder = root / f"{name}.done", root / name
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            make(folder)
            done.touch()
    return folder
