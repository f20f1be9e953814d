"""What torchmetrics makes of outputs in the dtype of a model."""

import pytest
import torch

from adamerge.batch import Batch, Outputs
from adamerge.results.scorers import Classified


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_perplexity_is_that_of_the_cross_entropy_in_every_dtype(dtype):
    logits = torch.randn(2, 20, 50, generator=torch.Generator().manual_seed(0)).to(dtype)
    labels = torch.arange(40).reshape(2, 20)
    labels[0, :3] = -100
    logits[1, 0, 0], logits[1, 0, 20] = 20.0, -2.0  # the right token is 22 below: exp(-22) is 0 in float16
    scorer = Classified()
    for row in range(2):
        batch = Batch({}, torch.tensor([row]), labels=labels[row : row + 1])
        scorer.update(Outputs(logits[row : row + 1]), batch)
    right = torch.nn.functional.cross_entropy(logits.double().flatten(0, 1), labels.flatten()).exp().item()
    assert scorer.value() == pytest.approx(right, rel=1e-4)
