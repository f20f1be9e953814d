"""The tables of docs/adapters.md: every kind of adapter that is read, and every one that is refused, with its message.

python tests/support/adapter_document.py          # writes them; about two minutes of one core
"""

import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

FILE = Path(__file__).parents[2] / "docs/adapters.md"
BEGIN = "## Kinds\n"
READ = f"""{BEGIN}
Written by `python tests/support/adapter_document.py`; the tests compare every row with what the code does
(`tests/experts/test_adapter_kinds.py`, `tests/experts/test_adapter_refusals.py`). The adapters are made by PEFT, or by
hand in the layouts of transformers 4 and mlx-lm. The number is the largest difference of a logit of the one-hot merge,
in fp32, from the model that PEFT merges, or that was edited by hand where PEFT reads the kind wrong; at most 1e-5 is
allowed.

| read | made as | difference |
|---|---|---|
"""
REFUSED = """
What is refused, with the first line of its message. ADAPTER, BASE and FOLDER stand for folders, KIND for one of
the names.

| refused | message |
|---|---|
"""


def rows(table: str) -> list[list[str]]:
    """The cells of a table of the document."""
    lines = FILE.read_text(encoding="utf-8").partition(table)[2].split("\n\n")[0].splitlines()
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    return [[cell.strip().strip("`").strip().replace("\\|", "|") for cell in row] for row in cells]


def differences() -> dict[str, float]:
    """The documented difference of every kind that is read."""
    return {kind: float(difference) for kind, _, difference in rows(READ)}


def messages() -> dict[str, str]:
    """The documented message of every kind that is refused."""
    found: dict[str, str] = {}
    for names, message in rows(REFUSED):
        kinds = names.split(", ") if "KIND" in message else [names]
        found |= {kind: message.replace("KIND", kind) for kind in kinds}
    return found


def row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def read_rows(folder: Path) -> Iterator[str]:
    """Open every kind, and measure."""
    from support.adapter_kinds import ALL, difference

    for number, (kind, (made, words)) in enumerate(ALL.items()):
        print(kind, flush=True)
        yield row(kind, f"`{words}`", f"{difference(*made(folder / str(number))):.0e}")


def refused_rows(folder: Path) -> Iterator[str]:
    """Open everything that is refused."""
    from support.adapter_mismatches import MADE, refusal_of
    from support.adapter_refusals import CASES, OTHER_TYPES, PROMPTS, Plain

    plain = Plain(folder / "plain")
    for names in ([one for one in OTHER_TYPES if one not in PROMPTS], *([one] for one in sorted(PROMPTS))):
        message = plain.refusal(folder / names[0], options={"peft_type": names[0]})
        many = re.sub(rf"\b{names[0]}\b", "KIND", message) if len(names) > 1 else message
        yield row(", ".join(names), f"`` {many} ``")
    for number, (kind, (given, _)) in enumerate(CASES.items()):
        message = plain.refusal(folder / f"refused{number}", **given)
        yield row(kind, f"`` {message.splitlines()[0]} ``")
    for number, (kind, (make, _)) in enumerate(MADE.items()):
        message = refusal_of(*make(folder / f"made{number}"))
        yield row(kind, f"`` {message.splitlines()[0]} ``")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    with tempfile.TemporaryDirectory() as place:
        before = FILE.read_text(encoding="utf-8").partition(BEGIN)[0].rstrip()
        found = [*read_rows(Path(place))]
        text = [before, "\n\n", READ, "\n".join(found), "\n", REFUSED, "\n".join(refused_rows(Path(place))), "\n"]
        FILE.write_text("".join(text), encoding="utf-8")
