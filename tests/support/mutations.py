"""What can happen to a file: cut off, flipped, emptied, a folder in its place, or any value of a document replaced."""

import copy
import json
import re
import shutil
from pathlib import Path

import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from support.bad_input import OTHERS, leaves

from adamerge.types import LONGEST, ConfigError, IncompatibleExpertsError

OF_BYTES = ("cut", "flip", "empty", "insert", "folder", "gone", "zeros")
OF_DOCUMENTS = ("replace", "remove", "add", "replace", "remove")
NUMBERS = [2**64, -(2**63), float("nan"), float("inf"), -1.0, 1e308]
_WAYS = ["restore", "delete", "correct", "copy", "use", "set", "move", "remove", "resume", "write", "save", "new run"]
ADVICE = re.compile(rf"\b({'|'.join([*_WAYS, 'install'])})\b", re.IGNORECASE)
"""Words that say what to do."""

Change = tuple[str, int, int, int]


def changes(documents: bool) -> st.SearchStrategy[Change]:
    """Changes of a file; of a document also by the place of a value."""
    kinds = (*OF_BYTES, *(OF_DOCUMENTS * 2 if documents else ()))
    return st.tuples(st.sampled_from(kinds), st.integers(0, 2**20), st.integers(0, 255), st.integers(0, 7))


def spoil(path: Path, whole: bytes, change: Change, read=None, write=None) -> None:
    """Write a changed file in the place of an intact one.

    Args:
        path: The file.
        whole: Its intact content.
        change: What happens to it.
        read: Reads a document from the content.
        write: Writes a document as content.
    """
    kind, place, number, bit = change
    at = place % max(len(whole), 1)
    _remove(path)
    if kind == "folder":
        path.mkdir()
    elif kind in OF_BYTES and kind != "gone":
        flipped = bytes([whole[at] ^ 1 << bit]) if whole else b"x"
        path.write_bytes({
            "cut": whole[:at],
            "flip": whole[:at] + flipped + whole[at + 1 :],
            "empty": b"",
            "insert": whole[:at] + bytes([number]) + whole[at:],
            "zeros": whole[:at] + bytes(len(whole) - at),
        }[kind])  # fmt: skip
    elif kind in OF_DOCUMENTS:
        path.write_bytes(write(changed(read(whole), kind, place, number)))


def changed(document: object, kind: str, place: int, number: int) -> object:
    """Replace, remove or add a value anywhere in a document."""
    document = copy.deepcopy(document)
    keys = list(leaves(document))
    values = [*OTHERS, *NUMBERS]
    *path, last = keys[place % len(keys)]
    at = document
    for part in path:
        at = at[part]
    if kind == "replace":
        at[last] = values[number % len(values)]
    elif kind == "remove":
        del at[last]
    elif isinstance(at, dict):
        at[f"key{number}"] = values[number % len(values)]
    else:
        at.append(values[number % len(values)])
    return document


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def as_json(document: object) -> bytes:
    return json.dumps(document).encode()


def as_yaml(document: object) -> bytes:
    return yaml.safe_dump(document, sort_keys=False).encode()


DOCUMENTS = {"json": (json.loads, as_json), "yaml": (yaml.safe_load, as_yaml)}


def tried(path: Path, read, examples: int, form: str = "", names: str = "", advice=ADVICE) -> tuple[int, int]:
    """Read a file after many changes: each is accepted, or refused by the file's name with the way on.

    Args:
        path: The file.
        read: Reads it.
        examples: Number of changes.
        form: json or yaml, of documents.
        names: What errors name; by default the file.
        advice: What errors match.

    Returns:
        How many changes were accepted, and how many refused.
    """
    whole, counts = path.read_bytes(), [0, 0]

    @settings(max_examples=examples, derandomize=True, database=None, deadline=None, phases=[Phase.generate])
    @given(change=changes(bool(form)))
    def property_of_changes(change):
        spoil(path, whole, change, *DOCUMENTS.get(form, (None, None)))
        try:
            read(path)
        except (ConfigError, IncompatibleExpertsError) as error:
            counts[1] += 1
            said = str(error)
            assert (names or path.name) in said, (change, said)
            assert re.search(advice, said), (change, said)
            assert max(map(len, said.splitlines())) < 2 * LONGEST, change
        else:
            counts[0] += 1

    try:
        property_of_changes()
    finally:
        _remove(path)
        path.write_bytes(whole)
    return counts[0], counts[1]
