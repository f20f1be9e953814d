"""Read YAML once: values, and the line and text of each key's value."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final, TypeAlias

import yaml

from adamerge.types import ConfigError

MERGE: Final = "tag:yaml.org,2002:merge"
"""Tag of the key `<<`, which adds the keys of other mappings and may be written twice."""

MOST: Final = 100_000
"""Largest number of values in a file, counted as if every alias were written out."""

Key: TypeAlias = tuple[str | int, ...]
"""Path of a value in nested settings: ("models", 0, "task")."""


@dataclass(frozen=True)
class Place:
    """Place where a value was written.

    Attributes:
        source: File and line, or the option of the command line.
        text: Text of a scalar value, since YAML reads 007 as a number and `on` as true.
    """

    source: str
    text: str | None = None

    @property
    def line(self) -> int:
        """Line in the file; 0 of an option."""
        number = self.source.rpartition(":")[2]
        return int(number) if number.isdecimal() else 0


@dataclass(frozen=True)
class Document:
    """Keys and values, with the place of each.

    Attributes:
        content: Keys and values.
        places: Place per key; keys without a place were written in Python.
        file: Name of the file; empty if there is none.
        repeated: Keys that are written twice in one mapping, with a message each.
    """

    content: dict[str, object] = field(default_factory=dict[str, object])
    places: dict[Key, Place] = field(default_factory=dict[Key, Place])
    file: str = ""
    repeated: tuple[tuple[Key, str], ...] = ()


class _Loader(yaml.SafeLoader):
    """Loader of YAML 1.1, except that 1e-3 is a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d[\d_]*(\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(text: str | bytes, name: str) -> Document:
    """Read keys and values of a file.

    Args:
        text: Content of the file.
        name: Name of the file in messages.

    Raises:
        ConfigError: The text is not YAML, or its top level has no keys.

    Example:
        >>> read_yaml("data: {rows: 1e2}", "merge.yaml").places["data", "rows"]
        Place(source='merge.yaml:1', text='1e2')
    """
    try:
        node = _node(text, name)
        repeated = tuple(_unite_repeated(node, (), name, set()))
        content = _value(node)
        places = list(islice(_places(node, (), name), MOST + 1))
    except RecursionError as error:
        raise ConfigError(f"{name}: an alias (*) refers to a value that contains it; write the value out.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: this is not YAML in UTF-8: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{name}: expected keys and values, such as base_model: …; see adamerge fit --help.")
    if len(places) > MOST:
        raise ConfigError(f"{name}: expected at most {MOST} values, found more; write out what aliases (*) repeat.")
    return Document({str(key): value for key, value in content.items()}, dict(places), name, repeated)


def read_yaml_file(file: Path) -> Document:
    """Read keys and values of a file; see `read_yaml`.

    Raises:
        ConfigError: There is no such file, or it cannot be used.
    """
    try:
        return read_yaml(file.read_bytes(), str(file))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ConfigError(f"{file}: there is no such file.") from error


def read_value(text: str, option: str) -> tuple[object, Place]:
    """Read a single value of the command line.

    Raises:
        ConfigError: It is not YAML.
    """
    try:
        return _value(_node(text, option)), Place(option, text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{option}: this is not a value in YAML: {text}") from error


def _node(text: str | bytes, name: str) -> yaml.Node | None:
    loader = _Loader(text.decode("utf-8") if isinstance(text, bytes) else text)
    loader.name = name
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def _value(node: yaml.Node | None) -> object:
    return None if node is None else _Loader("").construct_document(node)


def _unite_repeated(node: yaml.Node | None, key: Key, name: str, seen: set[int]) -> Iterator[tuple[Key, str]]:
    """Yield every key that is written twice in one mapping, and unite its values, so that all of them are checked."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        for word, message in _repeated(node, name):
            yield (*key, word), message
        for word, value in node.value:
            yield from _unite_repeated(value, (*key, word.value), name, seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _unite_repeated(value, (*key, index), name, seen)


def _repeated(node: yaml.MappingNode, name: str) -> Iterator[tuple[str, str]]:
    """Yield every repeated key of a mapping; unite two mappings under one key, else keep the last value."""
    kept: dict[object, tuple[yaml.Node, yaml.Node]] = {}
    for key, value in node.value:
        word = key.value if isinstance(key, yaml.ScalarNode) and key.tag != MERGE else id(key)
        if word not in kept:
            kept[word] = (key, value)
            continue
        first, former = kept[word]
        yield (
            str(word),
            f"{name}:{_line(key)}: the key {word} is written twice in one mapping, first in line {_line(first)}; "
            "remove one.",
        )
        if isinstance(former, yaml.MappingNode) and isinstance(value, yaml.MappingNode):
            former.value = [*former.value, *value.value]
        else:
            kept[word] = (key, value)
    node.value = list(kept.values())


def _places(node: yaml.Node | None, key: Key, name: str) -> Iterator[tuple[Key, Place]]:
    match node:
        case yaml.MappingNode():
            for word, value in node.value:
                yield (*key, word.value), Place(f"{name}:{_line(word)}", _spelling(value))
                yield from _places(value, (*key, word.value), name)
        case yaml.SequenceNode():
            for index, value in enumerate(node.value):
                yield (*key, index), Place(f"{name}:{_line(value)}", _spelling(value))
                yield from _places(value, (*key, index), name)
        case _:
            return


def _spelling(node: yaml.Node) -> str | None:
    return node.value if isinstance(node, yaml.ScalarNode) else None


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1
