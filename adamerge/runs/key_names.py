"""Names of a configuration's keys, read from the source: importing its classes takes seconds."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).parents[2]
"""Folder that holds this package."""

UNSAVED = ("written", "allow_code")
"""Fields of a configuration that are no settings: the record, and a permission that is given anew each time."""


def key_names() -> Iterator[str]:
    """List the keys of a configuration, those of its sections with a dot.

    Example:
        >>> [name for name in key_names() if name.startswith("chunks.b")]
        ['chunks.budget']
    """
    module = "adamerge.runs.config"
    for name, hint in _fields(*_definition(module, "MergeConfig")).items():
        if name not in UNSAVED:
            yield name
            yield from (f"{name}.{own}" for own in _section(module, hint))


def place_names(models: int = 10) -> Iterator[str]:
    """List the keys of the places of models and rows, which may be others when a run is repeated.

    Args:
        models: Number of models whose keys are listed.

    Example:
        >>> [*place_names(1)][3:6]
        ['keep.calibration', 'models.0.model', 'models.0.adapter']
    """
    yield from ("base_model", "tokenizer", "init", "keep.calibration")
    yield from (f"models.{k}.{key}" for k in range(models) for key in ("model", "adapter", "calibration", "evaluation"))


def _section(module: str, hint: ast.expr) -> list[str]:
    """List the fields of the first dataclass in a union that can be built."""
    for place, node in _classes(module, hint):
        if (own := _fields(place, node)) and not _is_abstract(node):
            return [*own]
    return []


def _classes(module: str, hint: ast.expr) -> Iterator[tuple[str, ast.ClassDef]]:
    """Yield the classes of this package in a union, not those of a list's items, with the modules that define them."""
    if isinstance(hint, ast.BinOp):
        yield from _classes(module, hint.left)
        yield from _classes(module, hint.right)
    elif isinstance(hint, ast.Name):
        place, node = _definition(module, hint.id)
        if isinstance(node, ast.ClassDef):
            yield place, node
        elif isinstance(node, ast.AnnAssign) and node.value:
            yield from _classes(place, node.value)


def _fields(module: str, owner: ast.stmt | None) -> dict[str, ast.expr]:
    """Return the hints of a dataclass's fields by name, those of its bases first; empty for what is none."""
    if not isinstance(owner, ast.ClassDef) or "dataclass" not in _words(owner):
        return {}
    inherited = [field for base in owner.bases for field in _fields(*_definition(module, ast.unparse(base))).items()]
    own = [
        (part.target.id, part.annotation)
        for part in owner.body
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) and "ClassVar" not in _text(part)
    ]
    return dict([*inherited, *own])


def _definition(module: str, name: str) -> tuple[str, ast.stmt | None]:
    """Find a class or an alias in a module, or where the module has it from; None if it is not of this package."""
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name:
            return module, node
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("adamerge"):
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return _definition(str(node.module), alias.name)
    return module, None


@cache
def _tree(module: str) -> ast.Module:
    place = _ROOT.joinpath(*module.split("."))
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def _words(node: ast.ClassDef | ast.FunctionDef) -> str:
    return " ".join(map(ast.unparse, node.decorator_list))


def _text(field: ast.AnnAssign) -> str:
    return ast.unparse(field.annotation)


def _is_abstract(node: ast.ClassDef) -> bool:
    return any("abstractmethod" in _words(part) for part in node.body if isinstance(part, ast.FunctionDef))
