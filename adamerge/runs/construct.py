"""Construct objects from their options, and find every option whose value their class refuses."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from adamerge.runs.type_hints import Option, alternatives, words
from adamerge.storage.regular_files import first_line
from adamerge.types import ConfigError, quoted

INVALID: Final = object()
"""Placeholder for a value that could not be built."""


class Fault(NamedTuple):
    """What a class says when it refuses its options.

    Attributes:
        text: Its message.
        own: Whether the message is one of this package.
    """

    text: str
    own: bool


class Refusal(NamedTuple):
    """What a class refuses.

    Attributes:
        name: Option with the refused value; None if no single option is to blame.
        problem: Message without the name of the option.
    """

    name: str | None
    problem: str


@dataclass(frozen=True)
class Options:
    """Values of a class's options.

    Attributes:
        values: Values by name; INVALID where a required option has no usable value.
        dropped: Options that were written, but whose values cannot be used.
    """

    values: Mapping[str, object]
    dropped: frozenset[str] = frozenset()

    @property
    def complete(self) -> bool:
        """Whether every value that was written is used."""
        return not self.dropped

    def without(self, name: str, required: bool) -> "Options":
        """Drop an option: it gets its default, or INVALID if it is required."""
        left = {other: value for other, value in self.values.items() if other != name}
        return replace(self, values=left | ({name: INVALID} if required else {}), dropped=self.dropped | {name})


def usable(known: Mapping[str, Option], built: Mapping[str, object]) -> Options:
    """Collect the options of a class that have a usable value.

    Args:
        known: Options of the class.
        built: Values of the options that were written; INVALID after a mistake.
    """
    required = {name: INVALID for name, option in known.items() if option.required}
    values = {name: value for name, value in built.items() if value is not INVALID}
    unusable = {name for name in (*required, *built) if name not in values}
    return Options(required | values, frozenset(unusable))


def refusals(
    make: Callable[..., object], known: Mapping[str, Option], options: Options, of: str = "the class"
) -> Iterator[Refusal]:
    """Yield every value that a class refuses: find the options to blame by trial, drop them, and try again.

    A refusal counts if no value that was tried of an option that was dropped before cures it.

    Args:
        make: Class, or function that calls it.
        known: Options of the class.
        options: Their values.
        of: Name of the class in messages.

    Example:
        >>> from adamerge.objectives import Entropy
        >>> known = {"temperature": Option(float, required=False)}
        >>> list(refusals(Entropy, known, Options({"temperature": 0.0})))
        [Refusal(name='temperature', problem='expected a finite number above 0, found 0.0.')]
    """
    fault = refused(make, options)
    if fault is None:
        return
    found = _named(fault, options.values) if fault.own else None
    names = [found.name] if found and found.name else _responsible(make, known, options, fault)
    if not names or options.values[names[0]] is INVALID:
        if options.complete:
            yield found or Refusal(None, _in_template(fault, known, options, names, of))
        return
    if options.complete or not _curable(make, known, options, names[0]):
        yield found or Refusal(names[0], _in_template(fault, known, options, names, of))
    yield from refusals(make, known, options.without(names[0], known[names[0]].required), of)


def refused(make: Callable[..., object], options: Options) -> Fault | None:
    """Return what a class says when it refuses its options; None if it accepts them."""
    try:
        with warnings.catch_warnings(action="ignore"):
            make(**options.values)
    except ValueError as error:
        return Fault(str(error), own=isinstance(error, ConfigError))
    except LookupError as error:
        return Fault(words_of(error), own=False)
    except Exception as error:  # other libraries raise anything; perhaps on INVALID
        unsure = not options.complete and any(value is INVALID for value in options.values.values())
        return None if unsure else Fault(words_of(error), own=False)
    return None


def words_of(error: Exception) -> str:
    """Return the first line of an error's message, or its name; that of a KeyError without its quotation marks."""
    said = ValueError(error.args[0]) if isinstance(error, KeyError) and error.args else error
    return first_line(said) or type(error).__name__


def _named(fault: Fault, names: Mapping[str, object]) -> Refusal | None:
    """Split a message that begins with the name of an option, such as `data.rows: expected …` or `a: rows: …`."""
    parts = fault.text.split(": ")
    for end, part in enumerate(parts[:2], start=1):
        name = part.rpartition(".")[2]
        if name in names and end < len(parts):
            return Refusal(name, ": ".join(parts[end:]))
    return None


def _responsible(
    make: Callable[..., object], known: Mapping[str, Option], options: Options, fault: Fault
) -> Sequence[str]:
    """Find the options to blame, each of which was tried at its default.

    Name the options without which the class accepts the rest. With several faults, name one that is refused alone just
    as with the others, else those whose default changes what the class says. A required option has no default, so it
    is tried last.
    """
    written = [name for name, value in options.values.items() if value is not INVALID]
    for names in ([n for n in written if not known[n].required], [n for n in written if known[n].required]):
        tried = {name: refused(make, options.without(name, known[name].required)) for name in names}
        cures = [name for name, left in tried.items() if left is None]
        changing = [name for name, left in tried.items() if left != fault]
        alone = [name for name in changing if refused(make, _alone(name, known, options)) == fault]
        if cures or changing:
            return cures or alone or changing
    return []


def _alone(name: str, known: Mapping[str, Option], options: Options) -> Options:
    """Keep one option and those that are required."""
    return Options({own: value for own, value in options.values.items() if own == name or known[own].required})


def _curable(make: Callable[..., object], known: Mapping[str, Option], options: Options, name: str) -> bool:
    """Return whether a class would accept an option if a dropped one had one of its words, or some plain value."""
    alone = _alone(name, known, options).values
    trials = (
        Options({**alone, other: value})
        for other in options.dropped
        for value in (*words(alternatives(known[other].hint)), 0.0, 0.5, 1, 2.0, True)
    )
    return any(refused(make, trial) is None for trial in trials)


def _in_template(fault: Fault, known: Mapping[str, Option], options: Options, names: Sequence[str], of: str) -> str:
    """Say what was found and what to do, around the words of a class of another library."""
    if fault.own:
        return fault.text
    says = f"{of} says: {fault.text.rstrip('.')}"
    if not names:
        return f"expected options that {of} accepts, found others; {says}. Correct them."
    found = quoted(options.values[names[0]])
    beside = "".join(f", beside {name}: {quoted(options.values[name])}" for name in names[1:])
    optional = "" if known[names[0]].required else ", or leave it out to use the default"
    return f"expected a value that {of} accepts, found {found}{beside}; {says}. Correct it{optional}."
