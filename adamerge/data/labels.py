"""Labels of rows → the model's class indices, by one rule per column."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, NoReturn, cast

from adamerge.data.settings import Encoding
from adamerge.data.tables import Table
from adamerge.data.words import folded
from adamerge.experts.model_kind import ModelKind
from adamerge.types import WARNING, Fact, placed

_DEFAULT_NAME = re.compile(r"LABEL_\d+")
"""transformers' names of classes that nobody named."""


def names_of(table: Table, kind: ModelKind, encoding: Encoding, outputs: int = 0) -> Mapping[int, str]:
    """Return the names of a model's classes by index: those of the encoding, or else those of id2label.

    Args:
        table: Names task and file in the error.
        kind: The kind of the model.
        encoding: Names of the classes, if the configuration has none.
        outputs: Number of logits of the model; 0 if unknown.

    Returns:
        The names; none if nobody gave any.

    Raises:
        ConfigError: They are not one for each of the model's logits, counted from 0, as pipelines look them up.
    """
    names = kind.class_names if encoding.classes is None else dict(enumerate(encoding.classes))
    count = outputs or kind.num_classes or len(names)
    if names and {*names} != {*range(count)}:
        found = ", ".join(f"{index} ({names[index]})" for index in sorted(names)[:8])
        raise table.error(
            f"expected in id2label of {kind.architecture} (config.json) a name for each of its {count} outputs, "
            f"numbered from 0 to {count - 1}, found {len(names)}: {found}{', …' if len(names) > 8 else ''}. Number "
            "the names in the order of the outputs."
        )
    return names


def labels_of(
    table: Table, kind: ModelKind, encoding: Encoding, outputs: int = 0
) -> tuple[list[int] | None, tuple[str, ...]]:
    """Read the labels of a classifier's rows if the encoding is labeled.

    Args:
        table: The rows.
        kind: The kind of their model.
        encoding: Whether labels are read, and names of the classes.
        outputs: Number of logits of the model; 0 if unknown.

    Returns:
        The model's class index of each row, or None; and notes for the user.

    Raises:
        ConfigError: As in `names_of` and `label_indices`.
    """
    if not encoding.labeled:
        return None, ()
    names = names_of(table, kind, encoding, outputs)
    labels, note = label_indices(table, names, outputs or kind.num_classes or len(names))
    place = f"{table.task}: {table.source.path}"
    said = placed(place, note)
    return labels, (said if said.startswith(WARNING) else Fact(said),)


def label_indices(table: Table, names: Mapping[int, str], count: int) -> tuple[list[int], str]:
    """Look up the model's class index of each row's label, by one rule for the whole column.

    The rule must hold for every row of the source, also for those that are not drawn.

    Either all labels are names of the model's classes (if not exactly, then without regard to case and spaces), or all
    are indices: integers, or texts of integers if no class has a number as its name. The sub-folders of a folder of
    images and the class names of a `datasets` column are looked up in the same way. If none of them is a name, the
    column's indices are used; for sub-folders only if the model's classes have no names of their own.

    Args:
        table: The rows, with a column of labels.
        names: Names of the model's classes by index.
        count: Number of the model's classes.

    Returns:
        The indices, and a note on how the labels are read.

    Raises:
        ConfigError: No rule fits all labels, or two fit and disagree; names the label and its row.
    """
    classes, own = _Classes(names, count), table.class_names(table.source.label)
    seen = _checked(table, classes, own)
    labels = list(seen.places)
    texts = [own[label] if own and isinstance(label, int) else str(label) for label in labels]
    named, indexed = classes.by_name(texts), classes.by_index(texts if own else labels)
    integers = not own and all(isinstance(label, int) for label in labels)
    if integers and named and indexed and named.indices != indexed.indices:
        raise table.error(
            f"{table.source.label!r} contains integers that are both names and indices of classes, which differ "
            f"({classes.shown()}). Write names as texts, for example in quotation marks in JSON."
        )
    found = named or indexed or _in_order(table, classes, seen, own)
    if found is None:
        _refuse(table, classes, dict(zip(texts if own else labels, seen.places.values(), strict=True)))
    indices = dict(zip(labels, found.indices, strict=True))
    drawn = cast(list[int | str], table.values(table.source.label))
    return [indices[label] for label in drawn], _note(table, classes, texts, found, seen.rows)


def by_spelling(names: Mapping[int, str], same: Callable[[str], str] = str) -> dict[str, list[int]]:
    """List the classes of each name; several if they have the same one.

    Args:
        names: Names of the classes by index.
        same: Gives what names are compared by.

    Example:
        >>> by_spelling({0: "Good", 1: "good", 2: "bad"}, str.lower)
        {'good': [0, 1], 'bad': [2]}
    """
    known: dict[str, list[int]] = {}
    for index, name in names.items():
        known.setdefault(same(name), []).append(index)
    return known


class _Seen(NamedTuple):
    """The different labels of a column.

    Attributes:
        places: Where each of them is first, in this order.
        rows: Number of rows.
    """

    places: dict[int | str, str]
    rows: int


class _Found(NamedTuple):
    """Indices of labels.

    Attributes:
        indices: The model's class index of each label.
        rule: How they were found.
    """

    indices: list[int]
    rule: str


