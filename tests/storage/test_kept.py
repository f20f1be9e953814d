"""What is kept is read under its key and undamaged, and else computed again, equal to a fresh one."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adamerge.storage.atomic_files import whole_folder, write_text
from adamerge.storage.kept import Keeper, key_file
from adamerge.types import ConfigError

quick = settings(max_examples=25, deadline=None)  # every example syncs files
KEYS = st.fixed_dictionaries({word: st.sampled_from("ab") for word in ("experts", "rows", "settings")})


def content(key):
    return f"made of {sorted(key.items())}"


def write_file(path, key):
    write_text(path, content(key))


def write_folder(path, key):
    with whole_folder(path) as part:
        write_text(part / "one", content(key))
        (part / "inside").mkdir()
        write_text(part / "inside/two", content(key))


def read_folder(path):
    one, two = ((path / name).read_text() for name in ("one", "inside/two"))
    assert one == two
    return one


FORMS = {"result.txt": (write_file, Path.read_text), "result": (write_folder, read_folder)}


class Place:
    """A kept result in a folder of its own, and how often it was made."""

    def __init__(self, folder, name):
        self.path, (self.write, self.read), self.made, self.said = Path(folder) / name, FORMS[name], 0, []

    def keep(self, key, **options):
        def make(path):
            self.made += 1
            self.write(path, key)

        return Keeper(self.said.append, **options)(self.path, key, make, self.read)


@quick
@given(name=st.sampled_from(sorted(FORMS)), first=KEYS, second=KEYS)
def test_another_key_makes_it_anew_and_the_same_reads_it(name, first, second):
    with tempfile.TemporaryDirectory() as folder:
        place = Place(folder, name)
        assert place.keep(first) == content(first)
        assert place.keep(second) == content(second)
        assert place.keep(second) == content(second)
        assert place.made == 1 + (first != second)
        others = [word for word in second if first[word] != second[word]]
        assert place.said == (
            [f"{place.path}: is made of other {' and '.join(others)}; computed again"] if others else []
        )


@quick
@given(name=st.sampled_from(sorted(FORMS)), number=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_a_flipped_byte_makes_it_anew(name, number, flip):
    with tempfile.TemporaryDirectory() as folder:
        place, key = Place(folder, name), {"experts": "a"}
        place.keep(key)
        file = place.path / "inside/two" if place.path.is_dir() else place.path
        data = bytearray(file.read_bytes())
        data[number % len(data)] ^= flip
        file.write_bytes(data)
        assert place.keep(key, accept_unkeyed=True) == content(key)
        assert place.made == 2
        assert place.said == [f"{place.path}: is damaged; computed again"]


@quick
@given(name=st.sampled_from(sorted(FORMS)), cut=st.integers(0, 200), accept=st.booleans())
def test_a_damaged_key_makes_it_anew(name, cut, accept):
    with tempfile.TemporaryDirectory() as folder:
        place, key = Place(folder, name), {"experts": "a"}
        place.keep(key)
        note = key_file(place.path)
        note.write_bytes(note.read_bytes()[: min(cut, note.stat().st_size - 2)])
        assert place.keep(key, accept_unkeyed=accept) == content(key)
        assert place.made == 2


@pytest.mark.parametrize(
    "note", ["", "{}", "[]", "null", "3", '{"key": {}}', '{"sha256": "0"}', '{"key": [], "sha256": "0"}']
)
@pytest.mark.parametrize("accept", [True, False])
@pytest.mark.parametrize("name", FORMS)
def test_a_key_file_of_other_content_is_damage(tmp_path, name, accept, note):
    place, key = Place(tmp_path, name), {"experts": "a"}
    place.keep(key)
    key_file(place.path).write_text(note)
    assert place.keep(key, accept_unkeyed=accept) == content(key)
    assert place.made == 2
    assert "computed again" in place.said[0]


@pytest.mark.parametrize("error", [TypeError, KeyError, IndexError, AttributeError, ValueError, OSError])
def test_what_cannot_be_read_is_damage(tmp_path, error):
    place, key = Place(tmp_path, "result.txt"), {"experts": "a"}
    place.keep(key)
    right, calls = place.read, []

    def read(path):
        calls.append(path)
        if len(calls) == 1:
            raise error("of another form")
        return right(path)

    place.read = read
    assert place.keep(key) == content(key)
    assert place.made == 2


@pytest.mark.parametrize("name", FORMS)
def test_what_version_0_1_0_kept_is_taken_where_it_is_accepted(tmp_path, name):
    place, key = Place(tmp_path, name), {"experts": "a"}
    place.write(place.path, {"experts": "old"})
    assert place.keep(key, accept_unkeyed=True) == content({"experts": "old"})
    assert place.said == [f"{place.path}: has no key, as version 0.1.0 kept it; taken as it is"]
    assert place.keep(key) == content(key)
    assert place.said[1:] == [f"{place.path}: has no key; computed again"]


def test_what_the_reader_does_not_know_is_not_compared(tmp_path):
    place = Place(tmp_path, "result")
    place.keep({"experts": "a", "rows": "b"})
    assert place.keep({"experts": "a"}) == content({"experts": "a", "rows": "b"})
    assert place.made == 1


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: shutil.rmtree(path), "but it is gone. Resume the run, which makes it anew"),
        (lambda path: (path / "one").write_text("x"), "but it is damaged. Resume the run, which makes it anew"),
        (lambda path: None, "but it is made of other experts. Resume the run, which makes it anew"),
    ],
)
def test_what_cannot_be_made_is_refused(tmp_path, spoil, words):
    place = Place(tmp_path, "result")
    place.keep({"experts": "a"})
    spoil(place.path)
    with pytest.raises(ConfigError, match=words):
        Keeper()(place.path, {"experts": "b" if "other" in words else "a"}, None, place.read)


def test_one_that_could_not_be_made_leaves_nothing(tmp_path):
    place = Place(tmp_path, "result.txt")
    place.keep({"experts": "a"})

    def fail(path):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        Keeper()(place.path, {"experts": "b"}, fail, place.read)
    assert list(tmp_path.iterdir()) == []
