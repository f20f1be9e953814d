"""Rows of JSON Lines and of JSON arrays; values are those that the file contains."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import NoReturn, cast

from adamerge.data.record import Record, Row
from adamerge.data.text_files import lines

_SPACE = re.compile(r"[ \t\r\n]*")


def split_json_lines(path: Path, seen: Counter[str]) -> Iterator[Record]:
    """Yield one record per line; lines without content are counted."""
    for number, line in enumerate(lines(path, seen), 1):
        if line.strip():
            yield Record(number, partial(_parse_line, line))
        else:
            seen["blank"] += 1


def split_json(path: Path, seen: Counter[str]) -> Iterator[Record]:
    """Yield one record per value of an array, or per line if the file is no array."""
    start = next((line.lstrip() for line in lines(path) if line.strip()), "")
    if start.startswith("["):
        yield from _split_array("".join(lines(path, seen)))
    elif start.strip() == "{" or _holds_columns(path):
        raise ValueError(
            "expected an array of rows, or one row per line, found one object for all rows. Write [row, row, "
            '…], or JSON Lines (in pandas: df.to_json(path, orient="records", lines=True)).'
        )
    else:
        yield from split_json_lines(path, seen)


def _holds_columns(path: Path) -> bool:
    """Return whether a file is one object of lists, or of objects, by column, rather than one row per line."""
    first, second = islice(chain((line for line in lines(path) if line.strip()), ("", "")), 2)
    if second or not first:
        return False
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):  # the parser of the row reports it
        return False
    columns = list(value.values()) if isinstance(value, dict) else []
    return bool(columns) and all(isinstance(column, list | dict) and len(column) > 1 for column in columns)


def _split_array(text: str) -> Iterator[Record]:
    line, counted, at = 1, 0, _skip(text, text.index("[") + 1)
    while text[at : at + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            yield Record(line, partial(_refuse, text[at : at + 80], error))
            return
        yield Record(line, partial(_row, value, escaped="\\u" in text))
        at = _skip(text, end)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
            if text[at : at + 1] == "]":
                raise ValueError("expected a row after the last comma of the array, found its end. Remove the comma.")
        elif text[at : at + 1] != "]":
            problem = json.JSONDecodeError("expected , or ] after the previous row", text, at)
            yield Record(line, partial(_refuse, text[at : at + 80] or "the end of the file", problem))
            return
    if text[at + 1 :].strip():
        raise ValueError(f"expected nothing after the array, found {text[at + 1 :].strip()[:80]!r}. Remove it.")


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None  # the pattern matches the empty string
    return found.end()


def _parse_line(line: str) -> Row:
    try:
        return _row(_DECODER.decode(line.strip()), escaped="\\u" in line)
    except (json.JSONDecodeError, RecursionError) as error:
        _refuse(line, error)


def _refuse(text: str, error: Exception) -> NoReturn:
    """Raise an error about text that is not JSON; the place is added by the caller."""
    if isinstance(error, json.JSONDecodeError):
        raise ValueError(f"is not JSON ({error.msg} at column {error.colno}): {text.strip()[:80]}") from error
    if isinstance(error, RecursionError):
        raise ValueError(f"is nested too deeply: {text.strip()[:80]}") from error
    raise error


def _row(value: object, *, escaped: bool) -> Row:
    """Return a row; a string is a row with one column, text.

    Args:
        value: The value that was parsed.
        escaped: Whether the file has escapes, which may stand for half of a character.
    """
    if isinstance(value, str):
        value = {"text": value}
    if not isinstance(value, dict):
        raise ValueError(
            f'is no object: expected {{"text": "…"}}, found {json.dumps(value)[:80]}. Correct or remove it.'
        )
    try:
        _ = json.dumps(value, ensure_ascii=False).encode() if escaped else b""
    except UnicodeEncodeError as error:
        raise ValueError(
            "holds half of a surrogate pair (an escape \\ud… without its other half), which is no text. Correct or "
            "remove the row."
        ) from error
    return cast(Row, value)


def _unique(pairs: list[tuple[str, object]]) -> Row:
    """Make an object of its keys and values; a key that is there twice is an error."""
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"has the key {twice!r} twice, so one value would be lost. Remove one of them.")
    return row


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"holds {word}, which is no JSON. Write null, or remove the row.")


def _finite(word: str) -> float:
    found = float(word)
    if not math.isfinite(found):
        raise ValueError(f"holds {word}, which is beyond the largest number. Write a smaller one, or a text.")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_finite)
