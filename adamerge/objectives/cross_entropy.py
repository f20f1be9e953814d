"""Cross-entropy with labels, for calibration rows that have them."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from adamerge.batch import Batch, Form, Outputs, mean_where, widened
from adamerge.objectives.objective import Objective

NOTHING = -100
"""Label of a position that has none."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute −log softmax(z)_y, in nats; 0 where there is no label.

    Args:
        logits: z, (…, C).
        labels: y, int64, (…), -100 where there is none.

    Returns:
        (…), at least 0.

    Reference:
        H. Chen et al., "FW-Merging: scaling model merging with Frank-Wolfe optimization", ICCV 2025, section 3 (the
        loss on a small labeled sample).

    Example:
        >>> import torch
        >>> round(cross_entropy(torch.zeros(1, 4), torch.tensor([2])).item() - torch.tensor(4.0).log().item(), 6)
        0.0
    """
    losses = functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=NOTHING, reduction="none")
    return losses.view(labels.shape)


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """Mean cross-entropy with the labels of the calibration rows; for language models, with the next token.

    The mean is over the rows or counted positions; a last position, after which nothing comes, counts as zero.

    Example:
        >>> import torch
        >>> batch = Batch({}, torch.arange(1), labels=torch.tensor([1]))
        >>> round(CrossEntropy()(Outputs(torch.zeros(1, 2)), batch, None).item(), 4)
        0.6931
    """

    @property
    @override
    def uses_labels(self) -> bool:
        return True

    @property
    @override
    def unsuited(self) -> frozenset[Form]:
        return frozenset({"labels", "numbers", "vectors", "spans"})

    @property
    @override
    def by_position(self) -> Objective:
        return self

    @override
    def __call__(self, outputs: Outputs, batch: Batch, targets: Outputs | None) -> Tensor:
        del targets
        assert batch.labels is not None  # uses_labels
        logits = widened(outputs.logits)
        return mean_where(cross_entropy(logits, batch.labels), batch.positions)
