"""DARE: drop changes at random and rescale the rest."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from adamerge.merging.task_vectors import TaskVectors
from adamerge.transforms.transform import TASK_ARITHMETIC, Stacks, TensorTransform, Transform, require
from adamerge.types import check_types


def generator_for(seed: int, name: str) -> torch.Generator:
    """Seed a generator by (seed, parameter name), so that the order of tensors does not matter.

    Args:
        seed: any integer.
        name: the parameter's name.

    Returns:
        A CPU generator.

    Example:
        >>> generator_for(0, "a").initial_seed() == generator_for(0, "a").initial_seed()
        True
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def dare(stack: Tensor, drop: float, generator: torch.Generator) -> Tensor:
    """Drop each entry with probability p and rescale the rest: τ' = m ⊙ τ / (1 - p), m ~ Bernoulli(1 - p).

    The mean over masks is τ. Masks are drawn on the CPU, expert by expert, so that they are the same on any device.

    Args:
        stack: (K, *shape).
        drop: p in [0, 1).
        generator: draws the masks; it advances.

    Returns:
        (K, *shape).

    Reference:
        Yu, Yu, Yu, Huang, Li, "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free
        Lunch", ICML 2024, equation 1.

    Example:
        >>> dare(torch.ones(1, 6), 0.5, torch.Generator().manual_seed(0))
        tensor([[0., 2., 0., 0., 0., 2.]])
    """
    masks = [torch.rand(expert.shape, generator=generator) >= drop for expert in stack]
    return stack * torch.stack(masks).to(stack.device) / (1 - drop)


@dataclass(frozen=True)
class Dare(Transform):
    """Random dropping of changes with rescaling, seeded for each tensor by its name.

    The paper puts it before another merge; with task arithmetic the coefficient is 0.3.

    Attributes:
        drop: probability p of dropping an entry, in [0, 1).
        seed: seed of the masks, independent of seed_everything.

    Raises:
        ConfigError: on a probability outside [0, 1).
    """

    drop: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options."""
        check_types(self)
        require(0 <= self.drop < 1, "drop", "a probability in [0, 1)", self.drop)

    @property
    def coefficient(self) -> float:
        """0.3, the coefficient of task arithmetic."""
        return TASK_ARITHMETIC

    def plan(self, stacks: Stacks, information: TaskVectors | None = None) -> TensorTransform:
        """Return the masking of one tensor; nothing is gathered. See `Transform.plan`."""
        return lambda name, stack: dare(stack, self.drop, generator_for(self.seed, name))

    def experts(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the experts' own names; see `Transform.experts`."""
        return names
