"""Labels of evaluation rows → the model's own indices, by name wherever there are names."""

from collections.abc import Mapping, Sequence

from adamerge.data.settings import Encoding
from adamerge.data.tables import Table
from adamerge.experts.model_kind import ModelKind


def labels_of(table: Table, kind: ModelKind, encoding: Encoding) -> tuple[list[int] | None, tuple[str, ...]]:
    """Read the label of each row of a classifier, where labels are asked for, and notes for the user.

    Raises:
        ConfigError: As `label_indices` does.
    """
    if not encoding.labeled:
        return None, ()
    classes = kind.classes
    if encoding.classes is not None:
        classes = {name: index for index, name in enumerate(encoding.classes)}
    labels, note = label_indices(table, classes, kind.num_classes or len(classes))
    return labels, (note,) if note else ()


def label_indices(table: Table, classes: Mapping[str, int], count: int) -> tuple[list[int], str | None]:
    """Find the model's index of each row's label.

    Classes of a column (a folder of images has a class for each of its sub-folders, in alphabetical order) and labels
    in words are looked up by name. Names that the model does not know mean themselves where they are numbers; of a
    column with classes, none of which the model knows, the indices are taken as they are, and a note says so.

    Args:
        table: The rows, with a column of labels.
        classes: The model's index of each class by name.
        count: How many classes the model has.

    Returns:
        The indices, and a note for the user, if there is one.

    Raises:
        ConfigError: Some classes are known and others not, or a label is none of the model's; names it and its row.
    """
    column = table.source.label
    labels = list(table.data[column])
    names = table.names(column)
    if names is None:
        return [_index(table, row, label, classes, count) for row, label in enumerate(labels, 1)], None
    there = set(labels)
    used = [name for index, name in enumerate(names) if index in there]
    meaning, note = _meaning(table, names, used, classes, count)
    found: list[int] = []
    for row, label in enumerate(labels, 1):
        index = meaning[label] if isinstance(label, int) and 0 <= label < len(names) else None
        if index is None or not 0 <= index < count:
            said = names[label] if isinstance(label, int) and 0 <= label < len(names) else label
            raise table.error(_unknown(row, said, classes, count))
        found.append(index)
    return found, note


def _meaning(
    table: Table, names: Sequence[str], used: Sequence[str], classes: Mapping[str, int], count: int
) -> tuple[list[int | None], str | None]:
    """The model's index of each of a column's classes."""
    if any(name in classes for name in names):
        unknown = [name for name in used if name not in classes]
        if unknown:
            known = sorted(classes, key=classes.__getitem__)
            raise table.error(
                f"{', '.join(map(repr, unknown[:8]))}: the model has no class of that name; its classes are "
                f"{', '.join(known[:8])}. Rename the classes of {table.source.label!r} (the sub-folders, if it is a "
                "folder of images) as the model calls them."
            )
        return [classes.get(name) for name in names], None
    numbers = [_number(name, count) for name in names]
    if all(number is not None for number in numbers):
        return numbers, None
    pairs = ", ".join(f"{name} = {index}" for index, name in enumerate(names[:8]))
    return list(range(len(names))), (
        f"{table.task}: {table.source.path}: the model knows none of the classes of {table.source.label!r} by name "
        f"({_known(classes)} are its own), so their order counts: {pairs}."
    )


def _index(table: Table, row: int, label: object, classes: Mapping[str, int], count: int) -> int:
    index = classes.get(label, _number(label, count)) if isinstance(label, str) else label
    if not isinstance(index, int) or not 0 <= index < count:
        raise table.error(_unknown(row, label, classes, count))
    return int(index)


def _number(name: str, count: int) -> int | None:
    """What a name that is a number means; None if it is none, or no index."""
    return int(name) if name.isascii() and name.isdigit() and int(name) < count else None


def _unknown(row: int, label: object, classes: Mapping[str, int], count: int) -> str:
    return f"row {row} has the label {label!r}, which is none of the expert's {count} labels ({_known(classes)})."


def _known(classes: Mapping[str, int]) -> str:
    return ", ".join(sorted(classes, key=lambda name: classes[name])[:8])
