"""What is read is what was written: every table format, every scalar type, mixed columns included."""

import csv
import gzip
import io
import json
import tempfile
from pathlib import Path

import datasets
import pytest
from hypothesis import assume, example, given, seed, settings
from hypothesis import strategies as st

from adamerge.data.settings import DataSource
from adamerge.data.tables import load_table

QUICK = settings(max_examples=40, deadline=None)
TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), max_size=12),
    st.text('a"\',;\t\n\r \\#', max_size=8),
    st.sampled_from(
        ["", " ", "null", "None", "NA", "N/A", "nan", "007", "1e5", "True", "true", '"Hello"', '""', '"', "2024-01-31",
         "12:30", "[1, 2]", '{"a": 1}', "é\u2028\x85", "=1+1", "\\N", "-", "1.0"]
    ),
)  # fmt: skip
LINE = TEXT.map(lambda text: text.replace("\r", " ").replace("\n", " "))
"""Texts without line breaks."""
SCALAR = st.one_of(
    TEXT, st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none()
)
VALUE = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2), max_leaves=4
)
CELL = LINE.map(lambda text: text.replace("\t", " "))
"""Texts without line breaks and tabs."""
NAMES = ("text", "label", "more")


def tables(values, columns=3):
    row = st.lists(values, min_size=columns, max_size=columns)
    return st.lists(row, min_size=1, max_size=5)


def read(content, name, rows=None):
    """The rows that are read of a file with this content, as lists of values."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        table = load_table(DataSource(str(file)), "mood", 0, rows)
        return table.columns, [list(row) for row in zip(*map(table.values, table.columns), strict=True)]


def same(found, written):
    """Equal values of equal types: 1, 1.0 and True differ."""
    return repr(found) == repr(written)


def delimited(rows, **how):
    out = io.StringIO(newline="")
    csv.writer(out, **how).writerows([NAMES[: len(rows[0])], *rows])
    return out.getvalue()


@seed(0)
@QUICK
@given(rows=tables(VALUE), ascii_only=st.booleans(), ending=st.sampled_from(["\n", "\r\n"]))
def test_json_lines(rows, ascii_only, ending):
    lines = [json.dumps(dict(zip(NAMES, row, strict=True)), ensure_ascii=ascii_only) for row in rows]
    for name in ("rows.jsonl", "rows.JSONL", "rows.ndjson", "rows.json"):
        found = read(ending.join(lines), name)
        assert found[0] == list(NAMES)
        assert same(found[1], rows)


@seed(0)
@QUICK
@given(rows=tables(VALUE), indent=st.sampled_from([None, 0, 2]))
def test_json_arrays(rows, indent):
    found = read(json.dumps([dict(zip(NAMES, row, strict=True)) for row in rows], indent=indent), "rows.json")
    assert same(found[1], rows)


@seed(0)
@QUICK
@given(
    rows=tables(TEXT) | tables(TEXT, 1),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
)
@example(rows=[[""], ["a"]], quoting=csv.QUOTE_MINIMAL, encoding="utf-8")
def test_csv(rows, quoting, encoding):
    content = delimited(rows, quoting=quoting).encode(encoding)
    assert read(content, "rows.csv")[1] == rows
    assert read(gzip.compress(content), "rows.csv.gz")[1] == rows


@seed(0)
@QUICK
@given(rows=tables(CELL) | tables(CELL, 1))
@example(rows=[['"good film', "0", "a"], ['bad "plot', "1", "b"], ['"awful market" is a film', "1", ""]])
@example(rows=[["a"], [""], ['"b" c']])
def test_plain_tsv(rows):
    """A tab ends a value, a line ends a row; quotation marks are characters, unless a writer of quotes wrote it."""
    content = "".join("\t".join(row) + "\n" for row in [NAMES[: len(rows[0])], *rows])
    assume(not written_with_quotes(content))
    assert read(content, "rows.tsv")[1] == rows


def written_with_quotes(content):
    """Whether a writer of quoted fields would have written the same bytes of other rows."""
    try:
        fields = list(csv.reader(io.StringIO(content, newline=""), delimiter="\t", strict=True))
    except csv.Error:
        return False
    out = [io.StringIO(newline="") for _ in range(2)]
    for file, quoting in zip(out, (csv.QUOTE_MINIMAL, csv.QUOTE_ALL), strict=True):
        csv.writer(file, delimiter="\t", quoting=quoting, lineterminator="\n").writerows(fields)
    return '"' in content and content in {file.getvalue() for file in out}


@seed(0)
@QUICK
@given(
    rows=tables(TEXT) | tables(TEXT, 1),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
)
def test_tsv_with_quoted_fields(rows, quoting):
    content = delimited(rows, delimiter="\t", quoting=quoting)
    assert read(content, "rows.tsv")[1] == rows


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
def test_long_texts_are_read_whole(name):
    text = "a" * 2**20
    assert read(f'text\n{text}\n"b"\n', name)[1][0] == [text]


def test_tsv_as_r_writes_it():
    content = '"text"\t"label"\n"good"\t1\n"""bad"" film"\t0\n'
    assert read(content, "rows.tsv")[1] == [["good", "1"], ['"bad" film', "0"]]


@seed(0)
@QUICK
@given(texts=st.lists(LINE, min_size=1, max_size=6), end=st.sampled_from(["\n", "\r\n"]))
def test_text(texts, end):
    assert read("".join(text + end for text in texts), "rows.txt") == (["text"], [[text] for text in texts])


@seed(0)
@settings(max_examples=10, deadline=None)
@given(rows=tables(TEXT))
def test_parquet(rows):
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "rows[1].parquet")
        columns = {name: list(column) for name, column in zip(NAMES, zip(*rows, strict=True), strict=True)}
        datasets.Dataset.from_dict(columns).to_parquet(file, batch_size=2)
        for count in (None, 2):
            table = load_table(DataSource(file), "mood", 0, count)
            whole = load_table(DataSource(file), "mood", 0).sample(count, 0)
            assert {name: table.values(name) for name in NAMES} == {name: whole.values(name) for name in NAMES}
        numbers = [int(whole.place(row).removeprefix("row ")) - 1 for row in range(len(whole))]
        assert whole.values("more") == [columns["more"][number] for number in numbers]


@seed(0)
@QUICK
@given(rows=tables(TEXT), count=st.integers(1, 6))
def test_rows_that_are_drawn_are_those_of_the_whole_table(rows, count):
    names, found = read(delimited(rows), "rows.csv", rows=count)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "rows.csv").write_text(delimited(rows), encoding="utf-8", newline="")
        whole = load_table(DataSource(str(Path(folder) / "rows.csv")), "mood", 0).sample(count, 0)
    assert found == [list(row) for row in zip(*map(whole.values, names), strict=True)]
