"""Which parameters are merged, as patterns say."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Split:
    """Patterns (`*` and `?` as in a shell) that overrule which parameters are merged; the first that matches counts.

    Attributes:
        head: Stay each expert's own.
        base: Stay the base's.
        shared: Are merged, though they would pass for a head.
    """

    head: Sequence[str] = ()
    base: Sequence[str] = ()
    shared: Sequence[str] = ()

    def word(self, name: str) -> str | None:
        """Which of the three lists a parameter's name is on, if on any."""
        for word, patterns in self._lists():
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                return word
        return None

    def problems(self, names: Sequence[str]) -> list[str]:
        """Patterns that match none of the parameters' names, with those that were probably meant."""
        return [
            f"parameters.{word}: {pattern} matches no parameter. Near it are {', '.join(_nearest(pattern, names))}."
            for word, patterns in self._lists()
            for pattern in patterns
            if not any(fnmatchcase(name, pattern) for name in names)
        ]

    def _lists(self) -> tuple[tuple[str, Sequence[str]], ...]:
        return ("head", self.head), ("base", self.base), ("shared", self.shared)


def _nearest(pattern: str, names: Sequence[str], count: int = 3) -> list[str]:
    """Names that resemble a pattern the most, as a whole or in one of their parts."""
    word = pattern.strip("*?.")

    def likeness(name: str) -> float:
        return max(SequenceMatcher(None, word, part).ratio() for part in (name, *name.split(".")))

    return sorted(names, key=likeness, reverse=True)[:count]
