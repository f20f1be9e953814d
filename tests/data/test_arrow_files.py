"""Damaged files of Parquet and of saved datasets are refused by their names, with the way on."""

import shutil

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.bad_input import DAMAGES

from adamerge.data.settings import DataSource
from adamerge.data.tables import load_table
from adamerge.types import ConfigError

ROWS = {"text": ["good", "bad", "dull"], "label": [0, 1, 0]}
FILES = {"saved": ("data-00000-of-00001.arrow", "dataset_info.json", "state.json"), "folder": ("rows.parquet",)}
HARMLESS = {"no keys", "nan", "key twice", "long text"}
"""Nothing is asked of what describes rows but not where they are."""
WAYS = ("Copy", "Save the files apart", "Correct the path", "Remove it from the folder")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder, rows = tmp_path_factory.mktemp("arrow"), datasets.Dataset.from_dict(ROWS)
    rows.save_to_disk(str(folder / "saved"))
    (folder / "folder").mkdir()
    rows.to_parquet(str(folder / "folder/rows.parquet"))
    return folder


@pytest.mark.parametrize(("place", "file"), [(place, file) for place, files in FILES.items() for file in files])
def test_what_is_damaged_is_named(whole, tmp_path, place, file):
    refused = 0
    for number, (name, damage) in enumerate(DAMAGES.items()):
        if name == "gone" or (file, name) == ("rows.parquet", "folder"):  # a folder without rows
            continue
        folder = shutil.copytree(whole / place, tmp_path / f"{number}")
        damage(folder / file)
        try:
            table = load_table(DataSource(str(folder)), "mood", 0)
        except ConfigError as error:
            refused += 1
            said = str(error)
            assert file in said, (name, said)
            assert any(
                word in said
                for word in ("Copy", "Save the files apart", "Correct the path", "Remove it from the folder")
            ), said
        else:
            assert name in HARMLESS, name
            assert table.values("text") == ROWS["text"]
    assert refused >= len(DAMAGES) - 1 - len(HARMLESS)


@pytest.mark.parametrize("value", ["null", "3", '"a"', "[1]", '{"a": 1}', '{"a": {"_type": "None"}}'])
def test_descriptions_of_other_types_are_refused_in_words(whole, tmp_path, value):
    folder = shutil.copytree(whole / "saved", tmp_path / "saved")
    (folder / "state.json").write_text(f'{{"_data_files": {value}}}')
    with pytest.raises(ConfigError, match=r"mood: .*state\.json.*(Copy|save)"):
        load_table(DataSource(str(folder)), "mood", 0)


@pytest.mark.parametrize("compressed", ["none", "snappy"])
@pytest.mark.parametrize("rows", [0, 3, 2000])
def test_joined_files_are_refused_by_name(whole, tmp_path, rows, compressed):
    first, last = tmp_path / "first.parquet", tmp_path / "last.parquet"
    for file, letter in ((first, "a"), (last, "b")):
        table = pa.table({"text": [f"{letter}{row:04}" for row in range(rows)]}, pa.schema({"text": pa.string()}))
        pq.write_table(table, file, use_dictionary=False, compression=compressed, write_page_index=True)
    joined = tmp_path / "joined.parquet"
    joined.write_bytes(first.read_bytes() + last.read_bytes())
    if rows and int(pa.__version__.split(".")[0]) > 17:  # which reads the first file's rows, by the last one's end
        assert pq.read_table(joined)["text"][0].as_py() == "a0000"
    with pytest.raises(ConfigError, match=r"joined\.parquet: expected one Parquet file, .*Save the files apart"):
        load_table(DataSource(str(joined)), "mood", 0)
    if rows:
        assert load_table(DataSource(str(last)), "mood", 0).values("text")[0] == "b0000"


def test_streams_one_after_another_are_refused_by_name(whole, tmp_path):
    folder = shutil.copytree(whole / "saved", tmp_path / "saved")
    stream = folder / FILES["saved"][0]
    stream.write_bytes(stream.read_bytes() * 2)
    assert len(datasets.load_from_disk(str(folder))) == len(ROWS["text"])  # datasets reads the first of them alone
    with pytest.raises(ConfigError, match=r"data-00000-of-00001\.arrow: expected the end of the file after its rows"):
        load_table(DataSource(str(folder)), "mood", 0)
