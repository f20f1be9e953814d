"""Alignment against its formulas written out."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy as scipy_entropy

from adamerge.batch import Batch, Outputs
from adamerge.calibration.targets import top_and_rest
from adamerge.objectives import HiddenAlignment, LogitAlignment
from adamerge.objectives.alignment import partial_cross_entropy, soft_cross_entropy
from adamerge.types import ConfigError

torch.manual_seed(0)
LOGITS, TARGETS = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_cross_entropy_is_kl(temperature):
    p, q = softmax(TARGETS.numpy() / temperature, axis=-1), softmax(LOGITS.numpy() / temperature, axis=-1)
    expected = temperature**2 * scipy_entropy(p, q, axis=-1)
    np.testing.assert_allclose(soft_cross_entropy(LOGITS, TARGETS, temperature), expected, rtol=1e-8)


def test_top_words_bound_the_divergence_from_below_and_reach_it():
    for count in (2, 4, 6):
        top, known = top_and_rest(TARGETS, count)
        part = partial_cross_entropy(LOGITS, top, known.double())
        whole = soft_cross_entropy(LOGITS, TARGETS)
        assert (part <= whole + 1e-6).all()
        if count == 6:  # one word is left, which is then "the rest"
            torch.testing.assert_close(part, whole, rtol=1e-4, atol=1e-5)


def _scaled(hidden: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    """Of one row without padding, (S,)."""
    return (hidden - goal).square().mean(-1) / goal.var(correction=0)


@pytest.mark.parametrize("form", ["mse", "cosine", "scaled"])
def test_padding_has_no_say_in_hidden_states(form):
    hidden, targets = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    batch = Batch({"attention_mask": mask}, torch.arange(2))
    objective = HiddenAlignment([1], form)
    value = objective(Outputs(LOGITS, (hidden,)), batch, Outputs(LOGITS, (targets,)))
    flat, goal = hidden[mask.bool()], targets[mask.bool()]
    expected = {
        "mse": (flat - goal).square().mean(),
        "cosine": 1 - torch.cosine_similarity(flat, goal, dim=-1).mean(),
        "scaled": torch.cat([_scaled(hidden[0, :2], targets[0, :2]), _scaled(hidden[1], targets[1])]).mean(),
    }[form]
    torch.testing.assert_close(value, expected)
    assert objective(Outputs(LOGITS, (targets,)), batch, Outputs(LOGITS, (targets,))).item() == pytest.approx(
        0, abs=1e-6
    )


@pytest.mark.parametrize("form", ["mse", "cosine", "scaled"])
def test_hidden_states_weigh_alike_however_rows_are_batched(form):
    hidden, targets = torch.randn(4, 3, 5), torch.randn(4, 3, 5) * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None]

    def value(rows: slice) -> float:
        batch = Batch({"attention_mask": torch.ones(4, 3)[rows]}, torch.arange(4)[rows])
        outputs, goal = Outputs(LOGITS, (hidden[rows],)), Outputs(LOGITS, (targets[rows],))
        return HiddenAlignment([0], form)(outputs, batch, goal).item()

    apart = [value(slice(row, row + 1)) for row in range(4)]
    assert value(slice(None)) == pytest.approx(sum(apart) / 4, rel=1e-5)


@pytest.mark.parametrize(
    "make", [lambda: LogitAlignment(temperature=-1.0), lambda: LogitAlignment(tail=1.0), lambda: HiddenAlignment([])]
)
def test_options_out_of_range_are_refused(make):
    with pytest.raises(ConfigError, match=r"objective\.\w+: expected"):
        make()
