"""Read YAML once: values, and the line and text of each key's value."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import yaml
from typing_extensions import override

from adamerge.types import ConfigError

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


@dataclass(frozen=True)
class Document:
    """Keys and values, with the place of each.

    Attributes:
        content: Keys and values.
        places: Place per key; keys without a place were written in Python.
    """

    content: dict[str, object] = field(default_factory=dict[str, object])
    places: dict[Key, Place] = field(default_factory=dict[Key, Place])


class _Loader(yaml.SafeLoader):
    """Loader of YAML 1.1, except that 1e-3 is a number and a repeated key in a mapping is an error."""

    @override
    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuse repeated keys, before `<<` adds the keys of other mappings."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if key.value in lines and key.tag != "tag:yaml.org,2002:merge":
                raise ConfigError(
                    f"{self.name}:{_line(key)}: the key {key.value} is written twice in one mapping, first in line "
                    f"{lines[key.value]}; remove one."
                )
            lines[str(key.value)] = _line(key)
        super().flatten_mapping(node)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d[\d_]*(\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(text: str | bytes, name: str) -> Document:
    """Read keys and values of a file.

    Args:
        text: Content of the file.
        name: Name of the file in messages.

    Raises:
        ConfigError: The text is not YAML, its top level has no keys, or a key is repeated.

    Example:
        >>> read_yaml("data: {rows: 1e2}", "merge.yaml").places["data", "rows"]
        Place(source='merge.yaml:1', text='1e2')
    """
    try:
        content, node = _load(text, name)
        places = dict(_places(node, (), name))
    except RecursionError as error:
        raise ConfigError(f"{name}: an alias (*) refers to a value that contains it; write the value out.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: this is not YAML in UTF-8: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{name}: expected keys and values, such as base_model: …; see adamerge fit --help.")
    return Document(content, places)


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
        return _load(text, option)[0], Place(option, text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{option}: this is not a value in YAML: {text}") from error


def _load(text: str | bytes, name: str) -> tuple[object, yaml.Node | None]:
    loader = _Loader(text.decode("utf-8") if isinstance(text, bytes) else text)
    loader.name = name
    try:
        node = loader.get_single_node()
        return (None if node is None else loader.construct_document(node)), node
    finally:
        loader.dispose()


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
