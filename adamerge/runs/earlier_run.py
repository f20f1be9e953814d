"""Start from the coefficients of an earlier run, as a value of the key `init`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from adamerge.runs.run_directory import RunDirectory
from adamerge.storage.digest import digest_of_path
from adamerge.storage.file_names import at_home


@dataclass(frozen=True)
class EarlierRun:
    """An earlier run; a path as `init:` means this.

    Attributes:
        path: Its run directory.
    """

    IN_WORDS: ClassVar[str] = "the directory of an earlier run"

    path: str

    def hashed(self) -> dict[str, object]:
        """Return the run's directory, and SHA-256 of what is taken from it: coefficients, and the race for a centre."""
        run = RunDirectory(Path(self.path))
        files = [file for file in (run.coefficients, run.race) if file.is_file()]
        return {"source": self.path, "sha256": {file.name: digest_of_path(file) for file in files}}


def is_place(value: object) -> bool:
    """Return whether a value where words may stand too is a path: it has a slash, or is a directory here.

    Example:
        >>> is_place("runs/first"), is_place("average"), is_place(0.3)
        (True, False, False)
    """
    if not isinstance(value, str | Path):
        return False
    return isinstance(value, Path) or "/" in value or os.path.isdir(at_home(value))  # takes texts that are too long
