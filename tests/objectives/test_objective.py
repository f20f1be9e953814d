"""What counts: the same for every objective."""

import torch

from adamerge.batch import Batch, Outputs
from adamerge.objectives import Entropy, LogitAlignment


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
