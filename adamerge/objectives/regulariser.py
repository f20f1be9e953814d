"""A pull of the coefficients towards where they started."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from adamerge.types import Coefficients, ConfigError, check_types


def pull(coefficients: Coefficients, start: Coefficients, norm: str) -> Tensor:
    """Compute the mean over groups of Σₖ |cₖ − c⁰ₖ| (l1) or Σₖ (cₖ − c⁰ₖ)² (l2).

    Args:
        coefficients: (G, K).
        start: c⁰, (G, K).
        norm: l1 or l2.

    Returns:
        A scalar.

    Reference:
        Zhang et al., Expert Merging, 2025 (l1, γ about 5 for InternVL2.5-1B and 0.8 for Qwen2-VL-7B).

    Example:
        >>> import torch
        >>> round(pull(torch.tensor([[0.5, 0.1]]), torch.tensor([[0.3, 0.3]]), "l1").item(), 6)
        0.4
    """
    distance = coefficients - start
    return (distance.abs() if norm == "l1" else distance.square()).sum(1).mean()


@dataclass(frozen=True)
class Regulariser:
    """γ times the pull towards the start; task weights do not apply to it.

    Attributes:
        strength: γ; 0 switches it off.
        norm: l1 (the paper's) or l2.

    Raises:
        ConfigError: The strength is below 0.
    """

    strength: float = 0.0
    norm: Literal["l1", "l2"] = "l1"

    def __post_init__(self) -> None:
        """Check the strength."""
        check_types(self)
        if not 0 <= self.strength < math.inf:
            raise ConfigError(f"regulariser.strength: expected a finite number of at least 0, found {self.strength}.")

    def __call__(self, coefficients: Coefficients, start: Coefficients) -> Tensor:
        """Return γ · pull, a scalar that autograd differentiates."""
        return self.strength * pull(coefficients, start, self.norm)
