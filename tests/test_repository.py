"""What pyproject.toml and the files beside it promise agrees with the code and with each other."""

import ast
import itertools
import re
import runpy
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_bytes().decode())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def test_what_is_imported_is_declared():
    declared = {
        canonicalize_name(Requirement(line).name)
        for line in [*PROJECT["dependencies"], *EXTRAS["demo"], *EXTRAS["adapters"]]
    }
    owners = packages_distributions()
    imported = {name for path in (ROOT / "adamerge").rglob("*.py") for name in imports(path)}
    elsewhere = {"_typeshed", "lm_eval"}  # for type checkers alone, and in the Python of lm-eval
    foreign = imported - sys.stdlib_module_names - {"adamerge"} - elsewhere
    assert {"torch", "yaml"} <= foreign
    undeclared = {name for name in foreign if declared.isdisjoint(map(canonicalize_name, owners.get(name, [name])))}
    assert not undeclared


def imports(path):
    """Top-level names that a file imports."""
    for node in ast.walk(ast.parse(path.read_bytes().decode())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def test_oldest_dependencies_are_the_lower_bounds_and_are_allowed():
    constraints = runpy.run_path(str(ROOT / ".ci" / "oldest_constraints.py"))["constraints"]
    pins = [Requirement(line) for line in constraints((ROOT / "pyproject.toml").read_bytes().decode())]
    bounds = {
        Requirement(line).name: Requirement(line)
        for line in [*PROJECT["dependencies"], *EXTRAS["demo"], *EXTRAS["adapters"]]
    }
    assert [pin.name for pin in pins] == list(bounds)
    assert all(next(iter(pin.specifier)).version in bounds[pin.name].specifier for pin in pins)


def test_oldest_dependencies_are_tested_with_the_tools_of_ci():
    tools = runpy.run_path(str(ROOT / ".ci" / "oldest_constraints.py"))["tools"]
    pyproject, pins = ((ROOT / name).read_bytes().decode() for name in ("pyproject.toml", ".ci/constraints.txt"))
    assert [pin for pin in tools(pyproject, pins) if pin.startswith("pytest==")]
    assert not [pin for pin in tools(pyproject, pins) if pin.startswith(("numpy==", "torch=="))]


def test_bound_without_a_lower_end_is_refused():
    oldest = runpy.run_path(str(ROOT / ".ci" / "oldest_constraints.py"))["oldest"]
    with pytest.raises(ValueError, match="NAME>=VERSION"):
        oldest(Requirement("scipy<2"))
    assert oldest(Requirement("torch[all]>=2.6,<3,!=2.7")) == "torch==2.6"


def test_no_script_takes_the_place_of_a_package():
    folders = tomllib.loads((ROOT / "pyproject.toml").read_bytes().decode())["tool"]["pytest"]["ini_options"][
        "pythonpath"
    ]
    scripts = {path.stem for folder in folders for path in (ROOT / folder).glob("*.py")}
    assert {"gpu", "run"} <= scripts
    assert not scripts & {"cuda", *sys.stdlib_module_names, *packages_distributions()}


def test_pinned_versions_of_ci_are_allowed():
    pins = {
        (pin := Requirement(line)).name: pin for line in (ROOT / ".ci/constraints.txt").read_bytes().decode().split()
    }
    for line in [*PROJECT["dependencies"], *EXTRAS["demo"]]:
        wanted = Requirement(line)
        if wanted.name in pins:
            assert next(iter(pins[wanted.name].specifier)).version in wanted.specifier, line


def test_withdrawn_releases_are_not_allowed():
    (lightning,) = (Requirement(line) for line in PROJECT["dependencies"] if line.startswith("pytorch-lightning"))
    assert [version for version in ("2.6.1", "2.6.2", "2.6.3", "2.6.4") if version in lightning.specifier] == [
        "2.6.1",
        "2.6.4",
    ]


def test_hooks_use_the_linter_that_ci_uses():
    hooks = [
        hook
        for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_bytes().decode())["repos"]
        for hook in repo["hooks"]
    ]
    pins = [pin for hook in hooks for pin in hook["additional_dependencies"]]
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", pin) for pin in pins)
    assert {pin for pin in pins if pin.startswith("ruff")} == {
        line for line in EXTRAS["test"] if line.startswith("ruff")
    }


def test_changelog_has_this_version():
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_bytes().decode(), flags=re.MULTILINE)
    assert PROJECT["version"] in headings


def test_licence_is_the_one_that_is_declared():
    text = (ROOT / PROJECT["license-files"][0]).read_bytes().decode()
    assert PROJECT["license"] == "Apache-2.0"
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert len(text.splitlines()) == 201


@pytest.mark.parametrize(
    "script",
    sorted(
        str(path.relative_to(ROOT)) for path in [*ROOT.glob("findings/*.sh"), ROOT / ".ci/run", ROOT / ".ci/oldest"]
    ),
)
def test_scripts_are_bash_and_stop_at_the_first_error(script):
    text = (ROOT / script).read_bytes().decode()
    assert subprocess.run(["bash", "-n", ROOT / script]).returncode == 0
    assert "set -euo pipefail" in text


def test_answers_of_the_contributing_guide_are_where_it_says():
    rows = re.findall(r"^\| .+\? \| (.+) \|$", (ROOT / "CONTRIBUTING.md").read_bytes().decode(), re.MULTILINE)
    answers = [re.findall(r"`([\w.]+)` in `([\w/.]+/[\w.]+)`", row) for row in rows]
    assert len(answers) >= 4
    assert all(answers)
    for name, path in itertools.chain(*answers):
        tree, *parts = ast.parse((ROOT / path).read_bytes().decode()), *name.split(".")
        for part in parts:
            tree = next(node for node in tree.body if getattr(node, "name", "") == part)


def test_rows_become_batches_in_one_place():
    found = [path.name for path in (ROOT / "adamerge").rglob("*.py") if "def batch(" in path.read_text("utf-8")]
    assert found == ["rows.py"]
