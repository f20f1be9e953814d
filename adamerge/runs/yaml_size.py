"""Size of a YAML file, judged before anything is built of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import yaml

from adamerge.types import ConfigError

MOST: Final = 10_000
"""Largest number of keys and values in a file, counted as if every alias were written out."""

DEEPEST: Final = 64
"""Largest number of levels in a file, counted as if every alias were written out."""


def line(node: yaml.Node | yaml.Event) -> int:
    """Return the line at which a value begins, counted from 1."""
    return node.start_mark.line + 1


@dataclass
class _Open:
    """A mapping or list whose end has not been read.

    Attributes:
        anchor: Name that aliases may give it.
        size: Number of its keys and values so far, with those of aliases.
        height: Number of levels in it so far, with those of aliases.
    """

    anchor: str | None
    size: int = 1
    height: int = 1


def check_size(events: Iterable[yaml.Event], name: str) -> None:
    """Refuse a second document, too many values or levels and endless aliases, before anything is built of them.

    Raises:
        ConfigError: Names the line.
    """
    around = [_Open(None)]
    known: dict[str | None, tuple[int, int]] = {}
    total = documents = 0
    for event in events:
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            around.append(_Open(event.anchor))
            size, height = 1, 0
        elif isinstance(event, yaml.AliasEvent):
            if any(one.anchor == event.anchor for one in around):
                raise ConfigError(
                    f"{name}:{line(event)}: the alias *{event.anchor} refers to a value that contains it; write the "
                    "value out."
                )
            size, height = known.get(event.anchor, (1, 0))
        elif isinstance(event, yaml.ScalarEvent):
            size, height = 1, 0
            known |= {event.anchor: (1, 0)} if event.anchor else {}
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            closed = around.pop()
            size, height = 0, closed.height
            around[-1].size += closed.size
            known |= {closed.anchor: (closed.size, closed.height)} if closed.anchor else {}
        else:
            documents += isinstance(event, yaml.DocumentStartEvent)
            if documents > 1:
                raise ConfigError(
                    f"{name}:{line(event)}: expected one document, found another one. Remove the line with --- if both "
                    "belong together, or keep each in a file of its own."
                )
            continue
        total += size
        around[-1].size += size if not isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent) else 0
        around[-1].height = max(around[-1].height, height + 1)
        if total > MOST:
            raise ConfigError(
                f"{name}:{line(event)}: expected at most {MOST} keys and values, found more; write out what aliases "
                "(*) repeat, and keep data in files of their own."
            )
        if len(around) - 1 + height > DEEPEST:
            raise ConfigError(f"{name}:{line(event)}: expected at most {DEEPEST} levels, found more.")
