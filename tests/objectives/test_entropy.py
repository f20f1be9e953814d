"""Entropy against SciPy's."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy as scipy_entropy

from adamerge.batch import Batch, Outputs
from adamerge.objectives import Entropy, entropy
from adamerge.types import ConfigError

LOGITS = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
ROWS = Batch({}, torch.arange(5))


def test_entropy_is_scipys():
    expected = scipy_entropy(softmax(LOGITS.numpy() / 2, axis=-1), axis=-1)
    np.testing.assert_allclose(entropy(LOGITS, 2.0), expected, rtol=1e-10)
    assert Entropy(temperature=2.0)(Outputs(LOGITS), ROWS, None).item() == pytest.approx(expected.mean())
    scaled = Entropy(2.0, per_log_classes=True)(Outputs(LOGITS), ROWS, None).item()
    assert scaled == pytest.approx(expected.mean() / np.log(7))


def test_mean_of_entropies_is_not_the_entropy_of_the_mean():
    ours = Entropy()(Outputs(LOGITS), ROWS, None).item()
    assert ours < scipy_entropy(softmax(LOGITS.numpy(), axis=-1).mean(0)) - 0.01


def test_entropy_of_sure_predictions_has_a_finite_gradient():
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    entropy(logits).sum().backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperature_out_of_range_is_refused(temperature):
    with pytest.raises(ConfigError, match=r"objective\.temperature: expected a finite number above 0"):
        Entropy(temperature)
