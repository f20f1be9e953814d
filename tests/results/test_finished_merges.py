"""The scale of task arithmetic that is best on held-out rows."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest
import torch

from adamerge.calibration.race import passes
from adamerge.calibration.row_scores import RowScores
from adamerge.results.finished_merges import FEWEST, tuned_scale

MODEL = SimpleNamespace(vectors=SimpleNamespace(experts=("a", "b"), device="cpu"), grouping=["all"])


@dataclass
class Judged:
    """Held-out rows of one task, on which a merge diverges by (scale − best)², and how many of them were judged."""

    best: float
    rows: dict = field(default_factory=lambda: {"a": range(64)})
    judged: list = field(default_factory=list)

    def first(self, count):
        return replace(self, rows={"a": range(min(count, len(self.rows["a"])))})

    def judge(self, model, coefficients):
        assert model is MODEL
        count, (scale,) = len(self.rows["a"]), coefficients.unique().tolist()
        self.judged.append(count)
        each = torch.ones(count, dtype=torch.float64)
        return {"a": RowScores(each, 0 * each, each * round(abs(scale - self.best), 3) ** 2)}


@pytest.mark.all_scales
@pytest.mark.parametrize(
    ("best", "by", "scale"),
    [(0.31, "divergence", 0.3), (0.94, "divergence", 0.9), (0.25, "divergence", 0.2), (0.9, "agreement", 0.1)],
)
def test_the_best_of_ten_scales_is_found_by_halving(best, by, scale):
    rows = Judged(best)
    assert tuned_scale(MODEL, rows, by) == scale  # the smallest of equal ones
    assert sum(rows.judged) == passes(10, FEWEST, 64) < 10 * 64
