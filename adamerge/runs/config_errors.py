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
        others: Keys of the values that it does not go together with.
    """

    key: Key
    text: str
    others: tuple[Key, ...] = ()


@dataclass
class Findings:
    """Mistakes and notes on a configuration.

    Attributes:
        places: Place where each key was written.
        mistakes: Values that cannot be used.
        notes: Messages on values that are valid but written in the form of an earlier version.
        files: Names of the files that were read.
        allow_code: Whether classes outside `class_names.PACKAGES` may be imported.
        whole: Class of the whole configuration, to say where a key of one of its sections belongs.
    """

    places: Mapping[Key, Place] = field(default_factory=dict[Key, Place])
    mistakes: list[Mistake] = field(default_factory=list[Mistake])
    notes: list[str] = field(default_factory=list[str])
    files: Sequence[str] = ()
    allow_code: bool = False
    whole: type | None = None

    def refuse(self, key: Key, problem: str) -> None:
        """Add a mistake."""
        self.mistakes.append(Mistake(key, f"{self.where(key)}{problem}"))

    def refuse_together(self, keys: Sequence[Key], problem: str) -> None:
        """Add a mistake of settings that do not go together, at the one that was written last."""
        places = {key: self._exactly(key) for key in keys}
        last = max(keys, key=lambda key: self._rank(places[key]))
        others = [key for key in keys if key != last]
        named = [f"{dotted(key)} ({self.places[at].source})" for key in others if (at := places[key]) is not None]
        clash = f"does not go with {' and '.join(named or map(dotted, others[:1]))}: " if others else ""
        starts = (f"{dotted(key)}: " for key in keys)
        text = next((problem.removeprefix(start) for start in starts if problem.startswith(start)), problem)
        self.mistakes.append(Mistake(last, f"{self.where(places[last] or last)}{clash}{text}", tuple(others)))

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
            raise ConfigError(*dict.fromkeys(mistake.text for mistake in ordered))

    def _exactly(self, key: Key) -> Key | None:
        """Return the key that has a place: this one, or the first one below it; None if it was not written."""
        if key in self.places:
            return key
        return next((one for one in self.places if key in (one[: len(key)], _short(one)[: len(key)])), None)

    def _rank(self, key: Key | None) -> tuple[int, int, int]:
        """Order keys as they were written: the method's, those of files by line, those of options."""
        if key is None:
            return (0, 0, 0)
        line = self.places[key].line
        return (2 if line == 0 else 1, line, [*self.places].index(key))

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
