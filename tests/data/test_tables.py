"""What is read is what was written: every table format, every scalar type, mixed columns included."""

import csv
import gzip
import io
import json
import re
import tempfile
from pathlib import Path

import datasets
import pytest
from hypothesis import assume, example, given, seed, settings
from hypothesis import strategies as st

from adamerge.data.settings import DataSource
from adamerge.data.tables import load_table
from adamerge.types import ConfigError

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
    columns = len(rows) == 1 and all(isinstance(value, list | dict) and len(value) > 1 for value in rows[0])
    for name in ("rows.jsonl", "rows.JSONL", "rows.ndjson", *(() if columns else ("rows.json",))):
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
@example(rows=[["plain", "0"], ['"I came home', "1"], ["and left", "0"], ['again"', "1"], ["plain", "1"]])
def test_plain_tsv(rows):
    """A tab ends a value, a line ends a row; quotation marks are characters, unless a writer of quotes wrote it."""
    content = "".join("\t".join(row) + "\n" for row in [NAMES[: len(rows[0])], *rows])
    assume(not written_with_quotes(content))
    assert read(content, "rows.tsv")[1] == rows


def written_with_quotes(content):
    """Whether every field with a quotation mark could be one that a writer of quoted fields wrote."""
    fields = [field for line in content.split("\n") for field in line.split("\t") if '"' in field]
    return bool(fields) and all(re.fullmatch('"([^"]|"")*"', field) for field in fields)


@seed(0)
@QUICK
@given(
    rows=tables(TEXT) | tables(TEXT, 1),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
)
def test_tsv_with_quoted_fields(rows, quoting):
    content = delimited(rows, delimiter="\t", quoting=quoting)
    assume(quoting == csv.QUOTE_ALL or not lines_are_rows(content))
    if quoting == csv.QUOTE_MINIMAL and one_text_or_several(rows):
        with pytest.raises(ConfigError, match="does not tell whether that is one text or several"):
            read(content, "rows.tsv")
    else:
        assert read(content, "rows.tsv")[1] == rows


def one_text_or_several(rows):
    """Whether texts of an only column span lines, and no other one shows that a writer of quoted fields wrote it."""
    texts = [text for (text,) in rows] if len(rows[0]) == 1 else []
    return any(set(text) & {"\r", "\n"} for text in texts) and not any(text == "" or '"' in text for text in texts)


def test_speech_over_several_lines_of_an_only_column_is_refused():
    with pytest.raises(ConfigError, match=r"rows\.tsv: .*does not tell .* Save it as \.csv"):
        read('text\nplain\n"I came home\nand left\nagain"\nplain\n', "rows.tsv")
    assert read('text\n"I came home\nand ""left"""\nplain\n', "rows.tsv")[1] == [['I came home\nand "left"'], ["plain"]]


def lines_are_rows(content):
    """Whether a field spans lines that all have as many tabs as the header, so that each could be a row."""
    tabs = [line.count("\t") for line in re.split("\r\n|\r|\n", content)[:-1]]
    return tabs[0] > 0 and len(set(tabs)) == 1


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
def test_long_texts_are_read_whole(name):
    text = "a" * 2**20
    assert read(f'text\n{text}\n"b"\n', name)[1][0] == [text]


WRITERS = {
    "R, write.table": ('"text"\t"label"\n"good"\t1\n"""bad"" film"\t0\n', ["good", "1", '"bad" film', "0"]),
    "R, with row names missing and a number as text": ('"text"\t"x"\n"7"\tNA\n"a b"\t1.5\n', ["7", "NA", "a b", "1.5"]),
    "pyarrow, 007 as text": ('"text"\t"x"\n"007"\t7\n"a"\t\n', ["007", "7", "a", ""]),
    "a quoted header, nothing else": ('"text"\t"x"\na\t1\n', ["a", "1"]),
    "PostgreSQL, FORCE_QUOTE": ('text\tx\n"good"\t"1"\n"a ""b"""\t\n', ["good", "1", 'a "b"', ""]),
    "Excel, commas": ('text\tx\n"a, b"\t1\nc\t"1,5"\n"d, ""e"""\t2\n', ["a, b", "1", "c", "1,5", 'd, "e"', "2"]),
    "Excel, commas alone": ('text\tx\n"a, b"\t1\nc\t"1,5"\n"d, e"\t2\n', ["a, b", "1", "c", "1,5", "d, e", "2"]),
    "Excel, line breaks": ('text\tx\r\n"a\nb"\t1\r\nc\t2\r\n', ["a\nb", "1", "c", "2"]),
}  # fmt: skip
PLAIN = {
    "one text is a quotation": 'text\tx\n"awful market"\t1\ngood film\t0\n',
    "all texts are quotations": 'text\tx\n"awful market"\t1\n"good film"\t0\n',
    "quotations with commas beside commas": 'text\tx\n"a, b"\t1\n"c, d"\t0\n"e, f"\t0\nso, g\t0\n',
    "one text has marks inside": 'text\tx\n"a ""b"""\t1\nthe "c"\t0\n',
    "a text begins with one": 'text\tx\n"good film\t0\nbad "plot\t1\n',
}


@pytest.mark.parametrize("writer", WRITERS)
def test_tsv_as_other_programs_write_quoted_fields(writer):
    content, values = WRITERS[writer]
    assert [value for row in read(content, "rows.tsv")[1] for value in row] == values
    assert [value for row in read(gzip.compress(content.encode()), "rows.TSV.gz")[1] for value in row] == values


@pytest.mark.parametrize("kind", PLAIN)
def test_marks_that_are_part_of_texts_stay(kind):
    _, *lines = PLAIN[kind].removesuffix("\n").split("\n")
    assert read(PLAIN[kind], "rows.tsv")[1] == [line.split("\t") for line in lines]


def test_a_quoted_header_over_broken_quotes_is_refused_by_line():
    with pytest.raises(ConfigError, match="record that begins on line 3 is broken by a quotation mark"):
        read('"text"\t"x"\n"a"\t1\n"b" c\t2\n', "rows.tsv")


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
