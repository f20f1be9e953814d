"""Rows of Parquet files: joined by the names of columns and classes, in types that `datasets` reads."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.table import InMemoryTable

from adamerge.data.arrow_files import readable
from adamerge.data.records import Arrow
from adamerge.storage.regular_files import reason_of

_WAY_ON = "Write both files with the same columns, or name the files one by one."


def read_column(files: Sequence[Path], column: str) -> Iterator[tuple[str, object]]:
    """Yield place and value of every row of a column.

    Args:
        files: Files of one table.
        column: Name of the column.
    """
    number, kinds = 0, joined_schema(files)
    for file in files:
        for table in _tables(file, kinds, [column]):
            for value in table.column(column).to_pylist():
                number += 1
                yield f"row {number}", value


def read_rows(files: Sequence[Path], count: int, wanted: Sequence[int]) -> Arrow:
    """Read some of the rows.

    Args:
        files: Files of one table.
        count: Number of rows that the ends of the files tell.
        wanted: Ascending indices of rows.

    Raises:
        ValueError: There are more or fewer rows.
    """
    start, schema = 0, joined_schema(files)
    parts = [schema.empty_table()]
    for file in files:
        for table in _tables(file, schema):
            end = start + len(table)
            rows = [row - start for row in wanted[bisect_left(wanted, start) : bisect_left(wanted, end)]]
            parts += [table.take(rows)] if rows else []
            start = end
    if start != count:
        raise ValueError(f"expected {count} rows, as its end says, found {start}. Copy the file again.")
    return Arrow(datasets.Dataset(InMemoryTable(pa.concat_tables(parts))), wanted)


def joined_schema(files: Sequence[Path]) -> pa.Schema:
    """Find columns and types that hold the rows of all files; what is known of classes is that of the first file.

    Numbers of one kind become the widest of them, and texts long ones; other types must be the same.

    Args:
        files: Files of one table.

    Raises:
        ValueError: A file has other columns, or a column of another type or other classes; names both files.
    """
    first = _schema(files[0])
    joined = {field.name: field for field in first}
    for file in files[1:]:
        schema = _schema(file)
        if sorted(schema.names) != sorted(joined):
            raise ValueError(
                f"{file.name}: expected the columns of {files[0].name} ({', '.join(first.names)}), found "
                f"{', '.join(schema.names)}. {_WAY_ON}"
            )
        _check_classes(files[0], file)
        joined = {name: _joined(files[0], file, field, schema.field(name)) for name, field in joined.items()}
    return pa.schema(list(joined.values()), first.metadata)


def _schema(file: Path) -> pa.Schema:
    schema = pq.read_schema(file)
    twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{file.name}: two columns have the name {twice!r}. Rename one of them.")
    for field in schema:
        try:
            _ = datasets.Features.from_arrow_schema(pa.schema([field.with_type(_plain(field.type))]))
        except ValueError as error:
            raise ValueError(
                f"{file.name}: the column {field.name!r} has the type {field.type}, which datasets does not read. "
                "Write the file without this column, or the column as text."
            ) from error
    try:
        _ = _features(schema)
    except Exception as error:  # of another content datasets raises anything
        raise ValueError(
            f"{file.name}: what its metadata (huggingface) says of the columns cannot be read "
            f"({reason_of(error)[:200]}). Write the file again, or without metadata: "
            "table.replace_schema_metadata() of pyarrow."
        ) from error
    return pa.schema([field.with_type(_plain(field.type)) for field in schema], schema.metadata)


def _plain(kind: pa.DataType) -> pa.DataType:
    """Replace types that `datasets` cannot read everywhere: views, categories and runs, by their values'."""
    if isinstance(kind, pa.BaseExtensionType):
        return kind
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _plain(cast(pa.DictionaryType, kind).value_type)
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return pa.string() if pa.types.is_string_view(kind) else pa.binary()
    if pa.types.is_list_view(kind) or pa.types.is_list(kind):
        return pa.list_(_plain_field(cast(pa.ListType, kind).value_field))
    if pa.types.is_large_list_view(kind) or pa.types.is_large_list(kind):
        return pa.large_list(_plain_field(cast(pa.LargeListType, kind).value_field))
    if isinstance(kind, pa.StructType):
        return pa.struct([_plain_field(kind.field(number)) for number in range(kind.num_fields)])
    return kind


def _plain_field(field: pa.Field) -> pa.Field:
    return field.with_type(_plain(field.type))


def _joined(first: Path, file: Path, expected: pa.Field, found: pa.Field) -> pa.Field:
    """Return the wider of two fields."""
    empty = pa.types.is_null(expected.type) or pa.types.is_null(found.type)
    if not empty and _kind(expected.type) != _kind(found.type):
        raise ValueError(
            f"{file.name}: expected in the column {found.name!r} the type of {first.name} ({expected.type}), found "
            f"{found.type}. {_WAY_ON}"
        )
    both = [pa.schema([expected]), pa.schema([found])]
    return pa.unify_schemas(both, promote_options="permissive").field(0)


