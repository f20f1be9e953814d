"""What is no file is named before anything opens it, and what others raise becomes an error with the file's name."""

import os

import pytest

from adamerge.storage.regular_files import check_folder, is_folder, problem_of, read_json, read_whole, reading
from adamerge.types import LONGEST, ConfigError, IncompatibleExpertsError


@pytest.fixture
def places(tmp_path):
    """A folder with everything that a path can lead to."""
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "nothing").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("folder", "expected a file, found a folder"),
        ("pipe", "expected a file, found a pipe"),
        ("device", "expected a file, found a device"),
        ("nothing", "is a link to a file that does not exist"),
        ("loop", "cannot be read"),
        ("absent", "there is no such file"),
        ("a\0b", "cannot be read"),
        ("x" * 300, "cannot be read"),
    ],
)
def test_what_is_no_file_is_named(places, name, words):
    assert words in problem_of(places / name)
    with pytest.raises(ConfigError, match=words):
        read_whole(places / name, 10)


def test_a_file_has_a_largest_size(places):
    assert read_whole(places / "file", 3) == b"abc"
    with pytest.raises(ConfigError, match="at most 2 bytes, found 3"):
        read_whole(places / "file", 2)


def test_an_unreadable_file_is_not_called_damaged(places, monkeypatch):
    monkeypatch.setattr("adamerge.storage.regular_files.os.access", lambda path, mode: False)
    assert problem_of(places / "file").startswith("cannot be read (permission denied). Allow it to be read")
    with pytest.raises(ConfigError, match=r"folder: cannot be read \(permission denied\)\. .* chmod u\+rx"):
        check_folder(places / "folder")


def test_what_lies_below_an_unreadable_folder_is_not_called_missing(places, monkeypatch):
    def closed(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.stat", closed)
    with pytest.raises(ConfigError, match=r"folder/model: a folder above it cannot be read \(permission denied\)"):
        is_folder(places / "folder/model")


def test_the_first_entry_of_a_folder_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "config.json").write_text("{}")
    check_folder(tmp_path)
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(ConfigError, match=r"tokenizer\.json: expected a file, found a folder"):
        check_folder(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 5000, b""])
def test_what_is_no_json_is_named(tmp_path, content):
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(IncompatibleExpertsError, match=r"a\.json: expected JSON, but it cannot be read \(.*\)\. Copy"):
        read_json(file, IncompatibleExpertsError)


def test_whatever_is_raised_becomes_one_short_line():
    with pytest.raises(ConfigError) as refused, reading("a.bin: expected weights", "Copy it again."):
        raise KeyError("x" * 100_000 + "\n\n\x1b[31m")
    said = str(refused.value)
    assert said.startswith("a.bin: expected weights (KeyError: ")
    assert said.endswith("Copy it again.")
    assert len(said) < LONGEST + 100
    assert said.isprintable()
