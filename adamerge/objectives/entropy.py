"""Entropy of the predictions: AdaMerging's objective."""

import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid
from typing_extensions import override

from adamerge.batch import Batch, Form, Outputs, mean_where, widened
from adamerge.objectives.objective import Objective
from adamerge.types import SMALLEST_TEMPERATURE, ConfigError, check_types


def entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute the Shannon entropy of softmax(z / T), in nats: H = −Σ_c p_c · log p_c.

    Computed from log_softmax, so that the gradient of tiny probabilities is kept; log(p + ε) would drop it.

    Args:
        logits: z, (…, C).
        temperature: T > 0.

    Returns:
        H of each distribution, (…), between 0 and log C.

    Reference:
        Wang et al., Tent: Fully Test-time Adaptation by Entropy Minimization, 2021, equation 1.
        Yang et al., AdaMerging: Adaptive Model Merging for Multi-Task Learning, 2024, equation 6.

    Example:
        >>> import torch
        >>> round(entropy(torch.zeros(1, 4)).item() - math.log(4), 6)
        0.0
    """
    log_probabilities = widened(logits).div(temperature).log_softmax(-1)
    return -(log_probabilities.exp() * log_probabilities).sum(-1)


def bernoulli_entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute the entropy of independent labels in nats: Σ_c H(σ(z_c / T)), H(p) = −p·log p − (1 − p)·log(1 − p).

    Args:
        logits: z, (…, C).
        temperature: T > 0.

    Returns:
        (…), between 0 and C·log 2.

    Example:
        >>> import torch
        >>> round(bernoulli_entropy(torch.zeros(1, 2)).item() - 2 * math.log(2), 6)
        0.0
    """
    z = widened(logits) / temperature
    return -(z.sigmoid() * logsigmoid(z) + (-z).sigmoid() * logsigmoid(-z)).sum(-1)


@dataclass(frozen=True)
class Entropy(Objective):
    """Mean entropy of each row's (or each counted position's) prediction. It needs no expert to compare with.

    Args:
        temperature: T > 0 divides the logits.
        per_log_classes: Divide by log C, so that a task of many classes weighs no more than one of few.

    Raises:
        ConfigError: The temperature is not above 0.

    Example:
        >>> import torch
        >>> batch = Batch({}, torch.arange(1))
        >>> round(Entropy()(Outputs(torch.zeros(1, 2)), batch, None).item(), 4)  # log 2: two classes, undecided
        0.6931
    """

    temperature: float = 1.0
    per_log_classes: bool = False

    def __post_init__(self) -> None:
        """Check the options."""
        check_types(self)
        if not SMALLEST_TEMPERATURE <= self.temperature < math.inf:
            raise ConfigError(f"objective.temperature: expected a finite number above 0, found {self.temperature}.")

    @property
    @override
    def unsuited(self) -> frozenset[Form]:
        return frozenset({"numbers", "vectors"})

    @property
    @override
    def by_position(self) -> Objective:
        return self

    @override
    def __call__(self, outputs: Outputs, batch: Batch, targets: Outputs | None) -> Tensor:
        del targets
        if outputs.form == "labels":
            mean = mean_where(bernoulli_entropy(outputs.logits, self.temperature), batch.positions)
            return mean / (outputs.logits.shape[-1] * math.log(2)) if self.per_log_classes else mean
        mean = mean_where(entropy(outputs.logits, self.temperature), batch.positions)
        return mean / math.log(outputs.logits.shape[-1]) if self.per_log_classes else mean