def _kind(kind: pa.DataType) -> object:
    """Return what two types must have in common to be joined: width and sign of numbers do not count."""
    if isinstance(kind, pa.BaseExtensionType):
        return kind
    if pa.types.is_nested(kind):
        names = [kind.field(place).name for place in range(kind.num_fields)] if pa.types.is_struct(kind) else []
        inner = [_kind(kind.field(place).type) for place in range(kind.num_fields)]
        return (str(kind.id), sorted(zip(names, map(str, inner), strict=True)) if names else inner)
    tests = (pa.types.is_integer, pa.types.is_floating, _is_text, pa.types.is_large_binary)
    return next((test.__name__ for test in tests if test(kind)), kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _tables(file: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the rows of a file piece by piece, in the columns and types of the joined table."""
    order = list(columns or schema.names)
    target = pa.schema([schema.field(name) for name in order], schema.metadata)
    wanted, own = _classes(schema), _classes(pq.read_schema(file))
    with readable(file, "a Parquet file"), pq.ParquetFile(file) as opened:
        for batch in opened.iter_batches(columns=order):
            table = pa.Table.from_batches([batch]).select(order)
            for name in order:
                if own.get(name) != wanted.get(name):
                    renumbered = _renumbered(table.column(name), own[name], wanted[name])
                    table = table.set_column(table.column_names.index(name), name, renumbered)
            try:
                yield table.cast(target)
            except pa.ArrowException as error:
                raise ValueError(
                    f"{file.name}: its rows do not fit the types of all files ({error}). {_WAY_ON}"
                ) from error


def _renumbered(column: pa.ChunkedArray, own: Sequence[str], wanted: Sequence[str]) -> pa.ChunkedArray:
    """Replace indices of classes by those that the same names have in the first file."""
    places = {index: wanted.index(name) for index, name in enumerate(own)}
    values = [None if index is None else places.get(index, index) for index in column.to_pylist()]
    return pa.chunked_array([pa.array(values, pa.int64())])


def _classes(schema: pa.Schema) -> Mapping[str, Sequence[str]]:
    """Read the names of classes by column, if the file was written by `datasets`."""
    return {name: kind.names for name, kind in _features(schema).items() if isinstance(kind, datasets.ClassLabel)}


def _features(schema: pa.Schema) -> Mapping[str, object]:
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    plain = [field.with_type(_plain(field.type)) for field in schema]
    return dict(datasets.Features.from_arrow_schema(pa.schema(plain, schema.metadata)))


def _check_classes(first: Path, file: Path) -> None:
    """Refuse a file whose columns have other classes than those of the first; another order is no difference."""
    expected, found = _features(pq.read_schema(first)), _features(pq.read_schema(file))
    for name in {**expected, **found}:
        one, two = _named(expected.get(name)), _named(found.get(name))
        if one != two:
            raise ValueError(
                f"{file.name}: expected in the column {name!r} the classes of {first.name} ({_shown(one)}), found "
                f"{_shown(two)}. {_WAY_ON}"
            )


def _named(kind: object) -> list[str]:
    """List the names of classes in a column's type: sorted, or as they are numbered inside of lists and objects."""
    if isinstance(kind, datasets.ClassLabel):
        return sorted(kind.names)
    inner = list(kind.values()) if isinstance(kind, dict) else [getattr(kind, "feature", None)]
    below = [_inside(one) for one in inner if one is not None]
    return [name for names in below for name in names]


def _inside(kind: object) -> list[str]:
    return list(kind.names) if isinstance(kind, datasets.ClassLabel) else _named(kind)


def check_saved(data: datasets.Dataset) -> tuple[str, ...]:
    """Check that the files of a saved dataset number the classes of each column alike; `datasets` does not look.

    Args:
        data: A dataset as `load_from_disk` opened it.

    Returns:
        A note for each column whose classes the dataset names otherwise than its files.

    Raises:
        ValueError: Two files name the classes otherwise, or in another order; names both files.
    """
    files = [Path(str(file["filename"])) for file in data.cache_files]
    found = {file: kinds for file in files if (kinds := _features(_schema_of_stream(file)))}
    if not found:
        return ()
    first, *others = found
    for file in others:
        for name, kind in found[first].items():
            one, two = _inside(kind), _inside(found[file].get(name))
            if one != two:
                raise ValueError(
                    f"{file.name}: expected in the column {name!r} the classes of {first.name}, in their order "
                    f"({_shown(one)}), found {_shown(two)}. Load each file, align its labels "
                    "(align_labels_with_mapping), join them and save them again."
                )
    both = {name: (_inside(data.features.get(name)), _inside(kind)) for name, kind in found[first].items()}
    return tuple(
        f"the classes of {name!r} are those of dataset_info.json ({_shown(own)}), as datasets reads them; the files "
        f"with the rows name others ({_shown(theirs)})."
        for name, (own, theirs) in both.items()
        if own != theirs and name in data.features
    )


def _schema_of_stream(file: Path) -> pa.Schema:
    with pa.memory_map(str(file)) as stream:
        return pa.ipc.open_stream(stream).schema


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) or "none, but other values"
