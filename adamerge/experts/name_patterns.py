"""Patterns that select which parameters are merged."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from fnmatch import fnmatchcase


def several(names: Sequence[str], few: int = 3) -> str:
    """Join the first names and count the others.

    Example:
        >>> several(["a", "b", "c", "d", "e"])
        'a, b, c and 2 more'
    """
    more = f" and {len(names) - few} more" if len(names) > few else ""
    return ", ".join(names[:few]) + more


def listed(problems: Sequence[str], most: int = 10) -> list[str]:
    """List the first problems, and count the others.

    Example:
        >>> listed(["a", "b", "c"], most=2)
        ['a', 'b', '… and 1 more']
    """
    more = [f"… and {len(problems) - most} more"] if len(problems) > most else []
    return [*problems[:most], *more]


@dataclass(frozen=True)
class Split:
    """Patterns (`*` and `?` as in a shell) that override which parameters are merged; the first match counts.

    Attributes:
        head: Patterns of parameters that stay each expert's own.
        base: Patterns of parameters that are kept from the base.
        shared: Patterns of parameters that are merged although they look like a head.
    """

    head: Sequence[str] = ()
    base: Sequence[str] = ()
    shared: Sequence[str] = ()

    def word(self, name: str) -> str | None:
        """Return the list that matches a parameter's name (head, base, shared), or None.

        Example:
            >>> Split(head=["pooler.*"]).word("pooler.dense.weight")
            'head'
        """
        for word, patterns in self._lists():
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                return word
        return None

    def problems(self, names: Sequence[str]) -> list[str]:
        """List patterns that match no parameter, with the most similar names."""
        return [
            f"parameters.{word}: {pattern} matches no parameter. The most similar names are "
            f"{', '.join(_nearest(pattern, names))}. Correct or remove the pattern."
            for word, patterns in self._lists()
            for pattern in patterns
            if not any(fnmatchcase(name, pattern) for name in names)
        ]

    def _lists(self) -> tuple[tuple[str, Sequence[str]], ...]:
        return ("head", self.head), ("base", self.base), ("shared", self.shared)


def _nearest(pattern: str, names: Sequence[str], count: int = 3) -> list[str]:
    """Find the names most similar to a pattern, as a whole or in one of their parts."""
    word = pattern.strip("*?.")

    def likeness(name: str) -> float:
        return max(SequenceMatcher(None, word, part).ratio() for part in (name, *name.split(".")))

    return sorted(names, key=likeness, reverse=True)[:count]
