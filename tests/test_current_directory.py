"""The commands import nothing from the current directory, whatever its files are called."""

import os
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = str(Path(__file__).parents[1])
MARK = "open(__file__.removesuffix('py') + 'imported', 'w').close(); raise SystemExit('imported')"


def python(*arguments, folder):
    paths = os.pathsep.join([ROOT, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def named_like_libraries(tmp_path):
    """A folder with a file named like every module that can be imported, except for those that `python -m` needs."""
    (tmp_path / "alone.py").write_text("import sys; print(*sys.modules)")
    start = {name.partition(".")[0] for name in python("-m", "alone", folder=tmp_path).stdout.split()}
    names = {*sys.stdlib_module_names, *packages_distributions()} - start - {"adamerge"}
    assert {"torch", "yaml", "rich", "typing", "dataclasses", "transformers"} <= names
    for name in names:
        (tmp_path / f"{name.replace('/', '.')}.py").write_text(MARK)
    return tmp_path


@pytest.mark.long
def test_files_named_like_libraries_are_not_imported(named_like_libraries):
    folder = named_like_libraries
    (folder / "merge.yaml").write_text("base_model: base\nmodels: [{model: mood}]\n")
    for command, code in ((["--help"], 0), (["check", "--config", "merge.yaml"], 2)):
        done = python("-m", "adamerge", *command, folder=folder)
        assert not [*folder.glob("*.imported")]
        assert done.returncode == code
        assert done.stderr == ""
    assert done.stdout.endswith("problems found\n")


def test_a_file_would_be_imported_by_python_itself(named_like_libraries):
    assert python("-c", "import typing", folder=named_like_libraries).stderr == "imported\n"


def test_paths_that_the_user_added_stay(tmp_path):
    script = "import sys; sys.argv[1:] = ['--version']; sys.path.append('extra'); import adamerge.__main__"
    done = python("-c", f"{script}; print(sys.path)", folder=tmp_path)
    assert "'extra'" in done.stdout
    assert ROOT in done.stdout
