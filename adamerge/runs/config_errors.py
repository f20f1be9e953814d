"""Collect every mistake of a configuration, each with the line where it was written."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from adamerge.runs.read_yaml import Key, Place
from adamerge.types import ConfigError


class Mistake(NamedTuple):
    """A value that cannot be used.

    Attributes:
        key: Key of the value.
        text: Message, including file and line.
    """

    key: Key
    text: str


@dataclass
class Findings:
    """Mistakes and notes on a configuration.

    Attributes:
        places: Place where each key was written.
        mistakes: Values that cannot be used.
        notes: Messages on values that are valid but written in the form of an earlier version.
        files: Names of the files that were read.
        allow_code: Whether classes outside `class_names.PACKAGES` may be imported.
    """

    places: Mapping[Key, Place] = field(default_factory=dict[Key, Place])
    mistakes: list[Mistake] = field(default_factory=list[Mistake])
    notes: list[str] = field(default_factory=list[str])
    files: Sequence[str] = ()
    allow_code: bool = False

    def refuse(self, key: Key, problem: str) -> None:
        """Add a mistake."""
        self.mistakes.append(Mistake(key, f"{self.where(key)}{problem}"))

    def where(self, key: Key) -> str:
        """Format the start of a message about a key: file, line and key, or the option.

        Example:
            >>> Findings({("data",): Place("merge.yaml:3")}).where(("data", "rows"))
            'merge.yaml:3: data.rows: '
        """
        written = self._written(key)
        source = self.places[written].source if written in self.places else ", ".join(self.files)
        shown = key
        if source.startswith("--"):
            option = source[2:].split(".")
            shown = (key if "init_args" in option else _short(key))[len(option) :]
        return "".join(f"{part}: " for part in (source, dotted(shown)) if part)

    def spelling(self, key: Key) -> str | None:
        """Return a value's text in YAML; None if it was not written in YAML."""
        place = self.places.get(key)
        return place.text if place else None

    def raise_mistakes(self) -> None:
        """Raise all mistakes as one error, in the order of the file; what has no place in it comes last.

        Raises:
            ConfigError: There is at least one mistake.
        """
        order = {key: (place.line, number) for number, (key, place) in enumerate(self.places.items())}
        last = (max((line for line, _ in order.values()), default=0) + 1, 0)
        ordered = sorted(self.mistakes, key=lambda mistake: order.get(self._written(mistake.key), last))
        if ordered:
            raise ConfigError("\n".join(dict.fromkeys(mistake.text for mistake in ordered)))

    def _written(self, key: Key) -> Key:
        """Return the key, or the innermost section around it, that has a place."""
        near = (part for end in range(len(key), 0, -1) for part in (key[:end], _short(key[:end])))
        return next((part for part in near if part in self.places), ())


def dotted(key: Iterable[str | int]) -> str:
    """Join a key's parts by dots, as on the command line."""
    return ".".join(str(part) for part in key)


def _short(key: Key) -> Key:
    """Shorten the key of a class's option: optimizer.lr for optimizer.init_args.lr."""
    return tuple(part for part in key if part not in ("class_path", "init_args"))
