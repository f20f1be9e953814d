"""Columns of lists of words, which are joined, and the column that a user probably meant."""

from collections.abc import Sequence
from typing import cast

from adamerge.data.records import Records


def are_words(value: object) -> bool:
    """Return whether a value is a list of words.

    Example:
        >>> are_words(["good", "film"]), are_words("good film"), are_words([["good"]])
        (True, False, False)
    """
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def joined(values: Sequence[object]) -> list[object] | None:
    """Join lists of words by spaces; None if some values are something else.

    Example:
        >>> joined([["good", "film"], ["bad"]]), joined([["good"], "bad"])
        (['good film', 'bad'], None)
    """
    if not values or not all(are_words(value) for value in values):
        return None
    return [" ".join(cast(list[str], value)) for value in values]


def column_of_texts(data: Records) -> str | None:
    """Find the first column whose first value is a text or a list of words."""
    rows = range(min(len(data), 1))
    found = (name for name in data.columns for row in rows if _is_text(data.value(name, row)))
    return next(found, None)


def _is_text(value: object) -> bool:
    return isinstance(value, str) or (are_words(value) and bool(value))
