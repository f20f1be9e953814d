"""Every notebook runs from its first cell to its last, defines nothing, and is committed without outputs."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
SAYS = {"merge_the_digits": "learned", "compare_methods": "soft Frank-Wolfe"}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def visible():
    """What lies in the repository and beside the notebooks, except the hidden folders in which tools keep their own."""
    return {folder: [path.name for path in sorted(folder.glob("[!.]*"))] for folder in (ROOT, ROOT / "notebooks")}


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


@pytest.fixture
def word(request):
    """A word that the notebook prints near its end."""
    return SAYS[request.node.callspec.params["notebook"].stem]


def test_there_are_notebooks():
    assert NOTEBOOKS


def test_notebook_is_clean_and_defines_nothing(notebook):
    nbformat.validate(notebook)
    for cell in code_of(notebook):
        assert not cell.outputs
        assert cell.execution_count is None
        nodes = ast.walk(ast.parse(cell.source))
        assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda) for node in nodes)


def shorten(notebook):
    """Learn for four steps where the notebook asks for more, on a few pictures, with some of the finished merges."""
    few = 'evaluation={"path": str(data / task / "evaluation"), "rows": 24}'
    for cell in code_of(notebook):
        cell.source = re.sub(r'("max_steps": )\d+', r"\g<1>4", cell.source)
        cell.source = cell.source.replace('evaluation=data / task / "evaluation"', few)
        cell.source = re.sub(r"^finished = .*$", 'finished = ("ties", "wudi", "doge")', cell.source, flags=re.MULTILINE)


def test_notebook_runs(notebook, word, demo_folder, tmp_path, monkeypatch):
    """With the models of the small demo in its temporary folder, and fewer steps; it leaves nothing anywhere else."""
    shorten(notebook)
    place = tmp_path / "adamerge_digits"
    place.mkdir()
    for part in ("models", "data"):
        (place / part).symlink_to(demo_folder / part)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("MATPLOTLIBRC")  # figures as users see them
    before = visible()
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT / "notebooks")}})
    client.execute()
    kinds = [kind for cell in code_of(notebook) for output in cell.outputs for kind in output.get("data", {})]
    assert kinds.count("image/png") == 4
    said = "".join(output.get("text", "") for cell in code_of(notebook) for output in cell.outputs)
    assert word in said
    assert "Warning" not in said
    assert visible() == before
