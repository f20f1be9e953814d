"""Labels of rows → the model's class indices, by name if there are names."""

from collections.abc import Mapping, Sequence

from adamerge.data.settings import Encoding
from adamerge.data.tables import Table
from adamerge.experts.model_kind import ModelKind


def labels_of(table: Table, kind: ModelKind, encoding: Encoding) -> tuple[list[int] | None, tuple[str, ...]]:
    """Read the labels of a classifier's rows if the encoding is labeled.

    Args:
        table: The rows.
        kind: The kind of their model.
        encoding: Whether labels are read, and names of the classes.

    Returns:
        The model's class index of each row, or None; and notes for the user.

    Raises:
        ConfigError: As in `label_indices`.
    """
    if not encoding.labeled:
        return None, ()
    classes = kind.classes
    if encoding.classes is not None:
        classes = {name: index for index, name in enumerate(encoding.classes)}
    labels, note = label_indices(table, classes, kind.num_classes or len(classes))
    return labels, (note,) if note else ()


def label_indices(table: Table, classes: Mapping[str, int], count: int) -> tuple[list[int], str | None]:
    """Look up the model's class index of each row's label.

    Class names of a column (a folder of images has one class per sub-folder, in alphabetical order) and labels that are
    strings are looked up by name. A name that is a number and not a class name of the model is that index. If the model
    has none of the column's class names, the column's indices are used unchanged, and a note reports it.

    Args:
        table: The rows, with a column of labels.
        classes: The model's class indices by name.
        count: Number of the model's classes.

    Returns:
        The indices, and a note for the user or None.

    Raises:
        ConfigError: The model has only some of the column's classes, or a label is none of its classes; names it and
            its row.
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
            shown = names[label] if isinstance(label, int) and 0 <= label < len(names) else label
            raise table.error(_unknown(row, shown, classes, count))
        found.append(index)
    return found, note


def _meaning(
    table: Table, names: Sequence[str], used: Sequence[str], classes: Mapping[str, int], count: int
) -> tuple[list[int | None], str | None]:
    """Look up the model's index of each of a column's classes."""
    if any(name in classes for name in names):
        unknown = [name for name in used if name not in classes]
        if unknown:
            known = sorted(classes, key=classes.__getitem__)
            raise table.error(
                f"{', '.join(map(repr, unknown[:8]))}: the model has no class of that name; its classes are "
                f"{', '.join(known[:8])}. Give the classes of {table.source.label!r} (the sub-folders of a folder of "
                "images) the model's names."
            )
        return [classes.get(name) for name in names], None
    numbers = [_number(name, count) for name in names]
    if all(number is not None for number in numbers):
        return numbers, None
    pairs = ", ".join(f"{name} = {index}" for index, name in enumerate(names[:8]))
    return list(range(len(names))), (
        f"{table.task}: {table.source.path}: none of the classes of {table.source.label!r} is a class name of the "
        f"model ({_known(classes)}), so their order is used: {pairs}."
    )


def _index(table: Table, row: int, label: object, classes: Mapping[str, int], count: int) -> int:
    index = classes.get(label, _number(label, count)) if isinstance(label, str) else label
    if not isinstance(index, int) or not 0 <= index < count:
        raise table.error(_unknown(row, label, classes, count))
    return int(index)


def _number(name: str, count: int) -> int | None:
    """Parse a name that is a class index; None if it is not one."""
    return int(name) if name.isascii() and name.isdigit() and int(name) < count else None


def _unknown(row: int, label: object, classes: Mapping[str, int], count: int) -> str:
    return (
        f"row {row} has the label {label!r}, which is none of the expert's {count} labels ({_known(classes)}). Correct "
        "the label or remove the row."
    )


def _known(classes: Mapping[str, int]) -> str:
    return ", ".join(sorted(classes, key=lambda name: classes[name])[:8])
