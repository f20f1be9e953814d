"""Which files a path means, in which encodings, and damaged files, named by row and line."""

import bz2
import gzip
import json
import lzma
import os
import tempfile
from pathlib import Path

import datasets
import pytest
from datasets.config import HF_DATASETS_CACHE

from adamerge.data.settings import DataSource
from adamerge.data.tables import load_table
from adamerge.types import ConfigError

ROWS = '{"text": "good"}\n{"text": "bad"}\n'


def load(path, rows=None, **source):
    return load_table(DataSource(str(path), **source), "mood", 0, rows)


def texts(path, **source):
    return load(path, **source).texts("text")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", ["batch[1].csv", "[2024] news/rows.csv", "a*b?.csv", "{a,b}.csv", "ä.csv", "~$ #.csv"])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_names_are_taken_literally(tmp_path, name, ending):
    for other in ("batch1.csv", "ab.csv", "aab.csv", "a.csv", "2 news/rows.csv"):
        write(tmp_path / other, "text\nwrong\n")
    write(tmp_path / f"{name}{ending}", gzip.compress(b"text\nright\n") if ending else "text\nright\n")
    assert texts(tmp_path / f"{name}{ending}") == ["right"]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.tsv", "rows.txt", "rows.json"])
def test_other_content_under_the_same_path_and_time_is_read_anew(tmp_path, name):
    contents = {".jsonl": '"{}"\n', ".csv": "text\n{}\n", ".tsv": "text\n{}\n", ".txt": "{}\n", ".json": '["{}"]'}
    for word in ("good", "loud"):
        file = write(tmp_path / name, contents[Path(name).suffix].format(word))
        os.utime(file, ns=(10**18, 10**18))
        assert texts(file) == [word]


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    for key in ("HF_DATASETS_CACHE", "HF_MODULES_CACHE", "DOWNLOADED_DATASETS_PATH", "EXTRACTED_DATASETS_PATH"):
        monkeypatch.setattr(datasets.config, key, tmp_path / "cache" / key, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    data = datasets.Dataset.from_dict({"text": ["good", "bad"]})
    data.to_parquet(str(tmp_path / "rows.parquet"))
    data.save_to_disk(str(tmp_path / "saved"))
    write(tmp_path / "rows.jsonl", ROWS)
    write(tmp_path / "folder/rows.csv.gz", gzip.compress(b"text\ngood\nbad\n"))
    before = {*tmp_path.rglob("*")}
    for name in ("rows.parquet", "saved", "rows.jsonl", "folder"):
        assert texts(tmp_path / name) == ["good", "bad"]
    assert {*tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    "name", ["rows.JSONL", "rows.NdJson", "rows.jsonl.gz", "rows.JSONL.GZ", "rows.jsonl.bz2", "rows.jsonl.xz"]
)
def test_endings(tmp_path, name):
    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.get(Path(name).suffix.lower(), bytes)
    assert texts(write(tmp_path / name, pack(ROWS.encode()))) == ["good", "bad"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.txt", "rows.jsonl"])
def test_marks_of_encodings_and_ends_of_lines(tmp_path, encoding, end, name):
    lines = ['"schön"', '"good"'] if name == "rows.jsonl" else ["schön", "good"]
    lines = ["text", *lines] if name in ("rows.csv", "rows.tsv") else lines
    file = write(tmp_path / name, "".join(line + end for line in lines).encode(encoding))
    assert texts(file) == ["schön", "good"]


REFUSED = {
    "cut": ("a.jsonl", ROWS[:-4], r"row 2 \(line 2\) is not JSON"),
    "after blank lines": ("a.jsonl", f"{ROWS}\n\n{{", r"row 3 \(line 5\) is not JSON"),
    "twice": ("a.jsonl", '{"text": "a", "text": "b"}', r"row 1 \(line 1\) has the key 'text' twice"),
    "twice, inside": ("a.json", '[{"text": "a", "x": {"y": 1, "y": 2}}]', r"row 1 \(line 1\) has the key 'y' twice"),
    "a number without end": ("a.jsonl", ROWS + '{"text": 1e400}', r"row 3 \(line 3\) holds 1e400"),
    "NaN": ("a.jsonl", ROWS + '{"text": NaN}', r"row 3 \(line 3\) holds NaN"),
    "infinite": ("a.jsonl", '{"text": "a", "x": -Infinity}', r"row 1 \(line 1\) holds -Infinity"),
    "half a character": ("a.jsonl", ROWS + r'{"text": "\ud83d"}', r"row 3 \(line 3\) holds half of a surrogate pair"),
    "half a character, array": ("a.json", r'["a", "\ud83d"]', r"row 2 \(line 1\) holds half of a surrogate pair"),
    "number": ("a.jsonl", ROWS + "7", r"row 3 \(line 3\) is no object: .* found 7"),
    "list": ("a.jsonl", "[1]", r"row 1 \(line 1\) is no object: .* found \[1\]"),
    "deep": ("a.jsonl", "[" * 10**5, r"row 1 \(line 1\) is nested too deeply"),
    "array, cut": ("a.json", '[{"text": "a"},\n{"text": ', r"row 2 \(line 2\) is not JSON"),
    "array without an end": ("a.json", '[{"text": "a"}', r"row 2 \(line 1\) is not JSON \(expected , or \] after"),
    "array and more": ("a.json", '["a"] ["b"]', "expected nothing after the array"),
    "one object over lines": ("a.json", '{\n "text": ["a", "b"]\n}', 'orient="records", lines=True'),
    "lists by column": ("a.json", '{"text": ["a", "b"], "label": [0, 1]}\n', "one object for all rows.*lines=True"),
    "objects by column": ("a.json", '\n{"text": {"0": "a", "1": "b"}}', "one object for all rows"),
    "UTF-8": ("a.jsonl", ROWS.encode() + b'"sch\xf6n"\n', "line 3: .* UTF-8, found the byte 0xf6 at position 5"),
    "UTF-8, csv": ("a.csv", "text\ngood\ncafé\n".encode("cp1252"), "line 3: .* UTF-8, found the byte 0xe9"),
    "UTF-16 without a mark": ("a.csv", "text\ngood\n".encode("utf-16-le"), "line 1: expected text, found a null byte"),
    "UTF-16, joined": ("a.txt", "a\n".encode("utf-16") + "\ufeffb\n".encode("utf-16-be"), "line 2: .* one byte order"),
    "null byte": ("a.txt", "good\nba\0d\n", "line 2: expected text, found a null byte"),
    "UTF-16, cut": ("a.txt", "good\n".encode("utf-16")[:-1], "expected text in utf-16"),
    "too many fields": ("a.csv", "text,label\na,0\nb,c,1\n", r"row 2 \(line 3\) has 3 fields, .* names 2 columns"),
    "too few fields": ("a.csv", 'text,label\n"a\nb",0\nc\n', r"row 2 \(line 4\) has 1 fields"),
    "too many fields, tsv": ("a.tsv", "text\tlabel\na\t0\nb\tc\t1\n", r"row 2 \(line 3\) has 3 fields"),
    "quote without an end": ("a.csv", 'text\n"a\nb\n', "begins on line 2 is broken by a quotation mark on line 3"),
    "text after a quote": ("a.csv", 'text\na\n"b" c\n', "begins on line 3 is broken by a quotation mark on line 3"),
    "two columns of one name": ("a.csv", "text,text\na,b\n", "two columns have the name 'text'"),
    "gzip, cut": ("a.jsonl.gz", gzip.compress(ROWS.encode() * 99)[:-9], "compressed file is damaged or incomplete"),
    "no gzip": ("a.jsonl.gz", ROWS, "compressed file is damaged or incomplete"),
    "zip as gzip": ("a.csv.gz", b"PK\3\4", "compressed file is damaged or incomplete"),
    "bz2, another one damaged": ("a.jsonl.bz2", bz2.compress(ROWS.encode()) + b"BZh9" * 9, "rows behind them would be"),
    "xz and others": ("a.jsonl.xz", lzma.compress(ROWS.encode()) + b"xz" * 9, "rows behind them would be lost"),
    "bz2, damaged": ("a.txt.bz2", bz2.compress(ROWS.encode())[:20] + b"0" * 99, "damaged or incomplete after line 0"),
    "gzip without its ending": ("a.jsonl", gzip.compress(ROWS.encode()), r"found compressed data \(.gz\) under"),
    "joined, another order": ("a.csv", "text,label\na,0\nlabel,text\n", r"row 2 \(line 3\) names the columns in an"),
    "another format": ("a.xlsx", b"PK", r"expected a file that ends in \.jsonl, .*found a\.xlsx"),
    "sound": ("a.FLAC", b"fLaC", "found 1 file of sound, such as a.FLAC: sound .*data-free method.*in Python"),
    "video": ("a.mp4", b"ftyp", "found 1 file of video, such as a.mp4"),
    "nothing": ("a.jsonl", "", "expected at least 1 row, found none"),
    "a header alone": ("a.csv", "text\n", "expected at least 1 row, found none"),
    "semicolons": ("a.csv", "text;label\na;1\n", "expected a column 'text'.*text;label.*The first line has semicolons"),
    "Git LFS": ("a.txt", "version https://git-lfs.github.com/spec/v1\nsize 3\n", "found a pointer .* git lfs pull"),
    "no parquet": ("a.parquet", "text", "[Pp]arquet"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_damaged_files_are_refused_by_row_and_line(tmp_path, name):
    file, content, words = REFUSED[name]
    with pytest.raises(ConfigError, match=f"mood: .*{file}: .*{words}") as refused:
        load(write(tmp_path / file, content)).require(["text"])
    assert len(str(refused.value)) < 700


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (7, "found 7. Write numbers in quotation marks"),
        (1.5, "found 1.5"),
        (True, "found true"),
        (None, "found null. Correct or remove"),
        (["a", "b"], r"found \['a', 'b'\]. Join lists of words"),
        ({"0": "a"}, r"found \{.*Write one object per row"),
    ],
)
def test_only_text_is_text(tmp_path, value, words):
    file = write(tmp_path / "a.jsonl", ROWS + "\n" + json.dumps({"text": value}))
    with pytest.raises(ConfigError, match=rf"a.jsonl: row 3 \(line 4\): expected a text in the column 'text', {words}"):
        texts(file)


def test_rows_that_are_drawn_keep_their_numbers_and_lines(tmp_path):
    file = write(tmp_path / "a.csv", "text,label\n" + "".join(f"{i},0\n" for i in range(50)))
    table = load(file, rows=5)
    assert [table.place(i) for i in range(5)] == [f"row {int(t) + 1} (line {int(t) + 2})" for t in table.texts("text")]


def test_what_is_read_in_a_special_way_is_noted(tmp_path):
    def notes(name, content):
        return " ".join(load(write(tmp_path / name, content)).reading_notes({"text": "text"}))

    assert notes("a.jsonl", ROWS).endswith("a.jsonl: 2 rows.")
    assert "2 lines without content are skipped" in notes("b.jsonl", f"\n{ROWS}\n")
    assert "2 of 3 texts in the column 'text' are empty, the first one in row 2 (line 3)" in notes(
        "c.csv", 'text,x\na,\n,1\n" ",'
    )
    assert "1 rows span several lines" in notes("d.csv", 'text\n"a\nb"\nc\n')
    assert "1 rows have a field that begins with a quotation mark" in notes("e.tsv", 'text\tx\n"a" b\tc\n')
    assert "1 file is read as tab-separated values with quoted fields" in notes("f.tsv", 'text\tx\n"a ""b"""\tc\n')


# --- folders of tables -----------------------------------------------------------------------------------------------


def test_rows_of_the_hub_are_said_to_stay_in_a_cache(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_dict({"text": ["good"]}))
    table = load("someone/rows")
    assert table.texts("text") == ["good"]
    assert f"stay in the cache of datasets ({HF_DATASETS_CACHE})" in table.notes[0]


def test_endings_of_one_format_are_joined(tmp_path):
    for name in ("a.jsonl", "b.ndjson", "c.JSONL"):
        write(tmp_path / name, f'"{name}"\n')
    assert texts(tmp_path) == ["a.jsonl", "b.ndjson", "c.JSONL"]


def test_shards_are_joined_in_order_and_places_name_them(tmp_path):
    for number in (1, 0, 2):
        content = gzip.compress(f'"{number}"\n{"" if number != 1 else "{}"}\n'.encode())
        write(tmp_path / f"part/rows-{number:05}-of-00003.jsonl.gz", content)
    write(tmp_path / ".hidden.jsonl", "damaged")
    write(tmp_path / "README.md", "about")
    table = load(tmp_path)
    assert table.values("text") == ["0", "1", None, "2"]
    assert table.place(3) == "row 4 (rows-00002-of-00003.jsonl.gz, line 1)"
    assert (
        "3 files are joined: rows-00000-of-00003.jsonl.gz, rows-00001-of-00003.jsonl.gz, rows-00002" in table.notes[2]
    )
    assert any("1 files that are no tables are ignored, such as README.md" in note for note in table.notes)
    with pytest.raises(ConfigError, match=r"row 3 \(rows-00001-of-00003.jsonl.gz, line 2\): expected a text"):
        table.texts("text")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["a.jsonl", "b.csv"], "expected tables of one format, found a.jsonl and b.csv"),
        (
            ["reviews.jsonl", "reviews_test.jsonl"],
            "found files of the splits test beside others, such as reviews.jsonl",
        ),
        (
            ["validation.jsonl", "test-0.jsonl"],
            "there is no split 'train'; the files are named after the splits test, ",
        ),
        (["a.jsonl", "a.jsonl.gz"], "expected every file once, found a.jsonl and a.jsonl.gz"),
        (["notes.md"], "expected a folder of images, of tables or a saved datasets directory, found neither"),
    ],
)
def test_folders_that_may_mean_several_tables_are_refused(tmp_path, files, words):
    for file in files:
        write(tmp_path / file, ROWS)
    with pytest.raises(ConfigError, match=words):
        load(tmp_path)


