"""Which files of a module's folder are copied: those that its class in sentence-transformers reads."""

import importlib
import json
import pkgutil
from fnmatch import fnmatch

import pytest
import sentence_transformers
from sentence_transformers.base.modules import InputModule, Module

from adamerge.results.sentence_modules import COMPUTES, READS, read_modules


def classes(of):
    for one in of.__subclasses__():
        yield one
        yield from classes(one)


@pytest.fixture(scope="module")
def known():
    """Every class of module of the installed sentence-transformers."""
    for found in pkgutil.walk_packages(sentence_transformers.__path__, "sentence_transformers."):
        if ".modules." in found.name:
            importlib.import_module(found.name)
    own = [one for one in classes(Module) if one.__module__.startswith("sentence_transformers.")]
    return [one for one in own if not one.__name__.startswith("Base") and one is not InputModule]


def test_every_class_is_known_with_its_file(known):
    computing = [one for one in known if not issubclass(one, InputModule)]
    assert {one.__name__: one.config_file_name for one in computing} == COMPUTES
    reading = {one.config_file_name for one in known if issubclass(one, InputModule)}
    assert len(reading) > 2
    assert [name for name in reading if not any(fnmatch(name, pattern) for pattern in READS)] == []


STRAY = ("secret_config.json", "config_secret.json", "vocab.txt", "credentials.json", "sub/config.json", "x.index.json")
OF_INPUT = {"vocab.txt", "sub/config.json"}


@pytest.mark.parametrize("kind", ["Pooling", "Dense", "CNN", "Router", "Mine"])
def test_other_files_of_a_module_are_left_and_counted(tmp_path, kind):
    config = COMPUTES.get(kind, "config.json")
    (tmp_path / "modules.json").write_text(json.dumps([{"idx": 0, "path": "1_X", "type": f"a.b.{kind}"}]))
    for name in (config, "model.safetensors", "server.pem", *STRAY):
        (tmp_path / "1_X" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "1_X" / name).write_text("{}")
    found = read_modules(tmp_path)
    expected = {config} | (set() if kind in COMPUTES else OF_INPUT)
    assert {*found.files} == {f"1_X/{name}" for name in expected}
    assert {*found.passed_over} == {f"1_X/{name}" for name in {"server.pem", *STRAY} - expected}
