"""LiNeS: changes grow linearly with depth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from adamerge.merging.task_vectors import TaskVectors
from adamerge.transforms.transform import Stacks, TensorTransform, Transform, require
from adamerge.types import ConfigError, check_types


def stack_and_layer(name: str) -> tuple[str, int] | None:
    """Split a parameter name at its first integer component.

    Args:
        name: a parameter's name, with dots.

    Returns:
        The name of the stack of layers and the layer's number, or None for a parameter outside every stack.

    Example:
        >>> stack_and_layer("encoder.layer.3.output.dense.weight")
        ('encoder.layer', 3)
        >>> stack_and_layer("pooler.dense.bias")
    """
    parts = name.split(".")
    for i, part in enumerate(parts):
        if part.isdecimal():
            return ".".join(parts[:i]), int(part)
    return None


def depth_shares(names: Sequence[str]) -> dict[str, float]:
    """Place each parameter between the first layer (0) and the last (1): l/(L - 1), l and L by its own stack.

    Parameters outside every stack get 0 before the first layer and 1 after it. (The authors' code has 0 for all of
    them, although a pooler or a last norm is as deep as the last layer.)

    Args:
        names: all parameters, in the order of the module (embeddings first, heads last).

    Returns:
        Name → share of the depth in [0, 1].

    Raises:
        ConfigError: No name has a layer number.

    Example:
        >>> depth_shares(["embed.weight", "layer.0.weight", "layer.1.weight", "layer.2.weight", "norm.weight"])
        {'embed.weight': 0.0, 'layer.0.weight': 0.0, 'layer.1.weight': 0.5, 'layer.2.weight': 1.0, 'norm.weight': 1.0}
    """
    places = {name: stack_and_layer(name) for name in names}
    last: dict[str, int] = {}
    for place in places.values():
        if place is not None:
            last[place[0]] = max(last.get(place[0], 0), place[1])
    if not last:
        raise ConfigError(
            f"Lines: expected parameter names with a layer number, found none in {', '.join(names)[:200]}; "
            "choose another transform."
        )
    shares, outside = {}, 0.0
    for name, place in places.items():
        if place is not None:
            outside = 1.0
        shares[name] = outside if place is None else place[1] / max(1, last[place[0]])
    return shares


def scale_by_depth(stack: Tensor, share: float, alpha: float, beta: float) -> Tensor:
    """Scale a tensor's changes by alpha + beta · l/(L - 1).

    Args:
        stack: (K, *shape).
        share: l/(L - 1), from `depth_shares`.
        alpha: scale of the first layer.
        beta: difference of the scales of the last and the first layer.

    Returns:
        (K, *shape).

    Reference:
        Wang, Dimitriadis, Favero, Ortiz-Jimenez, Fleuret, Frossard, "LiNeS: Post-training Layer Scaling Prevents
        Forgetting and Enhances Model Merging", ICLR 2025.

    Example:
        >>> import torch
        >>> scale_by_depth(torch.tensor([[2.0, 4.0]]), share=0.5, alpha=0.25, beta=0.5)
        tensor([[1., 2.]])
    """
    return (alpha + beta * share) * stack


@dataclass(frozen=True)
class Lines(Transform):
    """Layer scaling linear in depth; the scale is in the outputs, so their plain sum is the merge.

    Attributes:
        alpha: scale of the first layer; None takes 1/K, as the paper does for a sum of K task vectors.
        beta: difference of the scales of the last and the first layer; the paper searches it on validation data.

    Raises:
        ConfigError: on negative scales.
    """

    alpha: float | None = None
    beta: float = 0.3

    def __post_init__(self) -> None:
        """Check the options."""
        check_types(self)
        require(self.alpha is None or self.alpha >= 0, "alpha", "0 or more, or null for 1/K", self.alpha)
        require(self.beta >= 0, "beta", "0 or more", self.beta)

    @property
    def coefficient(self) -> float:
        """1: alpha + beta · l/(L - 1) is in the outputs."""
        return 1.0

    @property
    def keeps_span(self) -> bool:
        """True: task vectors are scaled as a whole."""
        return True

    def check(self, experts: int, shapes: Mapping[str, Sequence[int]]) -> None:
        """Require names with layer numbers; see `Transform.check`."""
        depth_shares(list(shapes))

    def plan(self, stacks: Stacks, information: TaskVectors | None = None) -> TensorTransform:
        """Count the layers by the parameters' names; see `Transform.plan`."""
        shares = depth_shares([name for name, _ in stacks()])

        def scale(name: str, stack: Tensor) -> Tensor:
            alpha = 1 / len(stack) if self.alpha is None else self.alpha
            return scale_by_depth(stack, shares[name], alpha, self.beta)

        return scale

    def experts(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the experts' own names; see `Transform.experts`."""
        return names
