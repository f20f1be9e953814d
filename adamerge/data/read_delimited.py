"""Rows of CSV, TSV and text files; every value is the text that the file contains."""

import csv
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from adamerge.data.record import Record, Row
from adamerge.data.text_files import format_ending, lines
from adamerge.data.tsv_quotes import TAB, quotes_fields
from adamerge.types import quoted

_SPACED = re.compile(r'\s+".*"\s*$', re.DOTALL)
"""A field whose quotation marks do not enclose it, because a space stands before the first."""


def split_text(path: Path, seen: Counter[str]) -> Iterator[Record]:
    """Yield one record with the column text per line."""
    for number, line in enumerate(lines(path, seen), 1):
        yield Record(number, partial(_text_row, line))


def split_csv(path: Path, seen: Counter[str]) -> Iterator[Record]:
    """Yield the records of a CSV file (RFC 4180), of which the first names the columns."""
    yield from _under_header(_quoted_fields(path, ",", seen), seen)


def split_tsv(path: Path, seen: Counter[str]) -> Iterator[Record]:
    """Yield the records of a TSV file: each line is a row and quotation marks are characters.

    A file that quotes its fields (`quotes_fields`) is read as a CSV file with tabs instead.
    """
    quoting = quotes_fields(path)
    if quoting:
        seen[quoting] += 1
        yield from _under_header(_quoted_fields(path, TAB, seen), seen)
    else:
        yield from _under_header(_plain_fields(path, seen), seen, blank_is_empty=True)


def check_headers(files: Sequence[Path]) -> None:
    """Check that the first lines of CSV or TSV files name the same columns, in any order.

    Args:
        files: Files of one table; those without any line are passed over.

    Raises:
        ValueError: The first line of a file has other names, so that it may be a row; names both files.
    """
    found = {file: header for file in files if (header := _header(file))}
    first = next(iter(found), None)
    for file, header in found.items():
        if first is not None and {*header} != {*found[first]}:
            raise ValueError(
                f"{file.name}: expected the header of {first.name} in the first line ({_shown(found[first])}), found "
                f"{_shown(header)}, which may be a row. Give every file the same header, or name the files one by one."
            )


def _header(path: Path) -> list[str]:
    quoted = format_ending(path) == ".csv" or bool(quotes_fields(path))
    separator = "," if format_ending(path) == ".csv" else TAB
    records = _quoted_fields(path, separator, Counter()) if quoted else _plain_fields(path, Counter())
    return next(([name for name in fields if name] for _, fields in records if fields), [])


def _shown(header: Sequence[str]) -> str:
    names = ", ".join(repr(name[:40]) for name in header[:8])
    return names + (", …" if len(header) > 8 else "")


def _text_row(line: str) -> Row:
    return {"text": line.rstrip("\r\n")}


def _under_header(
    records: Iterator[tuple[int, list[str]]], seen: Counter[str], *, blank_is_empty: bool = False
) -> Iterator[Record]:
    """Pair each record's fields with the names of the columns, which are the first record.

    Lines without content are counted and skipped; with `blank_is_empty` they are empty values of an only column.
    """
    header: list[str] = []
    for line, fields in records:
        if not header and fields:
            header = _checked(fields)
        elif fields or (blank_is_empty and len(header) == 1):
            seen["header"] += fields == header
            seen["nameless"] += any(value and not name for name, value in zip(header, fields, strict=False))
            yield Record(line, partial(_pair, header, fields or [""]))
        else:
            seen["blank"] += 1


def _checked(header: list[str]) -> list[str]:
    twice = next((name for name, count in Counter(header).items() if name and count > 1), None)
    if twice is not None:
        raise ValueError(f"two columns have the name {quoted(twice)}. Rename one of them in the first line.")
    return header


def _pair(header: Sequence[str], fields: Sequence[str]) -> Row:
    if list(fields) != list(header) and sorted(fields) == sorted(header) and "" not in header:
        raise ValueError(
            f"names the columns in another order ({', '.join(fields)[:80]}), as where files were joined, so the rows "
            "after it would be read under wrong names. Save the files apart: those of a folder are joined by the names "
            "of their columns."
        )
    if len(fields) != len(header):
        raise ValueError(
            f"has {len(fields)} fields, but the first line names {len(header)} columns ({', '.join(header)[:80]}). "
            "Correct the row; put a field that contains the separator in quotation marks (not in .tsv)."
        )
    return {name: value for name, value in zip(header, fields, strict=True) if name}


def _plain_fields(path: Path, seen: Counter[str]) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(lines(path, seen), 1):
        fields = line.rstrip("\r\n").split(TAB)
        seen["marks"] += any(field.startswith('"') for field in fields)
        yield number, [] if fields == [""] else fields


def _quoted_fields(path: Path, delimiter: str, seen: Counter[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield line and fields of each record; a line without content is an empty list.

    Raises:
        ValueError: A quoted field does not end, or text follows its end; names the line.
    """
    limit, line = csv.field_size_limit(sys.maxsize), 1  # its default refuses long texts
    reader = csv.reader(lines(path, seen), delimiter=delimiter, strict=True)
    try:
        for fields in reader:
            seen["spans"] += reader.line_num > line
            seen["spaced"] += any(_SPACED.match(field) is not None for field in fields)
            yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"the record that begins on line {line} is broken by a quotation mark on line {reader.line_num} or "
            f"before ({error}). Put such a field in quotation marks and double those inside it."
        ) from error
    finally:
        csv.field_size_limit(limit)
