"""Shards of one table: every file is read, and under the header of the first."""

import gzip
import json
import shutil
import time

import datasets
import pytest
from PIL import Image
from support.mistakes import edit_json

from adamerge.data.settings import DataSource
from adamerge.data.tables import load_table
from adamerge.types import ConfigError


def load(path):
    return load_table(DataSource(str(path)), "mood", 0)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".csv.gz"])
@pytest.mark.parametrize(
    ("shards", "words"),
    [
        (
            ["text,label\na,x\n", "b,y\nc,y\n"],
            r"2\.[ct]sv.*: expected the header of 1\..* found 'b', 'y', which may be",
        ),
        (["a,x\n", "text,label\nb,y\n"], r"2\.[ct]sv.*: expected the header of 1\..* found 'text', 'label'"),
        (["text,label\na,x\n", "b,y\n"], "found 'b', 'y'"),
        (["text,label\na,x\n", "text\nb\n"], "found 'text'"),
        (["text,label\na,x\n", "label,text\ny,b\n"], None),
        (["text,label\na,x\n", "", "text,label\n", "text,label\nb,y\n"], None),
    ],
)
def test_every_shard_has_the_header_of_the_first(tmp_path, shards, words, ending):
    for number, content in enumerate(shards, 1):
        content = content if ending != ".tsv" else content.replace(",", "\t")
        write(tmp_path / f"{number}{ending}", gzip.compress(content.encode()) if ending.endswith("gz") else content)
    if words is None:
        assert load(tmp_path).texts("text") == ["a", "b"]
    else:
        with pytest.raises(ConfigError, match=words):
            load(tmp_path)


def test_underscores_hide_no_shard(tmp_path):
    for name in ("__a", "_b", "c"):
        write(tmp_path / f"{name}.jsonl", f'"{name}"\n')
    assert sorted(load(tmp_path).texts("text")) == ["__a", "_b", "c"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "text,\na,1\nb,\n", r"1 rows have a value in a column that the first line does not name"),
        ("a.csv", "text,\na,\nb,\n", None),
        ("a.tsv", "\ttext\n0\ta\n1\tb\n", r"2 rows have a value in a column that the first line does not name"),
        ("a.csv", "n,text\n1,a\nn,text\n2,b\n", r"1 rows hold the names of the columns"),
        ("a.tsv", "n\ttext\n1\ta\nn\ttext\n", r"1 rows hold the names of the columns"),
        ("a.csv", 'n,text\n1, "a"\n2,"b"\n', r"1 rows have a field in quotation marks with a space before them"),
        ("a.csv", 'n,text\n1, a "b"\n2," b"\n', None),
        ("a.csv", "\ufeffn,text\n1,a\n\ufeff2,b\n", r"1 lines begin with a byte order mark"),
        ("a.jsonl", b'"a"\n\xef\xbb\xbf"b"\n', r"1 lines begin with a byte order mark"),
        ("a.txt", "a\n".encode("utf-16") * 3, r"2 lines begin with a byte order mark"),
        ("a.txt", "a\ufeffb\n", None),
    ],
)
def test_what_a_table_leaves_out_or_keeps_against_expectation_is_said(tmp_path, name, content, words):
    write(tmp_path / name, content)
    notes = load(tmp_path / name).notes
    assert notes == () if words is None else [note for note in notes if note.startswith(words)] == list(notes) != []


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".txt", ".jsonl"])
def test_marks_of_joined_files_are_no_part_of_a_value(tmp_path, ending):
    rows = ['{"text": "a"}', '{"text": "b"}'] if ending == ".jsonl" else ["a", "b"]
    lines = rows if ending in (".jsonl", ".txt") else ["text", '"a""c"', rows[1]]
    write(tmp_path / f"a{ending}", "".join(f"\ufeff{line}\n" for line in lines))
    assert load(tmp_path / f"a{ending}").texts("text") == (["a", "b"] if rows == lines else ['a"c', "b"])


def test_files_beside_those_of_a_saved_dataset_are_said(tmp_path):
    shutil.copy(saved(tmp_path, ["a", "b"]), tmp_path / "data-00001-of-00002.arrow")
    shutil.copy(tmp_path / "data-00001-of-00002.arrow", tmp_path / "cache-1.arrow")
    write(tmp_path / "more.jsonl", "{}")
    words = "2 files that state.json does not list are not read, such as data-00001-of-00002.arrow."
    assert load(tmp_path).notes == (words,)


def test_what_describes_rows_on_the_hub_is_no_table(tmp_path):
    for name in ("dataset_info.json", "dataset_infos.json"):
        write(tmp_path / name, "{}")
    write(tmp_path / "a.json", '["a"]')
    assert load(tmp_path).texts("text") == ["a"]
    assert load(tmp_path).notes == ("2 files that are no tables are ignored, such as dataset_info.json.",)


