"""A sum gives each term what it asks for."""

import pytest
import torch

from adamerge.batch import Batch, Outputs
from adamerge.objectives import CrossEntropy, Entropy, HiddenAlignment, LogitAlignment, Sum
from adamerge.types import ConfigError

torch.manual_seed(0)
LOGITS, TARGETS = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)


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


def test_sum_uses_labels_where_a_term_does():
    assert Sum([Entropy(), CrossEntropy()]).uses_labels
    assert not Sum([Entropy()]).uses_labels


@pytest.mark.parametrize(
    ("terms", "weights", "message"),
    [
        ([], None, "at least one"),
        ([Entropy()], [1.0, 2.0], "one weight"),
        ([Entropy()], [float("nan")], "finite"),
    ],
)
def test_terms_without_their_weights_are_refused(terms, weights, message):
    with pytest.raises(ConfigError, match=message):
        Sum(terms, weights)
