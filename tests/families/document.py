"""Write docs/families.md from the table; a test compares both.

python tests/families/document.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from families.table import TABLE

FILE = Path(__file__).parents[2] / "docs/families.md"
BATCHES = {
    "right": "rows of any lengths",
    "left": "rows of any lengths, padded on the left",
    "64": "rows of any lengths, all padded to `data.max_length`",
    "equal": "rows of one length",
    "none": "one row at a time",
}
PROMPTS = {"": "", "left": "any lengths", "right": "any lengths", "equal": "one length", "none": "one at a time"}
STATE = {"": "", "changes itself": "changes itself", "random": "draws random numbers"}
INTRODUCTION = f"""# Model families

Some classes answer a row otherwise beside other rows than alone: they read padding, count positions from the side of
the padding, or mix the rows of a batch. Others change themselves in a forward pass, so that the next batch meets
another model. No list of such classes is kept: `adamerge check` asks a randomly initialised copy of each model, and
`adamerge fit` each expert with its own weights, with two rows of unequal length, together in both orders and one by
one. Rows that a forward pass would mix do not share one. What is unusual is printed. Every pass starts from the model
as it was loaded.

A class that cannot be asked gets one row at a time, and a sentence that says so. Generated answers
(`data.pseudo_answers`) are asked for in the same way.

This is what {len(TABLE)} classes answered, with random weights and a few thousand parameters each. It is written by
`python tests/families/document.py`; the tests in `tests/families` compare every class with what it says here, and every
answer in a batch with that of plain transformers to the row alone.

| class | rows that share a forward pass | prompts that are answered together | besides |
|---|---|---|---|
"""


def text():
    """The document."""
    lines = [
        f"| {f.architecture} | {BATCHES[f.batches]} | {PROMPTS[f.prompts]} | {STATE[f.state]} |"
        for f in sorted(TABLE, key=lambda family: (family.architecture.lower(), family.batches))
    ]
    return INTRODUCTION + "\n".join(lines) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
