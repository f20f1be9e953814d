"""Names that this system's file names cannot hold are refused by name, with the way on."""

import sys

import pytest
from support.complaints import HEAD, complaint

from adamerge import cli
from adamerge.storage.file_names import check_names
from adamerge.types import ConfigError

HELD = {"ascii": ["a", "l\\"], "latin-1": ["ä"], "utf-8": ["ä", "中", "😀"]}
REFUSED = {"ascii": ["ä", "中", "\udcc3\udca4"], "latin-1": ["中"], "utf-8": ["\ud800", "\udcff"]}


@pytest.mark.parametrize("encoding", HELD)
def test_names_that_the_encoding_holds(monkeypatch, encoding):
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: encoding)
    check_names(HELD[encoding])
    for name in REFUSED[encoding]:
        with pytest.raises(ConfigError, match=r"cannot be the name of a file here.*(PYTHONUTF8=1|Rename it)"):
            check_names([*HELD[encoding], name])


def test_every_name_of_a_configuration_is_refused_in_its_line(monkeypatch):
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    places = ["base_model: ö", "models: [{model: ö, calibration: ü}, {model: a, task: ä}]", "run_dir: é", "init: ./ß"]
    said = complaint("\n".join(places)).splitlines()
    keys = ["1: base_model", "2: models", "2: models", "2: models", "3: run_dir", "4: init"]
    assert [":".join(line.split(":")[1:3]) for line in said] == keys
    assert all("PYTHONUTF8=1" in line for line in said)
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "utf-8")
    assert "cannot be the name" not in complaint("unknown: 1\n" + "\n".join(places))


def test_a_name_that_is_found_later_is_no_traceback(monkeypatch, main):
    def opened(*given, **more):
        raise UnicodeEncodeError("ascii", "größe", 2, 3, "ordinal not in range(128)")

    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    monkeypatch.setattr("adamerge.command_line.read_arguments", opened)
    code, _, said = main("check", "--config", "merge.yaml")
    assert code == cli.BAD_INPUT
    assert "größe' cannot be the name of a file here, where names are in ASCII. Set PYTHONUTF8=1" in said


def test_prompts_and_classes_in_other_letters_are_no_names(monkeypatch):
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    assert "cannot be the name" not in complaint(f"{HEAD}unknown: größe")
