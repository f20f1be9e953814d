"""Fisher-weighted averaging: each expert counts where its loss is curved."""

import torch
from torch import Tensor


def fisher_weights(squared_gradients: Tensor) -> Tensor:
    """Weigh experts entry by entry by their diagonal Fisher information.

    wₖ = Fₖ / Σⱼ Fⱼ, and 1/K where no expert has any; the merged update is Σₖ wₖ ⊙ τₖ.

    Args:
        squared_gradients: (K, *shape), F ≥ 0: each expert's mean squared gradient of the log-likelihood, on its own
            calibration rows.

    Returns:
        (K, *shape), nonnegative, 1 in sum over K.

    Reference: Matena, Raffel, "Merging Models with Fisher-Weighted Averaging", NeurIPS 2022.

    >>> fisher_weights(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
    tensor([[0.2500, 0.5000],
            [0.7500, 0.5000]])
    """
    total = squared_gradients.sum(0)
    return torch.where(total > 0, squared_gradients / total, 1 / len(squared_gradients))
