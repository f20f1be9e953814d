#!/usr/bin/env bash
# rouge-score: the `mid` of BootstrapAggregator, which is reported as the score of a corpus, is not the mean of its rows but the median of a thousand means of drawn rows, without a seed: the same twelve rows have another score in every call, more than a point apart, and where few rows score high nearly all of them lie below the mean; one expects the mean, and an interval around it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 rouge-score==0.1.2
cd "$folder"
venv/bin/python - 2>log <<'PYTHON' || { tail -n 20 log; exit 1; }
from importlib.metadata import version

import numpy as np
from rouge_score import rouge_scorer, scoring

CALLS = 30
WORDS = "the small brown dog sat down near an old house".split()
RIGHT = [10, 8, 2, 1, 1, 1, 1, 1, 0, 0, 0, 0]  # of ten words of each row

scorer = rouge_scorer.RougeScorer(["rougeL"])
rows = [scorer.score(" ".join(WORDS), " ".join(WORDS[:right] + ["x"] * index)) for index, right in enumerate(RIGHT)]
mean = np.mean([row["rougeL"].fmeasure for row in rows])


def aggregated():
    """Give the score of the corpus as the package aggregates it."""
    aggregator = scoring.BootstrapAggregator()
    for row in rows:
        aggregator.add_scores(row)
    return aggregator.aggregate()["rougeL"].mid.fmeasure


print("rouge-score", version("rouge-score"), "numpy", np.__version__)
answers = np.array([aggregated() for _ in range(CALLS)])
print(f"{len(rows)} rows with a mean of {100 * mean:.2f}; {CALLS} calls:", *(f"{100 * answer:.2f}" for answer in answers))
print(f"{len(set(answers))} different scores, from {100 * answers.min():.2f} to {100 * answers.max():.2f}; {(answers < mean - 1e-9).sum()} below the mean")
assert len(set(answers)) > CALLS / 2 and answers.max() - answers.min() > 0.003, answers
assert (answers < mean).sum() > 0.75 * CALLS, answers
PYTHON
