"""Read YAML once: values, and the line and text of each key's value."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias, cast

import yaml

from adamerge.runs.yaml_loader import Fast, Loader
from adamerge.runs.yaml_size import check_size, line
from adamerge.storage.regular_files import read_whole
from adamerge.types import ConfigError, quoted

MERGE: Final = "tag:yaml.org,2002:merge"
"""Tag of the key `<<`, which adds the keys of other mappings and may be written twice."""

_TEXT: Final = ("tag:yaml.org,2002:str", MERGE)
"""Tags of keys."""

_OTHERWISE: Final = frozenset("\t!?|>\ufeff")
"""Characters that libyaml reads otherwise: it takes tabs after a value, and comments that touch | and >."""

LARGEST: Final = 10**7
"""Largest size of a file in bytes."""

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


def read_yaml(text: str | bytes, name: str) -> Document:
    """Read keys and values of a file.

    Args:
        text: Content of the file.
        name: Name of the file in messages.

    Raises:
        ConfigError: The text is not YAML in UTF-8, or its top level has no keys.

    Example:
        >>> read_yaml("data: {rows: 1e2}", "merge.yaml").places["data", "rows"]
        Place(source='merge.yaml:1', text='1e2')
    """
    try:
        node = _node(text, name)
        repeated = (*_no_texts(node, (), name), *_unite_repeated(node, (), name))
        content = _value(node)
        places = dict(_places(node, (), name))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(_refused(name, error)) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{name}: expected keys and values, such as base_model: …; see adamerge fit --help.")
    return Document({str(key): value for key, value in content.items()}, places, name, repeated)


def read_yaml_file(file: Path) -> Document:
    """Read keys and values of a file; see `read_yaml`.

    Raises:
        ConfigError: There is no such file, or it cannot be used.
    """
    return read_yaml(read_whole(file, LARGEST), str(file))


def read_value(text: str, option: str) -> tuple[object, Place]:
    """Read a single value of the command line.

    Raises:
        ConfigError: It is not YAML.
    """
    try:
        return _value(_node(text, option)), Place(option, text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{option}: invalid YAML: {quoted(text)}") from error


def _refused(name: str, error: yaml.YAMLError | UnicodeDecodeError) -> str:
    """Describe in one line what is wrong with YAML, and where."""
    if isinstance(error, UnicodeDecodeError):
        last = error.object.count(b"\n", 0, error.start) + 1
        return f"{name}:{last}: expected text in UTF-8: {error.reason}. Save the file as UTF-8."
    mark = getattr(error, "problem_mark", None)
    place, column = (f"{name}:{mark.line + 1}", f" (column {mark.column + 1})") if mark is not None else (name, "")
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    return f"{place}: invalid YAML: {problem}{column}."


def _node(text: str | bytes, name: str) -> yaml.Node | None:
    text = text.decode("utf-8") if isinstance(text, bytes) else text
    if _OTHERWISE.isdisjoint(text):
        with suppress(yaml.YAMLError, UnicodeEncodeError):  # its words are others: the slow one says what is wrong
            return _composed(text, name, cast(type[Loader], Fast))
    return _composed(text, name, Loader)


def _composed(text: str, name: str, cls: type[Loader]) -> yaml.Node | None:
    check_size(yaml.parse(text, cls), name)
    loader = cls(text)
    loader.name = name
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def _value(node: yaml.Node | None) -> object:
    return None if node is None else Loader("").construct_document(node)


def _no_texts(node: yaml.Node | None, key: Key, name: str) -> Iterator[tuple[Key, str]]:
    """Yield every key that is no text, and remove it."""
    if isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _no_texts(value, (*key, index), name)
    elif isinstance(node, yaml.MappingNode):
        for word, _ in node.value:
            if word.tag not in _TEXT:
                yield (
                    key,
                    (
                        f"{name}:{line(word)}: expected a text as key, found {_described(word)}; write it in "
                        "quotation marks if it is a name."
                    ),
                )
        node.value = [(word, value) for word, value in node.value if word.tag in _TEXT]
        for word, value in node.value:
            yield from _no_texts(value, (*key, word.value), name)


def _described(node: yaml.Node) -> str:
    kind = node.tag.rpartition(":")[2]
    return f"{quoted(node.value)}, which YAML reads as {kind}" if isinstance(node, yaml.ScalarNode) else f"a {kind}"


def _unite_repeated(node: yaml.Node | None, key: Key, name: str) -> Iterator[tuple[Key, str]]:
    """Yield every key that is written twice in one mapping, and unite its values, so that all of them are checked."""
    if isinstance(node, yaml.MappingNode):
        for word, message in _repeated(node, name):
            yield (*key, word), message
        for word, value in node.value:
            yield from _unite_repeated(value, (*key, word.value), name)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _unite_repeated(value, (*key, index), name)


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
            f"{name}:{line(key)}: the key {word} is written twice in one mapping, first in line {line(first)}; "
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
                yield (*key, word.value), Place(f"{name}:{line(word)}", _spelling(value))
                yield from _places(value, (*key, word.value), name)
        case yaml.SequenceNode():
            for index, value in enumerate(node.value):
                yield (*key, index), Place(f"{name}:{line(value)}", _spelling(value))
                yield from _places(value, (*key, index), name)
        case _:
            return


def _spelling(node: yaml.Node) -> str | None:
    return node.value if isinstance(node, yaml.ScalarNode) else None