def test_split_of_a_folder_of_tables(tmp_path):
    for split in ("train", "val", "test"):
        for shard in range(2):
            write(tmp_path / f"data/{split}-{shard:05}-of-00002.jsonl", f'"{split} {shard}"\n')
    table = load(tmp_path)
    assert table.texts("text") == ["train 0", "train 1"]
    assert "named after the splits test, train, validation: train is read, 2 of 6 files" in table.notes[0]
    assert texts(tmp_path, split="validation") == ["val 0", "val 1"]


def test_damaged_shard_is_named(tmp_path):
    write(tmp_path / "0.csv", "text\na\n")
    write(tmp_path / "1.csv", 'text\n"a\n')
    with pytest.raises(ConfigError, match=r"1\.csv, the record that begins on line 2"):
        load(tmp_path)


@pytest.mark.parametrize("row", ['{"text": ["a", "b"], "label": 1}', '{"text": "a", "box": [1, 2]}', '{"text": ["a"]}'])
def test_one_row_in_a_json_file_is_a_row(tmp_path, row):
    assert len(load(write(tmp_path / "a.json", row))) == 1


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["train-00000-of-00003.jsonl", "train-00002-of-00003.jsonl"],
         "2 of 3 files are there, 1 is missing (the first: 00001)"),
        (["a_1-of-3.jsonl", "a_3-of-3.jsonl"], "a: 2 of 3 files are there, 1 is missing (the first: 2)"),
        (["a_1-of-2.jsonl", "a_2-of-2.jsonl"], ""),
        (["a-0-of-2.jsonl", "a-1-of-2.jsonl"], ""),
        (["part-7.jsonl", "part-9.jsonl"], ""),
    ],
)  # fmt: skip
def test_missing_shards_are_said(tmp_path, names, words):
    for name in names:
        write(tmp_path / name, ROWS)
    notes = load(tmp_path).notes
    assert any(words in note for note in notes) if words else not any("missing" in note for note in notes)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["yes/a.wav", "no/b.mp3", "notes.md"], r"found 2 files of sound, such as b\.mp3"),
        (["a.mpg"], r"found 1 file of video, such as a\.mpg"),
        (["a.ogg", "b.mkv"], "found 2 files of sound and video, such as a.ogg: sound and video cannot be encoded yet"),
    ],
)
def test_folders_of_sound_and_video_are_refused_in_words(tmp_path, names, words):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=words):
        load(tmp_path)


@pytest.mark.parametrize("name", ["test-0.jsonl", "validation/rows.jsonl"])
def test_the_only_split_is_read_and_said_if_another_one_is_asked_for(tmp_path, name):
    write(tmp_path / name, ROWS)
    (found,) = {"test", "validation"} & set(name.replace("-", "/").split("/"))
    assert f"all files are named after the split {found}, which is read (key split: train)." in load(tmp_path).notes
    assert load(tmp_path, split=found).notes == ()
