"""Rows of table files in JSON, CSV, TSV, text and Parquet: counted first, then read."""

from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from adamerge.data.arrow_files import count_parquet
from adamerge.data.read_delimited import check_headers, split_csv, split_text, split_tsv
from adamerge.data.read_json import split_json, split_json_lines
from adamerge.data.read_parquet import joined_schema, read_column, read_rows
from adamerge.data.record import Record
from adamerge.data.records import Listed, Records
from adamerge.data.split_folders import InDoubt
from adamerge.data.text_files import COMPRESSED, check_size, format_ending
from adamerge.types import WARNING

Column: TypeAlias = Callable[[str], Iterator[tuple[str, object]]]
"""Name of a column → place and value of each of its rows, in order; read anew at every call."""

Splitter: TypeAlias = Callable[[Path, Counter[str]], Iterator[Record]]
"""A text file → its records; counts in the counter what it skips or reads in a special way."""

SPLITTERS: dict[str, Splitter] = {
    ".jsonl": split_json_lines,
    ".ndjson": split_json_lines,
    ".json": split_json,
    ".csv": split_csv,
    ".tsv": split_tsv,
    ".txt": split_text,
}
PARQUET = ".parquet"

MOST_ROWS = 10**8
"""Largest number of rows of a source."""


@dataclass(frozen=True)
class Unread:
    """Rows that are counted but not in memory.

    Attributes:
        count: Number of rows.
        read: Returns the rows with these ascending indices.
        column: Reads one column of all rows.
        notes: Messages for the user on how the source is read.
        doubt: Folders of which it is in doubt whether they are splits or classes.
    """

    count: int
    read: Callable[[Sequence[int]], Records]
    column: Column
    notes: tuple[str, ...] = ()
    doubt: InDoubt | None = None


def is_table(path: Path) -> bool:
    """Return whether a file's ending is the one of a table.

    Example:
        >>> is_table(Path("rows.CSV.gz")), is_table(Path("rows.parquet.gz")), is_table(Path("rows.xlsx"))
        (True, False, False)
    """
    ending = format_ending(path)
    return ending in SPLITTERS or (ending == PARQUET and path.suffix.lower() == PARQUET)


def endings() -> str:
    """List the endings of tables, for messages."""
    return f"{', '.join([*SPLITTERS, PARQUET])} (all but the last also with {', '.join(COMPRESSED)})"


def open_tables(files: Sequence[Path], largest: int | None = None) -> Unread:
    """Count the rows of tables of one format, in the order of the files; every row is parsed once and none is kept.

    Args:
        files: At least one file.
        largest: Largest number of bytes of all files together, decompressed; None without a limit.

    Returns:
        The rows.

    Raises:
        ValueError: Files have several formats, are larger than the limit, or a row cannot be read; names the row, line
            and file.
    """
    formats = {SPLITTERS.get(format_ending(file), format_ending(file)): file.name for file in files}
    if len(formats) > 1:
        raise ValueError(
            f"expected tables of one format, found {' and '.join(formats.values())}. Name one file, or a folder with "
            "files of one format."
        )
    _check_once(files)
    _check_there(files)
    check_size(files, largest)
    ending = format_ending(files[0])
    found = _open_parquet(files) if ending == PARQUET else _open_text(files, SPLITTERS[ending])
    if len(files) == 1:
        return found
    return replace(found, notes=(f"{len(files)} files are joined: {_shown(files)}.", *found.notes))


def open_tables_of(files: Sequence[Path], largest: int | None = None) -> Unread:
    """Do what `open_tables` does with files of a folder; an error names the file where there is one alone."""
    try:
        return open_tables(files, largest)
    except ValueError as error:
        place = f"{files[0].name}: " if len(files) == 1 else ""
        raise ValueError(f"{place}{error}") from error


def _shown(files: Sequence[Path]) -> str:
    names = [file.name for file in files]
    return ", ".join(names) if len(names) <= 3 else f"{names[0]}, {names[1]}, …, {names[-1]}"


def _check_once(files: Sequence[Path]) -> None:
    """Refuse a file beside its own compressed copy."""
    first: dict[Path, Path] = {}
    for file in files:
        bare = file.with_suffix("") if file.suffix.lower() in COMPRESSED else file
        if first.setdefault(bare, file) is not file:
            raise ValueError(
                f"expected every file once, found {first[bare].name} and {file.name}. Remove one of them, or name one."
            )


