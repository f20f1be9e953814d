"""Names without regard to case and spaces, lists of words as texts, and what was meant by values that are no texts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from adamerge.data.records import Records
from adamerge.storage.file_names import at_home

_NO_TEXTS = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
"""Words that YAML reads as something else."""


def folded(name: str) -> str:
    """Return a name without regard to case and spaces.

    Example:
        >>> folded(" Very  Good")
        'very good'
    """
    return " ".join(name.split()).casefold()


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


def in_words(values: Sequence[object]) -> list[list[str]]:
    """Return the words of each value: a list of words as it is, a text by white space.

    Example:
        >>> in_words([["New York", ""], "good film"])
        [['New York', ''], ['good', 'film']]
    """
    return [cast(list[str], value) if are_words(value) else str(value).split() for value in values]


def columns_meant(data: Records) -> str:
    """Say which columns were probably meant: the first ones whose first value is a text or words, or a chat."""
    first = [(name, data.glance(name, row)) for name in data.columns for row in range(min(len(data), 1))]
    texts = [f" If {n!r} holds the texts, write text: {in_yaml(n)}." for n, value in first if _is_text(value)]
    chats = [f" If {n!r} holds chats, write messages: {in_yaml(n)}." for n, value in first if is_chat(value)]
    return "".join([*texts[:1], *chats[:1]])


def in_yaml(name: str) -> str:
    """Write a name as a value of a configuration.

    Example:
        >>> in_yaml("text"), in_yaml(" text"), in_yaml("1")
        ('text', '" text"', '"1"')
    """
    plain = name[:1].isalpha() and all(one.isalnum() or one in "_-" for one in name)
    return name if plain and name.lower() not in _NO_TEXTS else json.dumps(name, ensure_ascii=False)


def advice(value: object, column: str) -> str:
    """Say what to do about a value where a text is expected."""
    if are_words(value):
        return f"Join lists of words to one text in the column {column!r}, or write a list of words in every row."
    if isinstance(value, dict):
        return "Write one object per row, with a text in each column."
    if isinstance(value, int | float):
        return "Write numbers in quotation marks where they are texts."
    return "Correct or remove the row."


def separator_hint(columns: Sequence[str]) -> str:
    """Say that another separator was probably meant, if the only column has it in its name."""
    only = columns[0] if len(columns) == 1 else ""
    found = next((word for mark, word in {";": "semicolons", "\t": "tabs", "|": "bars"}.items() if mark in only), None)
    return f" The first line has {found}: separate fields by commas in .csv, by tabs in .tsv." if found else ""


def is_chat(value: object) -> bool:
    """Return whether a value is a list of messages, which are mappings with a text."""
    turns = cast(list[object], value) if isinstance(value, list) else []
    return bool(turns) and all(isinstance(turn, dict) and any(map(_is_text, turn.values())) for turn in turns)


def _is_text(value: object) -> bool:
    return isinstance(value, str) or (are_words(value) and bool(value))


def shown_name(name: str) -> str:
    """Return a column's name, with quotation marks if spaces at its ends or unprinted marks would not be seen.

    Example:
        >>> shown_name("text"), shown_name(" text")
        ('text', "' text'")
    """
    return name[:40] if name == name.strip() and name.isprintable() else repr(name[:40])


def place_hint(image: str, rows: str) -> str:
    """Return where an image that does not exist may be: beside its rows, or in the network.

    Args:
        image: The path that a row has.
        rows: The path of the rows.

    Example:
        >>> place_hint("https://example.org/a.png", "rows.csv")
        ' Addresses are not read: download the images first, and write their paths.'
    """
    if "://" in image:
        return " Addresses are not read: download the images first, and write their paths."
    beside = at_home(rows).absolute().parent
    if Path(image).is_absolute() or not (beside / image).is_file():
        return ""
    return f" Paths begin in the current directory: run in {beside}, where there is one, or write the whole path."
