"""Print the oldest releases that pyproject.toml allows, one `name==version` per line: a constraints file for pip.

Dependencies and the extras `demo` and `adapters` are what users install; the tools of the extra `test` are those of CI.
`torch` is left out if the environment variable TORCH names the release to test with.
"""

import os
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

HERE = Path(__file__).parent


def oldest(requirement: Requirement) -> str:
    """Pin a requirement to its lower bound.

    Raises:
        ValueError: It has no lower bound, or more than one.

    Example:
        >>> oldest(Requirement("pytorch-lightning[extra]>=2.4,!=2.6.2"))
        'pytorch-lightning==2.4'
    """
    bounds = [specifier.version for specifier in requirement.specifier if specifier.operator in (">=", "==", "~=")]
    if len(bounds) != 1:
        raise ValueError(f"pyproject.toml: {requirement} has {len(bounds)} lower bounds, expected one: NAME>=VERSION.")
    return f"{requirement.name}=={bounds[0]}"


def constraints(pyproject: str, torch: str | None = None) -> list[str]:
    """Pin what users install to its lower bounds, torch to the given release if there is one."""
    project = tomllib.loads(pyproject)["project"]
    extras = project["optional-dependencies"]
    written = [*project["dependencies"], *extras["demo"], *extras["adapters"]]
    pinned = [oldest(Requirement(line)) for line in written]
    return [f"torch=={torch}" if torch and line.startswith("torch==") else line for line in pinned]


def tools(pyproject: str, pins: str) -> list[str]:
    """Take CI's pins of the tools that the extra `test` names."""
    names = {Requirement(line).name for line in tomllib.loads(pyproject)["project"]["optional-dependencies"]["test"]}
    return [pin for pin in pins.split() if Requirement(pin).name in names]


if __name__ == "__main__":
    written = (HERE.parent / "pyproject.toml").read_text(encoding="utf-8")
    pinned = (HERE / "constraints.txt").read_text(encoding="utf-8")
    print(*constraints(written, os.environ.get("TORCH")), *tools(written, pinned), sep="\n")
