"""Quiet libraries, one thread, and no hub."""

# ruff: noqa: E402 - libraries are imported when all of that is set

import gc
import os
from pathlib import Path

gc.disable()  # until all tests are collected, as what is made until then stays

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # models this small gain nothing from more, and rounding would follow the machine
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
os.environ["MATPLOTLIBRC"] = str(Path(__file__).parent / "support" / "matplotlibrc")  # also for processes of their own

import shutil
import sys

import hypothesis
import pytest
from support.processes import run
from support.shared import PLACE, made_once
from support.stand_ins import FEW, OF_RUNS, UNASKED, nothing

# The same examples always.
hypothesis.settings.register_profile("same", max_examples=50, derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("same")


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="Judge all bad input, and not a sample of it.")


@pytest.hookimpl(wrapper=True)
def pytest_collect_file():
    """Files of tests are not searched for doctests, which only the package has; benchmarks are, and so are imported."""
    found = yield
    return [one for one in found if type(one) is pytest.Module] or found


def pytest_collection_finish():
    """Let the search for garbage pass over the million objects that imports and the collection have made."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items):
    """Long tests come first, so that no process waits for one at the end; first of all tests of the demo.

    One process makes the demo while the other has work of its own, and takes short tests from the end of the first.
    """
    items.sort(key=lambda item: (not uses_demo(item), item.get_closest_marker("long") is None))


def uses_demo(item):
    return "demo_folder" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def text_family(_place):
    """A folder with a tiny base, three experts, their rows and merge.yaml; not to be altered."""
    from support.families import save_text_family  # slow, and the first process of xdist has no need of it

    def make(folder):
        folder.mkdir()
        save_text_family(folder)

    return made_once("family", make)


@pytest.fixture(scope="session", autouse=True)
def _place(tmp_path_factory, request):
    """What is made once is made in a folder of all processes."""
    own = tmp_path_factory.getbasetemp()
    PLACE[:] = [own.parent if hasattr(request.config, "workerinput") else own]


@pytest.fixture(scope="session")
def demo_training():
    """How `demo_folder` is made: a narrower model, less training and fewer rows to measure than the real demo has."""
    from adamerge import demo

    return demo.Training(width=64, base_steps=150, expert_steps=75, many=1640, calibration=64)


@pytest.fixture(scope="session")
def demo_folder(demo_training):
    """What `adamerge demo` leaves, its finished run included, with less training and fewer steps; not to be altered."""
    from adamerge import cli, demo
    from adamerge.runs.presets import DEFAULT, PRESETS

    def make(folder):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(demo, "TRAINING", demo_training)
            patch.setitem(PRESETS[DEFAULT], "trainer.max_steps", 40)
            assert cli.main(["demo", "--folder", str(folder)]) == 0

    return made_once("demo", make)


@pytest.fixture
def family(text_family, tmp_path, monkeypatch):
    """A copy of the family that may be spoilt, as the current directory."""
    monkeypatch.chdir(shutil.copytree(text_family, tmp_path / "family"))
    return tmp_path / "family"


@pytest.fixture(scope="session")
def finished(text_family):
    """The family with the finished run `run` and what it printed, log.txt; not to be altered."""

    def make(folder):
        shutil.copytree(text_family, folder)
        assert run(["fit", "--config", "merge.yaml", "--run_dir", "run"], folder, folder / "log.txt") == 0

    return made_once("finished", make)


@pytest.fixture
def in_finished(finished, tmp_path, monkeypatch):
    """A copy of the family with its finished run, as the current directory."""
    monkeypatch.chdir(shutil.copytree(finished, tmp_path / "family"))
    return tmp_path / "family"


@pytest.fixture(autouse=True)
def _stand_ins(request, monkeypatch):
    """Only tests that are marked draw the pictures and write the report of each run, tune over all scales, or probe."""
    monkeypatch.setattr("os.fsync", nothing)  # no test waits for a disk
    for marker, stand_in in {"all_scales": FEW, "probes": UNASKED}.items():
        if request.node.get_closest_marker(marker) is None:
            monkeypatch.setattr(*stand_in)
    if "adamerge.runs.fit" in sys.modules and request.node.get_closest_marker("reports") is None:
        for name, stand_in in OF_RUNS.items():
            monkeypatch.setattr(f"adamerge.runs.fit.{name}", stand_in)


@pytest.fixture
def main(capsys):
    """Runs a command; returns the exit code, what was printed, and what was complained of."""

    from adamerge import cli

    def call(*arguments):
        capsys.readouterr()  # output of making the family
        code = cli.main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return call
