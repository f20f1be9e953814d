"""A file imports only from floors below its own."""

import ast
from pathlib import Path

import pytest

import adamerge

FLOORS = [
    {"types"},
    {"grouping", "feasible", "split", "weights", "places", "room"},
    {"files", "task_vectors", "objectives", "checkpoint", "data", "outputs"},
    {"cosine", "chunks", "heads", "mismatch", "zero_shot", "optim", "transforms", "coefficients", "tables"},
    {"experts", "labels", "images", "text", "chats"},
    {"speech"},
    {"inspection", "merged", "encoding"},
    {"digests"},
    {"targets", "grams", "information", "callbacks", "selected", "answers"},
    {"agreement", "module", "regmean"},
    {"evaluate", "export"},
    {"closed_form", "compare", "report", "learning"},
    {"learn"},
    {"config", "stages"},
    {"mistakes", "job", "reading"},
    {"recipe", "run_dir"},
    {"fit"},
    {"check", "rerun", "demo", "api"},
    {"cli"},
    {"__main__"},
]
PACKAGE = Path(adamerge.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


def floor(name: str) -> int:
    return next(number for number, names in enumerate(FLOORS) if name in names)


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("adamerge."):
            found.add(node.module.split(".")[1])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    upward = {name for name in imported(path) - {own} if floor(name) >= floor(own)}
    assert not upward, f"{own} (floor {floor(own)}) imports {upward}"
