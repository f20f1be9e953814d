"""Folders that take long: what is noted is taken over with the same key, by one process, and removed with another."""

import pytest

from adamerge.storage.partial_paths import JOURNAL, remove_leftovers_in
from adamerge.storage.resumable import Begun, begun_folder, resumable_folder


def leave(path, key, *notes, error=KeyboardInterrupt):
    """Be interrupted after notes of numbered files; returns the folder, and what was noted before."""
    try:
        with resumable_folder(path, key) as begun:
            former = [*begun.finished]
            for number, name in enumerate(notes):
                (begun.files / str(number)).write_text(name)
                begun.note(name, {"number": number})
            raise error
    except error:
        return begun.place, former


def test_what_was_noted_is_taken_over_once_by_the_same_key(tmp_path):
    place, _ = leave(tmp_path / "out", {"sources": "1"}, "a", "b\n\u2028", "a")
    remove_leftovers_in(tmp_path)
    with resumable_folder(tmp_path / "out", {"sources": "1"}) as begun:
        assert (begun.place, begun.others) == (place, ())
        assert begun.finished == {"a": {"number": 2}, "b\n\u2028": {"number": 1}}
        with begun_folder(tmp_path / "out", {"sources": "1"}) as second:  # while the first one is at it
            assert (second.place != place, second.finished) == (True, {})
        begun.remove_all_but(["0", "gone"])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["0"]


def test_another_key_removes_it_and_says_in_what_it_differs(tmp_path):
    leave(tmp_path / "out", {"sources": "1", "settings": "2", "versions": "3"}, "a")
    with resumable_folder(tmp_path / "out", {"sources": "1", "settings": "4", "versions": "5"}) as begun:
        assert (begun.finished, begun.others) == ({}, ("settings", "versions"))
        assert not list(begun.files.iterdir())


@pytest.mark.parametrize(("noted", "error"), [((), KeyboardInterrupt), (("a",), ValueError)])
def test_nothing_stays_where_nothing_was_noted_or_something_is_wrong(tmp_path, noted, error):
    leave(tmp_path / "out", {"sources": "1"}, *noted, error=error)
    assert not list(tmp_path.iterdir())


def test_only_whole_lines_count(tmp_path):
    place, _ = leave(tmp_path / "out", {"sources": "1"}, *"abc")
    whole = (place / "journal").read_bytes()
    for end in range(whole.rindex(b"\n"), len(whole)):  # torn at every byte of the last note, and written on
        (place / "journal").write_bytes(whole[:end])
        assert leave(tmp_path / "out", {"sources": "1"}, "d") == (place, ["a", "b"])
        assert leave(tmp_path / "out", {"sources": "1"}) == (place, ["a", "b", "d"])


def test_a_full_disk_is_named_by_the_journal(tmp_path):
    (tmp_path / JOURNAL).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as full:
        Begun(tmp_path).note("a", {})
    assert full.value.filename == str(tmp_path / JOURNAL)
