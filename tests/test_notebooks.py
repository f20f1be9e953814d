"""Every notebook runs from its first cell to its last, defines nothing, and is committed with its outputs."""

import ast
import base64
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
SAYS = {
    "merge_the_digits": "learned",
    "merge_language_adapters": "back 1 2 3 4 =",
}
PICTURES = {"merge_the_digits": 4, "merge_language_adapters": 1}
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
def stem(request):
    """The notebook's name."""
    return request.node.callspec.params["notebook"].stem


def test_these_are_the_notebooks():
    assert [file.stem for file in NOTEBOOKS] == sorted(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_stored_outputs_are_complete_small_and_of_no_machine(name):
    """`python tests/support/store_notebooks.py FILE` stores them."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    cells = code_of(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    pictures = [
        base64.b64decode(output.data["image/png"]) for output in outputs if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == PICTURES[name]
    assert max(map(len, pictures)) < 80_000  # a legible heat map of 54 rows
    texts = [output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs]
    assert SAYS[name] in "".join(texts)
    assert not any(re.search(r"(?<![\w.])/\w+/|[A-Z]:\\|\b\d+ s\b|s/step [\d.]|Warning|Error", text) for text in texts)


def test_notebook_is_valid_and_defines_nothing(notebook):
    nbformat.validate(notebook)
    for cell in code_of(notebook):
        nodes = ast.walk(ast.parse(cell.source))
        assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda) for node in nodes)


def shorten(notebook):
    """Learn for four steps where the notebook asks for more, on a few pictures and rows."""
    few = 'evaluation={"path": str(data / task / "evaluation"), "rows": 24}'
    for cell in code_of(notebook):
        cell.source = re.sub(r'("max_steps": )\d+', r"\g<1>4", cell.source)
        cell.source = re.sub(r"range\(\d\d+\):", "range(3):", cell.source)  # training of the language models
        cell.source = cell.source.replace("range(10000), 1200)", "range(10000), 160)")
        cell.source = cell.source.replace("[1000:1100]", "[100:130]").replace("[1100:]", "[130:]")
        cell.source = cell.source.replace("[:1000]", "[:100]").replace("randint(1000,", "randint(100,")
        cell.source = cell.source.replace('evaluation=data / task / "evaluation"', few)


def test_notebook_runs(notebook, stem, demo_folder, tmp_path, monkeypatch):
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
    assert kinds.count("image/png") == PICTURES[stem]
    said = "".join(output.get("text", "") for cell in code_of(notebook) for output in cell.outputs)
    assert SAYS[stem] in said
    assert "Warning" not in said
    assert visible() == before
