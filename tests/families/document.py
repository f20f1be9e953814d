"""Write docs/families.md from the table; a test compares both.

python tests/families/document.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from families.namings import line
from families.others import OTHERS
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
REASONS = {
    "main input is input_values": "reads sound",
    "main input is input_features": "reads sound",
    "cannot be run": "needs several texts or inputs per row",
    "have the shape": "predicts more than one class per row",
}
STATE = {"": "", "changes itself": "changes itself", "random": "draws random numbers"}
FORMERLY = {"LEDForConditionalGeneration": "draws random numbers before transformers 5.23"}
"""What a class does in the oldest releases alone, so that the document is the same under all."""
INTRODUCTION = f"""# Model families

Some classes answer a row otherwise beside other rows than alone: they read padding, count positions from the side of
the padding, or mix the rows of a batch. Others change themselves in a forward pass, so that the next batch meets
another model. No list of such classes is kept: `adamerge check` asks a randomly initialised copy of each model, and
`adamerge fit` each expert with its own weights: the shortest and the longest row, together in both orders and one by
one, with up to four rows between them, and in a pass of eight rows (`data.micro_batch` allowing). Rows that a forward
pass would mix do not share one. What is unusual is printed. Every pass starts from the model as it was loaded.

A class that cannot be asked gets one row at a time, and a sentence that says so. Generated answers
(`data.pseudo_answers`) are asked for in the same way.

This is what {len(TABLE)} classes answered, with random weights and a few thousand parameters each. It is written by
`python tests/families/document.py`; the tests in `tests/families` compare every class with what it says here, and every
answer in a batch with that of plain transformers to the row alone.

| class | rows that share a forward pass | prompts that are answered together | besides |
|---|---|---|---|
"""


SECOND = f"""
## Other classes

These {len(OTHERS)} classes have other rows, outputs or files. All of them merge with a method without rows, and the
merge loads in plain transformers and answers as the formula says, whether their files have today's names or old ones
(`python tests/families/sweep.py` checks every class of both tables so; a sample of it is in the tests). Where nothing
can be learned from rows, `check` says so: leave out that task's calibration and evaluation, and use a data-free method
(`task_arithmetic`, `ties`, `doge`, `wudi` and others).

| class | reads | learns from rows |
|---|---|---|
"""


THIRD = """
## Two namings

Files of a class are found in several namings: former names (LayerNorm's gamma and beta of before 2020, weight
normalisation of torch 1), the names of the module where `save_pretrained` writes others, and names without or with the
prefix of the base model or of its parts. All of them are read and merged alike; exports have the names that
`save_pretrained` writes. A file that holds a parameter under two names is refused unless the values are equal.

This is what transformers' own tables say of each class, with the first name that differs (`tests/families/namings.py`).
Writing this table reads every class under all of these names and compares each tensor and what an export would write; a
part of it is in the tests. `python tests/families/sweep.py` merges files under all of them, loads them in plain
transformers, and compares with its merge.

| class | other namings |
|---|---|
"""


def namings():
    """Lines of the third table."""
    members = {getattr(member, "title", member.architecture): member for member in [*OTHERS, *TABLE]}
    return [line(member, member.build(0)) for _, member in sorted(members.items(), key=lambda pair: pair[0].lower())]


def others():
    """Lines of the second table."""
    for member in sorted(OTHERS, key=lambda member: member.title.lower()):
        yield f"| {member.title} | {member.inputs} | {f'no: it {REASONS[member.says]}' if member.says else 'yes'} |"


def besides(family):
    """The last cell of a line of the first table."""
    return FORMERLY.get(family.architecture, STATE[family.state])


def text():
    """The document but for the third table."""
    lines = [
        f"| {f.architecture} | {BATCHES[f.batches]} | {PROMPTS[f.prompts]} | {besides(f)} |"
        for f in sorted(TABLE, key=lambda family: (family.architecture.lower(), family.batches))
    ]
    return "\n".join([INTRODUCTION + "\n".join(lines), SECOND + "\n".join(others()), THIRD])


if __name__ == "__main__":
    FILE.write_text(text() + "\n".join(namings()) + "\n", encoding="utf-8")
