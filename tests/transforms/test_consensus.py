import numpy as np
import pytest
import torch

from adamerge.transforms import Consensus
from adamerge.types import ConfigError


def reference(stack, threshold, agreement):
    total = stack.sum(0)
    used = np.zeros(stack.shape[1:], dtype=int)
    for task in stack:
        used += np.abs(task) >= threshold * np.abs(total - task)
    return (used >= agreement) * total


@pytest.mark.parametrize("threshold", [0.2, 0.4, 1.0])
@pytest.mark.parametrize("agreement", [1, 2, 4])
def test_masked_vectors_add_up_to_the_masked_sum(threshold, agreement):
    stack = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = Consensus(threshold, agreement).plan(lambda: iter(()))("a", stack)
    np.testing.assert_allclose(found.sum(0).numpy(), reference(stack.numpy(), threshold, agreement), atol=1e-15)
    assert ((found == 0) | (found == stack)).all()


def test_bad_options_are_named():
    with pytest.raises(ConfigError, match="threshold"):
        Consensus(threshold=0.0)
    with pytest.raises(ConfigError, match="agreement"):
        Consensus(agreement=0)
    with pytest.raises(ConfigError, match="number of experts, 2"):
        Consensus(agreement=3).check(2, {"a": (3,)})
