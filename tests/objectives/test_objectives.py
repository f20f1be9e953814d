"""Objectives against their formulas written out, and what each must do at its corner cases."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from scipy.stats import entropy as scipy_entropy

from adamerge.batch import Batch, Outputs
from adamerge.calibration.targets import top_and_rest
from adamerge.objectives import CrossEntropy, Entropy, HiddenAlignment, LogitAlignment, Regulariser, Sum, entropy
from adamerge.objectives.alignment import partial_cross_entropy, soft_cross_entropy
from adamerge.types import ConfigError

torch.manual_seed(0)
LOGITS, TARGETS = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
ROWS = Batch({}, torch.arange(5))


def softmax(z):
    return np.exp(log_softmax(z, axis=-1))


def test_entropy_is_scipys():
    expected = scipy_entropy(softmax(LOGITS.numpy() / 2), axis=-1)
    np.testing.assert_allclose(entropy(LOGITS, 2.0), expected, rtol=1e-10)
    assert Entropy(temperature=2.0)(Outputs(LOGITS), ROWS, None).item() == pytest.approx(expected.mean())
    scaled = Entropy(2.0, per_log_classes=True)(Outputs(LOGITS), ROWS, None).item()
    assert scaled == pytest.approx(expected.mean() / np.log(7))


def test_mean_of_entropies_is_not_the_entropy_of_the_mean():
    ours = Entropy()(Outputs(LOGITS), ROWS, None).item()
    assert ours < scipy_entropy(softmax(LOGITS.numpy()).mean(0)) - 0.01


def test_entropy_of_sure_predictions_has_a_finite_gradient():
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    entropy(logits).sum().backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_cross_entropy_is_kl(temperature):
    p, q = softmax(TARGETS.numpy() / temperature), softmax(LOGITS.numpy() / temperature)
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


def test_cross_entropy_is_minus_the_log_probability_of_the_label():
    labels = torch.tensor([0, 6, 3, 3, 1])
    expected = -log_softmax(LOGITS.numpy(), axis=-1)[np.arange(5), labels]
    batch = Batch({}, torch.arange(5), None, labels)
    assert CrossEntropy()(Outputs(LOGITS), batch, None).item() == pytest.approx(expected.mean())
    # Of a language model: the next token at the positions that count, where there is one.
    positions = torch.tensor([[True, True, True, True, False]])
    speech = Batch({}, torch.arange(1), positions, torch.tensor([[0, 6, 3, -100, -100]]))
    assert CrossEntropy()(Outputs(LOGITS[None]), speech, None).item() == pytest.approx(expected[:3].sum() / 4)
    assert Sum([Entropy(), CrossEntropy()]).uses_labels
    assert not Sum([Entropy()]).uses_labels


def test_positions_that_do_not_count_have_no_say():
    logits, targets = torch.randn(2, 3, 7), torch.randn(2, 3, 7)
    positions = torch.tensor([[True, True, False], [True, False, False]])
    batch = Batch({}, torch.arange(2), positions)
    for objective in (Entropy(), LogitAlignment(), LogitAlignment("mse")):
        before = objective(Outputs(logits), batch, Outputs(targets))
        changed = logits.clone()
        changed[~positions] += 5
        assert objective(Outputs(changed), batch, Outputs(targets)) == before
        changed[positions] *= 2
        assert objective(Outputs(changed), batch, Outputs(targets)) != before


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


def test_sum_gives_each_term_its_own_hidden_states():
    one, two = torch.randn(1, 2, 3), torch.randn(1, 2, 3)
    goal = Outputs(TARGETS, (torch.zeros(1, 2, 3), torch.ones(1, 2, 3)))
    batch = Batch({}, torch.arange(1))
    both = Sum([HiddenAlignment([0], "mse"), LogitAlignment(), HiddenAlignment([-1], "mse")], [1.0, 2.0, 3.0])
    assert both.layers == (0, -1)
    assert both.uses_targets
    expected = one.square().mean() + 2 * LogitAlignment()(Outputs(LOGITS), batch, goal) + 3 * (two - 1).square().mean()
    found = both(Outputs(LOGITS, (one, two)), batch, goal)
    torch.testing.assert_close(found, expected.double(), check_dtype=False, rtol=1e-5, atol=1e-6)


def test_regulariser_is_zero_at_the_start_and_pulls_back():
    start = torch.full((2, 3), 0.3)
    coefficients = (start + torch.tensor([0.1, 0.0, -0.2])).requires_grad_()
    for norm, expected in (("l1", 0.3), ("l2", 0.05)):
        assert Regulariser(2.0, norm)(coefficients, start).item() == pytest.approx(2 * expected, rel=1e-5)
        assert Regulariser(2.0, norm)(start, start).item() == 0
    Regulariser(1.0, "l2")(coefficients, start).backward()
    assert coefficients.grad.sign()[0].tolist() == [1, 0, -1]


@pytest.mark.parametrize(
    "make", [lambda: Entropy(0.0), lambda: LogitAlignment(temperature=-1.0), lambda: Sum([]), lambda: Regulariser(-1.0)]
)
def test_options_out_of_range_are_refused(make):
    with pytest.raises(ConfigError, match=r"expected|needs"):
        make()
