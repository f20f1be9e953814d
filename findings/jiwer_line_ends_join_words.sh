#!/usr/bin/env bash
# jiwer: wer takes the words on both sides of one line end or tab for one word, so that a text has an error rate of 0.2 against itself in two lines, and one wrong word at a line end counts for two; an empty line, or a blank before the line end, parts them; one expects white space to part words, however much of it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q rapidfuzz==3.14.6 jiwer==4.0.0
cd "$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
from importlib.metadata import version

import jiwer

TEXT = "the cat sat on the mat and did not move"
PARTS = {"blank": " ", "two blanks": "  ", "line end": "\n", "tab": "\t", "blank and line end": " \n", "empty line": "\n\n"}

print("jiwer", version("jiwer"))
found = {}
for name, part in PARTS.items():
    other = TEXT.replace("mat and", f"mat{part}and")
    found[name] = jiwer.process_words(TEXT, other)
    words = found[name].hypotheses[0]
    print(f"{name}: rate {found[name].wer:.1f} of the same text, read as {len(words)} words, the sixth is {words[5]!r}")
for name, answer in found.items():
    joined = name in ("line end", "tab")
    assert answer.wer == (0.2 if joined else 0), (name, answer)
    assert len(answer.hypotheses[0]) == (9 if joined else 10), (name, answer)

# Both texts have the same line ends: the words are still joined, and there are fewer of them.
lines = "\n".join(["yes it", "is so"] * 5)
wrong = lines.replace("yes it\nis so", "yes it\nwas so", 1)
rates = [jiwer.wer(right, other) for right, other in [(lines, wrong), (lines.replace("\n", " "), wrong.replace("\n", " "))]]
print("one wrong word of twenty: a rate of %.3f in lines of two words, of %.3f in one line" % tuple(rates))
assert rates == [1 / 11, 1 / 20], rates

as_blanks = jiwer.Compose([jiwer.RemoveWhiteSpace(replace_by_space=True), jiwer.RemoveMultipleSpaces(), jiwer.Strip()])
texts = [as_blanks(text) for text in (TEXT, TEXT.replace("mat and", "mat\nand"))]
print(f"with white space replaced before: {jiwer.wer(*texts)}")
assert jiwer.wer(*texts) == 0, texts
PYTHON
