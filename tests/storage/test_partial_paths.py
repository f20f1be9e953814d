"""Partial files: random names, never over what lies there, removed once nobody writes them."""

import fcntl
import os
import re

import pytest
from support.folders import WRITERS, die_while_writing
from support.processes import FORKS

from adamerge.storage.atomic_files import remove_whole, whole_file, whole_folder, write_text
from adamerge.storage.partial_paths import remove_leftovers_in
from adamerge.types import ConfigError

PARTIAL = re.compile(r"\.out\.[0-9a-f]{16}\.partial")


def partials(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(".partial"))


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path, kind):
    out = tmp_path / "out"
    process = FORKS.Process(target=die_while_writing, args=(kind, out))
    process.start()
    process.join(60)
    (left,) = partials(tmp_path)
    assert PARTIAL.fullmatch(left)
    (tmp_path / ".other.0123456789abcdef.partial").touch()  # of another path
    with WRITERS[kind](out):
        now = partials(tmp_path)
        assert left not in now
        assert len(now) == 2
    assert out.exists()
    remove_leftovers_in(tmp_path)
    assert partials(tmp_path) == []


def test_what_another_process_is_writing_stays(tmp_path):
    with whole_folder(tmp_path / "out") as part, whole_file(part / "a") as file:
        file.write(b"1")
        remove_leftovers_in(tmp_path)
        with whole_folder(tmp_path / "out") as second:
            assert part.exists()
            assert second != part
            (second / "b").touch()
        remove_whole(tmp_path / "out")
    assert (tmp_path / "out" / "a").read_bytes() == b"1"
    assert os.listdir(tmp_path) == ["out"]


def test_nothing_that_lies_there_is_written_to_or_followed(tmp_path, monkeypatch):
    target = tmp_path / "precious"
    target.write_text("mine")
    words = iter(["0" * 16, "0" * 16, "1" * 16])
    monkeypatch.setattr("adamerge.storage.partial_paths.secrets.token_hex", lambda size: next(words))
    (tmp_path / f".out.{'0' * 16}.partial").symlink_to(target)
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "out", "text")
    assert target.read_text() == "mine"
    with pytest.raises(FileExistsError), whole_folder(tmp_path / "out"):
        pass
    with whole_folder(tmp_path / "out"):
        pass
    assert target.read_text() == "mine"


def test_a_partial_without_lock_of_a_former_version_is_removed_from_a_run(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".merged.partial").mkdir()
    (tmp_path / "run" / ".a.0123456789abcdef.partial").touch()
    (tmp_path / "run" / "notes.partial").touch()
    held = os.open(tmp_path / "run" / ".b.0123456789abcdef.partial", os.O_CREAT | os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    remove_leftovers_in(tmp_path)
    os.close(held)
    assert partials(tmp_path / "run") == [".b.0123456789abcdef.partial", "notes.partial"]


def test_long_names(tmp_path):
    name = "ü" * 120
    write_text(tmp_path / name, "text")
    assert os.listdir(tmp_path) == [name]


def test_of_two_that_write_one_folder_the_second_is_told(tmp_path):
    out = tmp_path / "out"

    def write_both():
        with whole_folder(out) as part:
            write_text(part / "second", "2")
            out.mkdir()
            write_text(out / "first", "1")

    with pytest.raises(ConfigError, match=r"out: exists already: another process"):
        write_both()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "first"]
