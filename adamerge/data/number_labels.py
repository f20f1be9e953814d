"""Labels of models that do not choose one class: numbers, several labels a row, and scores of pairs."""

import math
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from adamerge.batch import Form
from adamerge.data.labels import by_spelling, labels_of, names_of
from adamerge.data.questions import check_metric
from adamerge.data.settings import Encoding, EvaluationSource
from adamerge.data.tables import Table
from adamerge.experts.model_kind import ModelKind
from adamerge.types import Fact, placed

METRICS: dict[Form, tuple[str, ...]] = {
    "classes": ("accuracy",),
    "labels": ("f1",),
    "numbers": ("mse", "pearson", "spearman"),
    "vectors": ("spearman", "pearson"),
    "spans": ("exact_match", "f1"),
}
"""Metrics that suit what a model predicts; the first is the default."""

DOES: dict[Form, str] = {
    "classes": "predicts classes",
    "labels": "predicts each label by itself",
    "numbers": "predicts numbers",
    "vectors": "predicts a vector of the row, and cosines of pairs are compared with their scores",
    "spans": "predicts a span of the text",
}
"""What a model does, in messages."""

_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
"""Texts that are numbers; Python's own reading takes 1_0 too."""


def metric_of(table: Table, form: Form) -> str | None:
    """Return what is measured on rows, by their configuration or by default."""
    asked = table.source.metric if isinstance(table.source, EvaluationSource) else None
    return asked or METRICS.get(form, (None,))[0]


def labels_by_form(
    table: Table, kind: ModelKind, encoding: Encoding, form: Form, outputs: int = 0
) -> tuple[Sequence[object] | None, tuple[str, ...]]:
    """Read the labels of rows, if they are measured, as what the model predicts.

    Args:
        table: The rows.
        kind: The kind of their model.
        encoding: Whether labels are read.
        form: What the model predicts of a row.
        outputs: Number of its logits; 0 if unknown.

    Returns:
        One label a row, or None; and notes for the user.

    Raises:
        ConfigError: A label or the metric does not suit the model, or such rows cannot be measured.
    """
    if not encoding.labeled or form == "classes":
        check_metric(table, kind, encoding, METRICS["classes"], DOES["classes"])
        return labels_of(table, kind, encoding, outputs)
    if form not in ("labels", "numbers"):
        raise table.error(
            f"{kind.architecture} {DOES[form]}, which is not measured on such rows yet. Leave out "
            "this task's evaluation (its calibration can be used), and evaluate the "
            "exported checkpoint."
        )
    check_metric(table, kind, encoding, METRICS[form], DOES[form])
    if form == "numbers":
        return numbers(table, max(kind.num_classes, 1)), ()
    labels, rule = several_labels(table, kind, encoding, outputs)
    said = f"labels in {table.source.label!r} are read as {rule}."
    return labels, (Fact(placed(f"{table.task}: {table.source.path}", said)),)


def answers(table: Table) -> list[tuple[str, ...]]:
    """Read the right answers of each row: a text, a list of texts, or as in SQuAD; none stands for no answer.

    Raises:
        ConfigError: A row has something else; names it.
    """
    return [_answers(table, row, value) for row, value in enumerate(table.values(table.source.label))]


def _answers(table: Table, row: int, value: object) -> tuple[str, ...]:
    own = cast(Mapping[str, object], value).get("text") if isinstance(value, Mapping) else value
    texts = cast(list[object], own) if isinstance(own, list) else [own]
    if not all(isinstance(text, str) for text in texts):
        raise table.error(
            f"{table.place(row)}: expected a text, a list of texts, or an object with a list of texts under 'text' in "
            f"the column {table.source.label!r}, found {reprlib.repr(value)}. Correct or remove the row."
        )
    return tuple(cast(list[str], texts)) or ("",)


def numbers(table: Table, count: int) -> list[list[float]]:
    """Read numbers, or lists of `count` numbers, from the column of labels.

    Args:
        table: The rows.
        count: Number of numbers per row.

    Raises:
        ConfigError: A label is no finite number, or a list of another length; names its row.
    """
    values = table.values(table.source.label)
    return [_numbers(table, row, value, count) for row, value in enumerate(values)]


