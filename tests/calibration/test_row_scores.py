"""Agreement and divergence of every held-out row."""

import pytest
import torch

from adamerge.batch import Batch, Outputs
from adamerge.calibration.row_scores import alike, divergences, predictions, score
from adamerge.objectives import LogitAlignment


def random_logits(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scored(positions, *shape, temperature=1.0):
    """Row scores of two batches in another order than the rows, with the outputs by row."""
    merged, expert = random_logits(0, 4, *shape), random_logits(1, 4, *shape)
    parts = []
    for rows in ([2, 0], [3, 1]):
        mask = None if positions is None else positions[rows]
        outputs, targets = Outputs(merged[rows]), Outputs(expert[rows])
        lost = divergences(outputs, targets, mask, temperature)
        batch = Batch({}, torch.tensor(rows), mask)
        same = alike(predictions(merged[rows], mask), predictions(expert[rows], mask), "classes")
        parts.append((batch, same, lost))
    return score(parts, 4), merged, expert


def kl(merged, expert):
    p, q = expert.softmax(-1).double(), merged.softmax(-1).double()
    return (p * (p / q).log()).sum(-1)


def test_rows_with_one_prediction():
    scores, merged, expert = scored(None, 3)
    torch.testing.assert_close(scores.diverged, kl(merged, expert), rtol=1e-5, atol=1e-7)
    assert scores.same.tolist() == (merged.argmax(-1) == expert.argmax(-1)).double().tolist()
    assert scores.predicted.tolist() == [1, 1, 1, 1]


def test_rows_with_positions_of_which_some_count():
    positions = torch.tensor([[1, 1, 0], [0, 0, 1], [1, 1, 1], [0, 1, 0]]).bool()
    scores, merged, expert = scored(positions, 3, 5)
    assert scores.predicted.tolist() == [2, 1, 3, 1]
    torch.testing.assert_close(scores.diverged, (kl(merged, expert) * positions).sum(1), rtol=1e-5, atol=1e-7)
    whole = LogitAlignment()(Outputs(merged), Batch({}, torch.arange(4), positions), Outputs(expert))
    assert scores.divergence == pytest.approx(whole.item(), rel=1e-5)


def test_all_positions_count_without_a_mask():
    scores, merged, expert = scored(None, 3, 5)
    assert scores.predicted.tolist() == [3, 3, 3, 3]
    torch.testing.assert_close(scores.diverged, kl(merged, expert).sum(1), rtol=1e-5, atol=1e-7)
