"""Run notebooks and store their outputs, small and without what differs between machines and runs.

python tests/support/store_notebooks.py notebooks/merge_the_digits.ipynb …
"""

import base64
import io
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

VARIES = {
    r"[^\s'\"]*/(?=(models|data|adapters|base|up|down|back)/)": "",  # the temporary folder
    r"; \d+ MB are free": "",
    r"(?<=s/step )[\d.e-]+": "…",
    r"(?<=at most )[\d.e+-]+(?= s left)": "…",
    r"(?<=step took )[\d.e-]+(?= s )": "…",
    r"(?<=, )\d+ s\b": "… s",
}
"""Patterns of what differs, with what is stored in their place."""


def stable(text: str) -> str:
    """A text without what differs between machines and runs."""
    for pattern, replacement in VARIES.items():
        text = re.sub(pattern, replacement, text)
    return text


def small(picture: str) -> str:
    """A picture in 32 colours, as base64."""
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    image.thumbnail((900, 1600))  # names of rows stay legible
    out = io.BytesIO()
    image.quantize(32, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def cleaned(outputs: list) -> list:
    """The outputs of a cell: text in one piece, pictures small."""
    texts = "".join(one.text for one in outputs if one.output_type == "stream" and one.name == "stdout")
    found = [nbformat.v4.new_output("stream", name="stdout", text=stable(texts))] if texts.strip() else []
    for one in outputs:
        if "image/png" in one.get("data", {}):
            data = {"image/png": small(one.data["image/png"]), "text/plain": "<a picture>"}
            found.append(nbformat.v4.new_output("display_data", data=data))
        elif one.output_type in ("execute_result", "display_data"):
            found.append(nbformat.v4.new_output("display_data", data={"text/plain": stable(one.data["text/plain"])}))
    return found


def store(file: Path) -> None:
    """Run a notebook in a folder of its own, and write it with its outputs."""
    notebook = nbformat.read(file, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder
        NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(file.parent)}}).execute()
    write(notebook, file)


def write(notebook, file: Path) -> None:
    """Write a notebook that was run."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, 1):
        cell.outputs, cell.execution_count = cleaned(cell.outputs), number
        cell.metadata = {}
    notebook.metadata.pop("widgets", None)
    nbformat.validate(notebook)
    nbformat.write(notebook, file)


if __name__ == "__main__":
    for word in sys.argv[1:]:
        store(Path(word))
