"""Fisher-weighted averaging: each expert has weight where its loss is curved."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adamerge.merging.task_vectors import TaskVectors
from adamerge.transforms.transform import (
    FisherSettings,
    Labels,
    Stacks,
    TensorTransform,
    Transform,
    per_expert,
    require,
    vectors,
)
from adamerge.types import check_types


def fisher_weights(information: Tensor) -> Tensor:
    """Weigh experts entry by entry by their diagonal Fisher information.

    wₖ = Fₖ / Σⱼ Fⱼ, and 1/K where every Fₖ is zero; the merged update is Σₖ wₖ ⊙ τₖ.

    Args:
        information: (K, *shape), F ≥ 0.

    Returns:
        (K, *shape), nonnegative, 1 in sum over K.

    Reference:
        Matena, Raffel, "Merging Models with Fisher-Weighted Averaging", NeurIPS 2022, section 3.

    Example:
        >>> fisher_weights(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
        tensor([[0.2500, 0.5000],
                [0.7500, 0.5000]])
    """
    total = information.sum(0)
    return torch.where(total > 0, information / total, 1 / len(information))


def norms(information: TaskVectors) -> Tensor:
    """Take the norm of each expert's whole information, ‖Fₖ‖.

    Args:
        information: Fₖ of all parameters.

    Returns:
        (K,), float64; 1 for an expert whose information is zero.
    """
    squares = torch.zeros(len(information.experts), dtype=torch.float64)
    for _, stack in information.stacks():
        squares += vectors(stack).double().square().sum(1).cpu()
    return torch.where(squares > 0, squares.sqrt(), 1)


@dataclass(frozen=True)
class Fisher(Transform):
    """Fisher-weighted average: outputs wₖ ⊙ τₖ, whose plain sum is the merge, hence the coefficient 1.

    The information is computed from each expert's log-likelihood on its own calibration rows, with labels from the
    expert's own predictions, so the rows need no labels. The authors' code takes the expectation over all labels, which
    costs a backward pass per class; one drawn label per row (and position) has the same mean at a fraction of the cost.

    Attributes:
        labels: sampled (seeded), expected as in the authors' code (classifiers only), or likeliest.
        rows: calibration rows per expert; null takes all.
        normalise: divide each expert's information by its norm over the whole model, as the authors' code does; the
            paper's formula does not.
        seed: seed of the drawn labels, independent of seed_everything.

    Raises:
        ConfigError: on an unknown word or a number of rows below 1.
    """

    labels: Labels = "sampled"
    rows: int | None = 64
    normalise: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options."""
        check_types(self)
        require(self.rows is None or self.rows >= 1, "rows", "1 or more, or null for all", self.rows)

    @property
    def coefficient(self) -> float:
        """1: the weights are in the outputs."""
        return 1.0

    @property
    def fisher(self) -> FisherSettings:
        """Return the options that concern the information; see `Transform.fisher`."""
        return FisherSettings(self.labels, self.rows, self.seed)

    def plan(self, stacks: Stacks, information: TaskVectors | None = None) -> TensorTransform:
        """Compute the norms of the information if it is normalised; see `Transform.plan`."""
        assert information is not None
        scales = norms(information) if self.normalise else torch.ones(len(information.experts))

        def weigh(name: str, stack: Tensor) -> Tensor:
            found = information.stack(name)
            return fisher_weights(found / per_expert(scales, found)).to(stack) * stack

        return weigh

    def experts(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the experts' own names; see `Transform.experts`."""
        return names
