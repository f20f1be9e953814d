"""Counts what a reader of the package meets: modules per folder, levels of import, arrows, sizes.

python tests/benchmarks/structure.py [CHECKOUT ...]
"""

import ast
import statistics
import sys
from collections import Counter
from functools import cache
from pathlib import Path

PACKAGE = "adamerge"


def modules(checkout: Path) -> dict[str, Path]:
    """Every module of a checkout's package by its dotted name."""
    paths = {path.relative_to(checkout).with_suffix(""): path for path in (checkout / PACKAGE).rglob("*.py")}
    return {".".join(part for part in key.parts if part != "__init__"): path for key, path in paths.items()}


def imports(tree: ast.Module, known: set[str]) -> set[str]:
    """Modules of the package that a file imports, at once or later."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == PACKAGE:
            inner = [f"{node.module}.{name.name}" for name in node.names]
            found |= {name if name in known else str(node.module) for name in inner}
    return found & known


def box(module: str) -> str:
    """A folder of the package, or a module at its root."""
    return ".".join(module.split(".")[:2])


def levels(arrows: dict[str, set[str]]) -> int:
    """Length of the longest chain of imports."""

    @cache
    def height(module: str) -> int:
        return 1 + max((height(other) for other in arrows[module]), default=0)

    return max(map(height, arrows))


def functions(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of a file."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's body that hold code: no docstring, comment or blank line."""
    inside = [node for statement in function.body for node in ast.walk(statement) if hasattr(node, "lineno")]
    if ast.get_docstring(function):
        docstring = set(ast.walk(function.body[0]))
        inside = [node for node in inside if node not in docstring]
    return len({line for node in inside for line in (node.lineno, node.end_lineno)})


def report(checkout: Path) -> None:
    """Print one checkout's numbers."""
    paths = modules(checkout)
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in paths.items()}
    arrows = {name: imports(tree, set(paths)) - {name} for name, tree in trees.items()}
    between = {(box(a), box(b)) for a, others in arrows.items() for b in others if box(a) != box(b)}
    boxes = {box(name): {other for one, other in between if one == box(name)} for name in paths}
    sizes = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in paths.items()}
    lengths = sorted(lines_of_code(node) for tree in trees.values() for node in functions(tree))
    folders = Counter(str(path.parent.relative_to(checkout)) for path in paths.values())
    print(f"{checkout}: {len(paths)} modules, {sum(sizes.values())} lines, {sum(map(len, arrows.values()))} imports")
    print(f"  levels of import: {levels(arrows)} between modules, {levels(boxes)} between {len(boxes)} boxes")
    print(f"  arrows between boxes: {len(between)}")
    print("  modules per folder: " + ", ".join(f"{folder} {count}" for folder, count in sorted(folders.items())))
    print(
        "  longest files: " + ", ".join(f"{name} {sizes[name]}" for name in sorted(sizes, key=lambda n: -sizes[n])[:5])
    )
    print(f"  functions: {len(lengths)}, median {statistics.median(lengths)} lines of code, longest {lengths[-1]}")


if __name__ == "__main__":
    for argument in sys.argv[1:] or ["."]:
        report(Path(argument).resolve())
