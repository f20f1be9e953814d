"""The regulariser at its start and away from it."""

import pytest
import torch

from adamerge.objectives import Regulariser
from adamerge.types import ConfigError


def test_regulariser_is_zero_at_the_start_and_pulls_back():
    start = torch.full((2, 3), 0.3)
    coefficients = (start + torch.tensor([0.1, 0.0, -0.2])).requires_grad_()
    for norm, expected in (("l1", 0.3), ("l2", 0.05)):
        assert Regulariser(2.0, norm)(coefficients, start).item() == pytest.approx(2 * expected, rel=1e-5)
        assert Regulariser(2.0, norm)(start, start).item() == 0
    Regulariser(1.0, "l2")(coefficients, start).backward()
    assert coefficients.grad.sign()[0].tolist() == [1, 0, -1]


@pytest.mark.parametrize("strength", [-1.0, float("nan"), float("inf")])
def test_strength_out_of_range_is_refused(strength):
    with pytest.raises(ConfigError, match=r"regulariser\.strength: expected"):
        Regulariser(strength)
