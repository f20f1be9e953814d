"""Type aliases and the two errors of the package.

Letters in shape comments have one meaning everywhere: K experts, G groups, B rows of a batch, S positions, C classes
(or tokens of a vocabulary), D hidden channels, R rows of a parameter, M its columns, N = R·M its elements.
"""

import types
from collections.abc import Mapping, Sequence
from dataclasses import fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from torch import Tensor

    Coefficients: TypeAlias = Tensor
    """float, (G, K): factor of each expert's task vector per group of parameters."""

    Parameters: TypeAlias = Mapping[str, Tensor]
    """Parameters or gradients per parameter name in the module."""

else:

    def __getattr__(name: str) -> object:
        """Import torch when an alias of tensors is first used: commands read their words without it."""
        if name not in ("Coefficients", "Parameters"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from torch import Tensor

        return Tensor if name == "Coefficients" else Mapping[str, Tensor]


class Fact(str):
    """A line for the user on how something is read, which is printed but no reason for a warning."""


LARGEST = 1e6
"""Size of the largest coefficient at the start, or bound of coefficients; losses of larger ones overflow."""

SMALLEST_TEMPERATURE = 1e-30
"""Smallest number that logits in fp32 are divided by; of smaller ones the quotients are infinite."""

WARNING = "warning: "
"""Beginning of a line that warns."""


def placed(place: str, note: str) -> str:
    """Put a place before a note; a warning stays one.

    Example:
        >>> placed("mood: rows.tsv", "2 rows."), placed("mood: rows.tsv", "warning: 2 rows.")
        ('mood: rows.tsv: 2 rows.', 'warning: mood: rows.tsv: 2 rows.')
    """
    begin = WARNING if note.startswith(WARNING) else ""
    return f"{begin}{place}: {note.removeprefix(begin)}"


LONGEST = 1000
"""Number of characters of a line of an error's message; the middle of a longer line is left out."""


def quoted(value: object, most: int = 80) -> str:
    """Quote a value in a message as files have it (null, true), cut to a few characters.

    Example:
        >>> quoted("abc"), quoted("x" * 100, 8), quoted(None)
        ("'abc'", "'xxxxxxxx'… (100 characters)", 'null')
    """
    if isinstance(value, str):
        return repr(value) if len(value) <= most else f"{value[:most]!r}… ({len(value)} characters)"
    shown = str(value).lower() if isinstance(value, bool) else "null" if value is None else repr(value)
    return shown if len(shown) <= most else f"{shown[:most]}… ({len(shown)} characters)"


def shortened(message: str) -> str:
    """Leave out the middle of every line that is longer than `LONGEST`, and spell control characters out.

    Example:
        >>> len(shortened("x" * 100_000)) < 1100
        True
    """
    lines = (line if len(line) <= LONGEST else _without_middle(line) for line in message.split("\n"))
    return "\n".join("".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in line) for line in lines)


def _without_middle(line: str) -> str:
    end = LONGEST // 3
    start = LONGEST - end
    return f"{line[:start]} … ({len(line) - LONGEST} characters are left out) … {line[-end:]}"


class _ShortError(ValueError):
    """An error for the user: one problem or several, whose lines are short enough to be read.

    Attributes:
        problems: What is wrong, one message per problem; a message may have several lines.
    """

    problems: tuple[str, ...]

    def __init__(self, *problems: str) -> None:
        self.problems = tuple(dict.fromkeys(map(shortened, problems)))
        super().__init__("\n".join(self.problems))


class ConfigError(_ShortError):
    """A key, path, value or combination of values that the user wrote cannot be used.

    Example:
        >>> from adamerge import Box
        >>> Box(lower=1.0, upper=0.0)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        adamerge.types.ConfigError: ...
    """


class IncompatibleExpertsError(_ShortError):
    """Base and experts are not checkpoints of one architecture, or a checkpoint cannot be read.

    Example:
        >>> from torch.nn import Linear
        >>> from adamerge import Merge
        >>> Merge(Linear(2, 2), {"wide": Linear(2, 3)}, method="average").learn()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        adamerge.types.IncompatibleExpertsError: ...
    """


def check_types(options: "DataclassInstance") -> None:
    """Refuse options of a dataclass that have another type than its fields; called before their values are compared.

    Args:
        options: The instance.

    Raises:
        ConfigError: Names the first such option, its type and what was found.

    Example:
        >>> from adamerge import Box
        >>> Box(upper="1")
        Traceback (most recent call last):
        adamerge.types.ConfigError: Box.upper: expected a number, found '1' (str).
    """
    hints = get_type_hints(type(options))
    for field in fields(options):
        value = getattr(options, field.name)
        if not _fits(value, hints[field.name]):
            expected, found = in_words(hints[field.name]), type(value).__name__
            raise ConfigError(
                f"{type(options).__name__}.{field.name}: expected {expected}, found {quoted(str(value))} ({found})."
            )


_KINDS: Mapping[object, tuple[type, str]] = {
    float: (Real, "a number"),
    int: (Integral, "a whole number"),
    bool: (bool, "true or false"),
    str: (str, "a text"),
    type(None): (type(None), "None"),
}
"""Accepted type and words per type of a field; a bool is no number."""


def _fits(value: object, hint: object) -> bool:
    """Return whether a value has the type of a field."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if kind is Literal:
        return any(type(value) is type(word) and value == word for word in inner)
    if kind in _KINDS:
        return isinstance(value, _KINDS[kind][0]) and (kind is bool or not isinstance(value, bool))
    if kind in (list, tuple, Sequence):
        sized = isinstance(value, list | tuple)
        return sized and all(_fits(item, inner[0]) for item in value)  # pyright: ignore[reportUnknownVariableType]
    return not isinstance(kind, type) or isinstance(value, kind)


def in_words(hint: object) -> str:
    """Describe the type of a field.

    Example:
        >>> in_words(float | None), in_words(Literal["kl", "mse"]), in_words(list[int])
        ('a number or None', 'kl or mse', 'a list of whole numbers')
    """
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, types.UnionType):
        return " or ".join(in_words(one) for one in inner)
    if kind is Literal:
        return " or ".join(str(word) for word in inner)
    if kind in (list, tuple, Sequence):
        return f"a list of {in_words(inner[0]).removeprefix('a ')}s"
    return _KINDS[kind][1] if kind in _KINDS else f"a {getattr(kind, '__name__', kind)}"