def _numbers(table: Table, row: int, value: object, count: int) -> list[float]:
    own = cast(list[object], value) if isinstance(value, list) else [value]
    found = [_number(one) for one in own]
    if len(found) != count or any(one is None for one in found):
        raise table.error(
            f"{table.place(row)}: expected {'a number' if count == 1 else f'a list of {count} numbers'} in the column "
            f"{table.source.label!r}, found {reprlib.repr(value)}. Correct or remove the row."
        )
    return cast(list[float], found)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and not _DECIMAL.fullmatch(value.strip()):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer of more than 308 digits
        return None
    return number if math.isfinite(number) else None


def several_labels(table: Table, kind: ModelKind, encoding: Encoding, outputs: int = 0) -> tuple[list[list[int]], str]:
    """Read which labels each row has: a list of names, of indices, or of a 0 or 1 for every label.

    Args:
        table: The rows.
        kind: The kind of their model.
        encoding: Names of the labels, if the configuration has none.
        outputs: Number of the model's logits; 0 if unknown.

    Returns:
        For every row a 0 or 1 for every label; and how the column is read.

    Raises:
        ConfigError: No reading fits all rows, or two fit and differ, or a name is that of several labels; names the
            row. Or as in `names_of`.
    """
    names = names_of(table, kind, encoding, outputs)
    count = outputs or kind.num_classes or len(names)
    rows = [_list(table, row, value) for row, value in enumerate(table.values(table.source.label))]
    places = {name: index for index, name in names.items()}
    _check_names(table, rows, names)
    known = {
        "label names": _each(rows, lambda one: places.get(one) if isinstance(one, str) else None, count),
        "indices of labels": _each(
            rows, lambda one: one if _whole(one) and 0 <= cast(int, one) < count else None, count
        ),
        f"a 0 or 1 for each of {count} labels": [_as_integers(row) for row in rows]
        if all(_switches(row, count) for row in rows)
        else None,
    }
    found = {rule: one for rule, one in known.items() if one is not None}
    first = next(iter(found.values()), None)
    if first is not None and all(one == first for one in found.values()):
        return first, next(iter(found))
    label, shown = table.source.label, ", ".join(names[index] for index in sorted(names)[:8])
    if found:
        raise table.error(
            f"the column {label!r} can be read as indices of labels and as a 0 or 1 for each of {count} labels. Write "
            f"names ({shown})."
        )
    odd = next((row for row, own in enumerate(rows) if not _readable(own, places, count)), 0)
    raise table.error(
        f"{table.place(odd)}: expected in the column {label!r} a list of labels ({shown}), of their indices, or of a 0 "
        f"or 1 for each of {count}, alike in all rows, found {reprlib.repr(rows[odd])}. Correct the rows."
    )


def _check_names(table: Table, rows: Sequence[Sequence[object]], names: Mapping[int, str]) -> None:
    """Refuse a name that several of the model's labels have.

    Raises:
        ConfigError: A row has one; names the row.
    """
    several = {name: indices for name, indices in by_spelling(names).items() if len(indices) > 1}
    for row, own in enumerate(rows):
        for one in own:
            if isinstance(one, str) and one in several:
                raise table.error(
                    f"{table.place(row)}: expected in the column {table.source.label!r} the name of one label, found "
                    f"{reprlib.repr(one)}, which several labels of the model have ({several[one]}). Write indices of "
                    "labels."
                )


def _readable(row: Sequence[object], places: dict[str, int], count: int) -> bool:
    named = all(isinstance(one, str) and one in places for one in row)
    return named or all(_whole(one) and 0 <= cast(int, one) < count for one in row) or _switches(row, count)


def _list(table: Table, row: int, value: object) -> list[object]:
    if isinstance(value, list):
        return cast(list[object], value)
    raise table.error(
        f"{table.place(row)}: expected a list of labels in the column {table.source.label!r}, because the model "
        f"predicts each label by itself, found {reprlib.repr(value)}. Write a list, empty where no label fits."
    )


def _each(rows: Sequence[Sequence[object]], index: Callable[[object], object], count: int) -> list[list[int]] | None:
    """Read every row as different labels that `index` finds; None if one is none."""
    found: list[list[int]] = []
    for row in rows:
        own = [index(one) for one in row]
        if any(one is None for one in own) or len(set(own)) < len(own):
            return None
        found.append([int(place in own) for place in range(count)])
    return found


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _as_integers(row: Sequence[object]) -> list[int]:
    return [int(cast(float, one)) for one in row]


def _switches(row: Sequence[object], count: int) -> bool:
    return len(row) == count and all(isinstance(one, int | float) and one in (0, 1) for one in row)