def without_state(folder):
    (folder / "state.json").unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (without_state, "expected state.json beside files that end in .arrow"),
        (lambda folder: next(folder.glob("*.arrow")).unlink(), "the saved dataset is not complete"),
    ],
)
def test_a_saved_dataset_that_is_not_complete_is_refused_as_one(tmp_path, damage, words):
    saved(tmp_path, ["a", "b"])
    damage(tmp_path)
    with pytest.raises(ConfigError, match=words):
        load(tmp_path)


@pytest.mark.parametrize("need", [False, True])
def test_marks_that_may_be_quotations_are_left_out_with_a_warning(tmp_path, need):
    rows = ['"Well, yes"\t1', '"No, no"\t0', '"Oh, my"\t1', *(['"a ""b"" c"\t1'] if need else [])]
    write(tmp_path / "a.tsv", "\n".join(["text\tlabel", *rows]) + "\n")
    table = load(tmp_path / "a.tsv")
    assert table.texts("text")[:3] == ["Well, yes", "No, no", "Oh, my"]
    said = table.reading_notes({})[-1]
    assert said.startswith("warning: mood: " if not need else "mood: ")
    assert ("If they belong to texts, save it as .csv or JSON lines." in said) != need


def test_folders_named_by_values_are_no_columns_and_this_is_said(tmp_path):
    for name in ("label=a", "label=b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "1.jsonl", '"text"\n')
    table = load(tmp_path)
    assert list(table.columns) == ["text"]
    assert any("names of folders are not read as columns: label=a, label=b." in note for note in table.notes)


def saved(folder, names, labels=(0, 1)):
    kind = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    data = datasets.Dataset.from_dict({"text": [str(n) for n in labels], "label": list(labels)}, kind)
    data.save_to_disk(str(folder))
    return next(folder.glob("*.arrow"))


@pytest.mark.parametrize("names", [["b", "a"], ["a", "c"], ["a", "b"]])
def test_shards_of_a_saved_dataset_number_their_classes_alike(tmp_path, names):
    saved(tmp_path / "one", ["a", "b"])
    shutil.copy(saved(tmp_path / "two", names), tmp_path / "one/more.arrow")
    files = [{"filename": file.name} for file in sorted((tmp_path / "one").glob("*.arrow"))]
    edit_json(tmp_path / "one/state.json", _data_files=files)
    if names == ["a", "b"]:
        assert load(tmp_path / "one").values("label") == [0, 1, 0, 1]
    else:
        with pytest.raises(ConfigError, match=rf"more.arrow: .*in their order \(a, b\), found {', '.join(names)}"):
            load(tmp_path / "one")


def test_classes_that_a_saved_dataset_names_otherwise_than_its_files_are_said(tmp_path):
    saved(tmp_path, ["a", "b"])
    assert load(tmp_path).notes == ()
    features = json.loads((tmp_path / "dataset_info.json").read_text())["features"]
    edit_json(
        tmp_path / "dataset_info.json", features={**features, "label": {**features["label"], "names": ["x", "y"]}}
    )
    table = load(tmp_path)
    assert table.class_names("label") == ["x", "y"]
    assert "the classes of 'label' are those of dataset_info.json (x, y)" in table.notes[0]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"split": "test"}, "nothing is named after a split, so all is read (key split: test)."),
        ({"name": "large"}, "there are no configurations here, so all is read (key name: large)."),
        ({}, None),
    ],
)
@pytest.mark.parametrize("place", ["rows.jsonl", "folder", "saved", "pictures"])
def test_keys_of_hub_data_sets_that_choose_nothing_are_said(tmp_path, place, source, said):
    rows = datasets.Dataset.from_dict({"text": ["good", "bad"]})
    rows.to_json(tmp_path / "rows.jsonl")
    (tmp_path / "folder").mkdir()
    shutil.copy(tmp_path / "rows.jsonl", tmp_path / "folder/a.jsonl")
    rows.save_to_disk(tmp_path / "saved")
    (tmp_path / "pictures/a").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "pictures/a/0.png")
    table = load_table(DataSource(str(tmp_path / place), **source), "mood", 0)
    assert [note for note in table.notes if "so all is read" in note] == ([said] if said else [])


def test_a_table_of_very_many_columns_is_read_in_time(tmp_path):
    names = ["text", *(f"c{number}" for number in range(20_000))]  # compared one by one, a minute
    (tmp_path / "wide.csv").write_text("".join(f"{','.join(row)}\n" for row in (names, ["a"] * len(names))))
    begun = time.process_time()
    assert len(load(tmp_path / "wide.csv").columns) == len(names)
    assert time.process_time() - begun < 4