@dataclass(frozen=True)
class _Classes:
    """Names of the model's classes by index, and their number."""

    names: Mapping[int, str]
    count: int

    def by_name(self, texts: Sequence[str]) -> _Found | None:
        """Look up texts by name; None if one is the name of no class, or of several."""
        for same, rule in ((str, "class names"), (folded, "class names, without regard to case and spaces")):
            known = by_spelling(self.names, same)
            found = [known.get(same(text), []) for text in texts]
            if all(len(indices) == 1 for indices in found):
                return _Found([indices[0] for indices in found], rule)
        return None

    def by_index(self, labels: Sequence[int | str]) -> _Found | None:
        """Use labels as indices; None if one is no index."""
        indices = [self.index(label) for label in labels]
        found = [index for index in indices if index is not None]
        return _Found(found, "indices of classes") if len(found) == len(indices) else None

    def index(self, label: int | str) -> int | None:
        """Return an integer that is an index, or a text of one if no name is a number; else None."""
        if isinstance(label, str) and any(_number(name) is not None for name in self.names.values()):
            return None
        number = _number(label) if isinstance(label, str) else label
        return number if number is not None and 0 <= number < self.count else None

    @property
    def unnamed(self) -> bool:
        """Whether nobody named the classes."""
        return all(_DEFAULT_NAME.fullmatch(name) for name in self.names.values())

    def shown(self) -> str:
        """List the first names."""
        return ", ".join(self.names[index] for index in sorted(self.names)[:8])


def _checked(table: Table, classes: _Classes, own: Sequence[str] | None) -> _Seen:
    """Read the labels of all rows of the source, each a text or an integer."""
    table.check_kept(table.source.label)
    places: dict[int | str, str] = {}
    wrong: list[str] = []
    count = missing = 0
    for place, label in table.whole(table.source.label):
        count += 1
        missing += label is None or label == ""
        if not _is_label(label, own):
            wrong += [] if wrong else [_unknown(place, label, classes)]
        else:
            places.setdefault(cast(int | str, label), place)
    if wrong:
        raise table.error(wrong[0] + (f" {missing} of {count} rows have no label." if missing else ""))
    return _Seen(places, count)


def _is_label(label: object, own: Sequence[str] | None) -> bool:
    if isinstance(label, bool) or not isinstance(label, int | str) or label == "":
        return False
    return not (own and isinstance(label, int)) or 0 <= label < len(own)


def _in_order(table: Table, classes: _Classes, seen: _Seen, own: Sequence[str] | None) -> _Found | None:
    """Use the order of a column's own classes, if none of them is one of the model's."""
    if not own:
        return None
    known = by_spelling(classes.names, str)
    numbers = {name: index for index, name in enumerate(own)}
    labels, places = list(seen.places), list(seen.places.values())
    indices = [label if isinstance(label, int) else numbers[label] for label in labels]
    unknown = [own[index] for index in dict.fromkeys(sorted(indices)) if own[index] not in known]
    folders = isinstance(labels[0], str)
    if any(name in known for name in own) or (folders and not (classes.unnamed and len(own) == classes.count)):
        raise table.error(
            f"{', '.join(map(repr, unknown[:8]))}: the model has no class of that name; its classes are "
            f"{classes.shown()}. Give the classes of {table.source.label!r} (the sub-folders of a folder of images) "
            "the model's names or indices."
        )
    outside = next((row for row, index in enumerate(indices) if index >= classes.count), None)
    if outside is not None:
        raise table.error(_unknown(places[outside], own[indices[outside]], classes))
    return _Found(indices, ", ".join(f"{name} = {index}" for index, name in enumerate(own[:8])))


def _refuse(table: Table, classes: _Classes, places: Mapping[int | str, str]) -> NoReturn:
    """Raise an error about the first label that breaks the rule; `places` has the place of each label."""
    known = by_spelling(classes.names, folded)
    named = {label: known.get(folded(str(label)), []) for label in places}
    for label, found in named.items():
        if len(found) > 1:
            raise table.error(
                f"{places[label]} has the label {label!r}, but several classes ({found}) have this name in "
                "id2label. Rename them in config.json, or write indices as labels."
            )
        if not found and classes.index(label) is None:
            raise table.error(_unknown(places[label], label, classes))
    odd = next(label for label, found in named.items() if not found)
    raise table.error(
        f"{places[odd]} has the label {odd!r}, an index, but other rows have class names "
        f"({classes.shown()}). Write names in all rows, or indices in all."
    )


def _note(table: Table, classes: _Classes, texts: Sequence[str], found: _Found, count: int) -> str:
    column = table.source.label
    drawn = "" if count == len(table) else f" (of all {count} rows, of which {len(table)} are drawn)"
    if "=" in found.rule:
        return (
            f"{WARNING}none of the classes of {column!r} is a class name of the model ({classes.shown()}), so their "
            f"order is used: {found.rule}{drawn}."
        )
    pairs = dict(sorted(zip(found.indices, texts, strict=True)))
    shown = ", ".join(
        f"{text} = {index}" if found.rule != "indices of classes" else f"{index} = {classes.names.get(index, '?')}"
        for index, text in list(pairs.items())[:8]
    )
    return f"labels in {column!r} are read as {found.rule}: {shown}{drawn}."


def _unknown(place: str, label: object, classes: _Classes) -> str:
    return (
        f"{place} has the label {label!r}, which is none of the expert's {classes.count} labels ({classes.shown()}). "
        "Labels are the names, or integers from 0: correct the label or remove the row."
    )


def _number(text: str) -> int | None:
    """Parse a text that is an integer as it is usually written; None if it is not one."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 and str(int(text)) == text else None
