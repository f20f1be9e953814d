"""Does a TSV file quote its fields, as writers of CSV do, or are quotation marks in it characters?"""

import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from adamerge.data.text_files import lines

Quoting: TypeAlias = Literal["", "likely", "quoted"]
"""How a file treats quotation marks: as characters, probably around fields, or around fields."""

TAB = "\t"

_NEED = frozenset('\t\r\n"')
"""Characters because of which every writer of quoted fields quotes a field."""

_FEW = 3
"""Fields quoted for a comma alone from which on a writer is behind it, rather than a text that is a quotation."""

_MISSING = ("", "na", "true", "false")
"""Values, in lower case, that writers leave without marks in a column of quoted texts, besides numbers."""


def quotes_fields(path: Path) -> Quoting:
    """Find out whether a TSV file is what a writer of quoted fields writes; a plain file almost never is.

    It is if all names of columns are quoted. If they are not, every field with a quotation mark must be enclosed as a
    whole with the marks inside it doubled, all records must have as many fields, and either fields are quoted where
    they need it (tabs, line breaks, quotation marks; spreadsheets quote commas, semicolons and spaces at the ends too),
    or one needs it and columns are quoted as a whole but for numbers and missing values. Marks of speech that opens in
    one row and ends in a later one enclose rows, not a field: every line of such a file has all fields. In a file of
    one column nothing tells the two apart but marks that are doubled, or an empty field in marks.

    Returns:
        "quoted" or "likely": the latter if no field needs its marks, so that quotations which all hold a comma would
        look alike. "" if marks are characters.

    Raises:
        ValueError: In a file of one column, marks may enclose texts of several lines, or lines of several texts.
    """
    if not any('"' in line for line in lines(path)):
        return ""
    found = _Fields()
    for raw, fields in _raw_records(path):
        quoted = _quoted(raw, fields)
        if quoted is None or (found.width and len(fields) not in (0, found.width)):
            return "quoted" if found.names_quoted else ""
        found.add(fields, quoted)
    if found.names_quoted:
        return "quoted"
    if found.breaks and found.width == 1 and not found.doubled:
        raise ValueError(
            "a quotation mark opens on one line and closes on a later one, and a .tsv of one column does not tell "
            "whether that is one text or several. Save it as .csv (texts in quotation marks), as .txt (a text per "
            "line), or as JSON lines."
        )
    spans = found.breaks and found.width > 1 and all(line.count(TAB) + 1 == found.width for line in lines(path))
    if spans or not (found.where_needed or found.by_column):
        return ""
    return "quoted" if found.needed else "likely"


@dataclass
class _Fields:
    """What the fields of a file have in common.

    Attributes:
        width: Number of fields of a record; 0 before the first one.
        names_quoted: Whether all fields of the first record are quoted.
        needed: Whether a quoted field needs it.
        others: Number of quoted fields that do not need it.
        causes: What spreadsheets may quote each of these for.
        bare: Such causes in fields without marks, for which this writer does not quote.
        quoted: Columns with a quoted field.
        texts: Columns with a field without marks that is no number and not missing.
        breaks: Whether a quoted field has a line break.
        doubled: Whether a quoted field has marks, which are doubled, or is empty, as only a writer leaves it.
    """

    width: int = 0
    names_quoted: bool = False
    needed: bool = False
    others: int = 0
    causes: list[set[str]] = field(default_factory=list[set[str]])
    bare: set[str] = field(default_factory=set[str])
    quoted: set[int] = field(default_factory=set[int])
    texts: set[int] = field(default_factory=set[int])
    breaks: bool = False
    doubled: bool = False

    def add(self, fields: Sequence[str], quoted: Sequence[bool]) -> None:
        """Add a record and which of its fields are quoted."""
        first, self.width = not self.width, len(fields) or self.width
        self.names_quoted |= first and bool(fields) and all(quoted)
        for column, (value, enclosed) in enumerate(zip(fields, quoted, strict=True)):
            if enclosed and (_NEED & set(value) or fields == [""]):
                self.needed = True
            elif enclosed:
                self.others += 1
                self.causes += [_causes(value)] if _causes(value) not in self.causes else []
            else:
                self.bare |= _causes(value)
            self.breaks |= enclosed and not {"\r", "\n"}.isdisjoint(value)
            self.doubled |= enclosed and (value == "" or '"' in value)
            if enclosed:
                self.quoted.add(column)
            elif not first and not _is_number(value):
                self.texts.add(column)

    @property
    def where_needed(self) -> bool:
        """Whether every quoted field needs it, or has what is quoted everywhere."""
        return (self.needed or self.others >= _FEW) and all(causes - self.bare for causes in self.causes)

    @property
    def by_column(self) -> bool:
        """Whether one field needs its marks, and no column has texts with marks and without."""
        return self.needed and not self.quoted & self.texts


def _causes(value: str) -> set[str]:
    """List what is in a field for which spreadsheets quote it."""
    return {mark for mark in ",;" if mark in value} | ({"space"} if value != value.strip() else set())


def _quoted(raw: str, fields: Sequence[str]) -> list[bool] | None:
    """Return which fields of a record are quoted; None if a quotation mark neither encloses a field nor is doubled."""
    quoted, at = list[bool](), 0
    for value in fields:
        enclosed = '"' + value.replace('"', '""') + '"'
        quoted.append(raw.startswith(enclosed, at))
        if not quoted[-1] and '"' in value:
            return None
        at += len(enclosed if quoted[-1] else value) + 1
    return quoted if at == len(raw) + bool(fields) else None


def _raw_records(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each record as it is written and as its fields; a record that breaks the rules has no field."""
    taken: list[str] = []

    def take() -> Iterator[str]:
        for line in lines(path):
            taken.append(line)
            yield line

    limit = csv.field_size_limit(sys.maxsize)
    try:
        for fields in csv.reader(take(), delimiter=TAB, strict=True):
            yield "".join(taken).rstrip("\r\n"), fields
            taken.clear()
    except csv.Error:
        yield "".join(taken), []
    finally:
        csv.field_size_limit(limit)


def _is_number(value: str) -> bool:
    if value.lower() in _MISSING:
        return True
    try:
        return float(value) is not None
    except ValueError:
        return False