def _check_there(files: Sequence[Path]) -> None:
    """Refuse what Git leaves in place of a file that it keeps elsewhere; as text it would be rows."""
    for file in files:
        with file.open("rb") as opened:
            if opened.read(len(_POINTER)) == _POINTER:
                raise ValueError(
                    f"{file.name}: expected rows, found a pointer of Git LFS to them. Fetch the file: git lfs pull."
                )


_POINTER = b"version https://git-lfs.github.com/spec/"
"""How the file begins that Git LFS leaves where content was not fetched."""


def _open_text(files: Sequence[Path], split: Splitter) -> Unread:
    if len(files) > 1 and split in (split_csv, split_tsv):
        check_headers(files)
    seen, columns, count = Counter[str](), dict[str, None](), 0
    for place, record in _records(files, split, seen):
        columns.update(dict.fromkeys(_parsed(place, record)))
        count += 1
    read = partial(_read_text, files, split, list(columns))
    return Unread(count, read, partial(_column_of_text, files, split), _notes(seen))


def _column_of_text(files: Sequence[Path], split: Splitter, column: str) -> Iterator[tuple[str, object]]:
    for place, record in _records(files, split, Counter()):
        yield place, _parsed(place, record).get(column)


def _read_text(files: Sequence[Path], split: Splitter, columns: Sequence[str], wanted: Container[int]) -> Listed:
    wanted = wanted if isinstance(wanted, range) else set(wanted)  # pyright: ignore
    places: list[str] = []
    data: dict[str, list[object]] = {name: [] for name in columns}
    for index, (place, record) in enumerate(_records(files, split, Counter())):
        if index in wanted:
            row = _parsed(place, record)
            places.append(place)
            for name, values in data.items():
                values.append(row.get(name))
    return Listed(data, places)


def _records(files: Sequence[Path], split: Splitter, seen: Counter[str]) -> Iterator[tuple[str, Record]]:
    """Yield every record with its place; numbers of rows go on from file to file."""
    number = 0
    for file in files:
        inside = f"{file.name}, " if len(files) > 1 else ""
        try:
            for record in split(file, seen):
                number += 1
                yield f"row {number} ({inside}line {record.line})", record
        except ValueError as error:
            raise ValueError(f"{inside}{error}") from error


def _parsed(place: str, record: Record) -> dict[str, object]:
    try:
        return record.parse()
    except ValueError as error:
        raise ValueError(f"{place} {error}") from error


def _notes(seen: Counter[str]) -> tuple[str, ...]:
    said = {
        "blank": "lines without content are skipped",
        "joined": "lines begin with a byte order mark, as where files were joined: it is left out",
        "quoted": "file is read as tab-separated values with quoted fields: marks that enclose a field are left out",
        "likely": "file is read as a spreadsheet writes it: marks around fields with a comma, a semicolon or a space "
        "at an end are left out, and no other field has any. If they belong to texts, save it as .csv or JSON lines",
        "marks": "rows have a field that begins with a quotation mark, which is read as a character, because the file "
        "does not quote its fields throughout; if its writer meant quotes, save it as .csv or JSON lines",
        "header": "rows hold the names of the columns, as where files were joined, and are read like others: remove "
        "them",
        "nameless": "rows have a value in a column that the first line does not name, which is not read: name it",
        "spaced": "rows have a field in quotation marks with a space before them: all of it is read as characters; "
        "remove the space if the marks enclose the field",
        "spans": "rows span several lines (line breaks inside quotation marks)",
    }
    return tuple(
        f"{WARNING if key == 'likely' else ''}{seen[key]} {words}." for key, words in said.items() if seen[key]
    )


# --- Parquet ---------------------------------------------------------------------------------------------------------


def _open_parquet(files: Sequence[Path]) -> Unread:
    count = sum(map(count_parquet, files))
    if not 0 <= count <= MOST_ROWS:
        raise ValueError(f"expected at most {MOST_ROWS} rows, found {count}. Name fewer files, or copy them again.")
    joined_schema(files)
    return Unread(count, partial(read_rows, files, count), partial(read_column, files))
