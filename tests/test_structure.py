"""A room imports only from rooms below it, nothing imports in a circle, files and functions are short."""

import ast
import statistics
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

from structure import functions, lines_of_code

import adamerge

ROOMS = "runs learning results calibration transforms merging data experts optim objectives storage".split()
"""From the top; the root's doors (cli, demo, …) stand above them all, its words (types, batch) below."""
WORDS = ("types", "batch")
PACKAGE = Path(adamerge.__file__).parent
MOST_LINES, MEDIAN = 300, 6
"""Of a file, in the package and in its tests; of the lines of code of functions in the package."""


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name below `adamerge`; a room's door by the room's."""
    paths = {path.relative_to(PACKAGE).with_suffix(""): path for path in PACKAGE.rglob("*.py")}
    return {".".join(part for part in key.parts if part != "__init__"): path for key, path in paths.items()}


@cache
def tree(path: Path) -> ast.Module:
    """What a file says."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> set[str]:
    """Modules that a file imports when it is loaded or later, without those for type checkers alone."""
    known, found = modules(), set()
    for node in ast.walk(tree(path)):
        assert not getattr(node, "level", 0), f"{path}: relative imports hide the room"
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "adamerge":
            module = (node.module or "").removeprefix("adamerge").lstrip(".")
            found |= {
                inner if (inner := f"{module}.{name.name}".lstrip(".")) in known else module for name in node.names
            }
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("adamerge").lstrip(".") for a in node.names if a.name.startswith("adamerge")}
    return found


def floor(module: str) -> int:
    """How far above the ground a module's room stands."""
    room = module.partition(".")[0]
    if room in ROOMS:
        return len(ROOMS) - ROOMS.index(room)
    return 0 if room in WORDS else len(ROOMS) + 1


def test_every_folder_is_a_room():
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(ROOMS)


def test_rooms_import_only_from_rooms_below():
    upward = [
        f"{module} imports {other}"
        for module, path in modules().items()
        for other in imports(path)
        if floor(other) > floor(module)
    ]
    assert not upward


def test_nothing_imports_in_a_circle():
    list(TopologicalSorter({module: imports(path) - {module} for module, path in modules().items()}).static_order())


def test_files_are_short():
    files = [path for root in (PACKAGE, Path(__file__).parent) for path in root.rglob("*.py")]
    lines = {path: path.read_text(encoding="utf-8").count("\n") for path in files}
    assert not {str(path): count for path, count in lines.items() if count > MOST_LINES}


def test_the_first_line_of_every_file_says_what_is_in_it():
    assert not [name for name, path in modules().items() if not path.read_text(encoding="utf-8").startswith('"""')]


def test_functions_are_short():
    lengths = [lines_of_code(function) for path in modules().values() for function in functions(tree(path))]
    assert statistics.median(lengths) <= MEDIAN


NO_VERBS = set("a all an each every how its it one that the there this what whether which".split())
"""Words that begin a noun phrase; ruff's D401 knows verbs in other forms, and lets some of these pass."""
NOUNS = ("tion", "ance", "ity", "'s")
"""Endings of nouns."""


def test_docstrings_of_functions_begin_with_an_imperative():
    first = {
        f"{module}.{function.name}": words[0]
        for module, path in modules().items()
        for function in functions(tree(path))
        if (words := (ast.get_docstring(function) or "").split())
        and not any("property" in ast.unparse(decorator) for decorator in function.decorator_list)
    }
    assert len(first) > 1000
    wrong = [word for word in first.values() if word.lower() in NO_VERBS or not word[0].isascii()]
    assert not wrong + [word for word in first.values() if word.endswith(NOUNS)]


def test_tests_import_no_private_names():
    wrong = [
        f"{file.name}: {node.module}.{name.name}"
        for file in Path(__file__).parent.rglob("test_*.py")
        for node in ast.walk(tree(file))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("adamerge")
        for name in node.names
        if name.name.startswith("_")
    ]
    assert not wrong
