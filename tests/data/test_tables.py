"""Every table format returns the rows that were written.

Values are restricted to texts that type inference leaves unchanged: in csv and tsv a column of numbers ("007"), of
dates or of missing values ("N/A") is not read as text.
"""

import csv
import json
import tempfile
from pathlib import Path

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adamerge.data.settings import DataSource
from adamerge.data.tables import load_table

WORDS = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=20).map(lambda text: f"x{text}x")
TABLES = st.integers(1, 5).flatmap(
    lambda rows: st.fixed_dictionaries(
        {column: st.lists(WORDS, min_size=rows, max_size=rows) for column in ("text", "more")}
    )
)


def save(file, columns):
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if file.suffix == ".parquet":
        datasets.Dataset.from_dict(columns).to_parquet(str(file))
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows), encoding="utf-8")
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        with file.open("w", encoding="utf-8", newline="") as out:
            writer = csv.DictWriter(out, list(columns), delimiter="\t" if file.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
@settings(max_examples=15, deadline=None)
@given(columns=TABLES)
def test_rows_are_read_as_written(suffix, columns):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", Path(folder) / "cache")
        file = Path(folder) / f"rows{suffix}"
        save(file, columns)
        table = load_table(DataSource(str(file)), "mood", 0)
        assert {column: table.texts(column) for column in columns} == columns
