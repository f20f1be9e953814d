"""Cross-entropy against its formula."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from adamerge.batch import Batch, Outputs
from adamerge.objectives import CrossEntropy

LOGITS = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_cross_entropy_is_minus_the_log_probability_of_the_label():
    labels = torch.tensor([0, 6, 3, 3, 1])
    expected = -log_softmax(LOGITS.numpy(), axis=-1)[np.arange(5), labels]
    batch = Batch({}, torch.arange(5), None, labels)
    assert CrossEntropy()(Outputs(LOGITS), batch, None).item() == pytest.approx(expected.mean())
    # Of a language model: the next token at the positions that count, where there is one.
    positions = torch.tensor([[True, True, True, True, False]])
    language = Batch({}, torch.arange(1), positions, torch.tensor([[0, 6, 3, -100, -100]]))
    assert CrossEntropy()(Outputs(LOGITS[None]), language, None).item() == pytest.approx(expected[:3].sum() / 4)
