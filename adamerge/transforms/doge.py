"""DOGE: norm-balanced coefficients and one shared modification outside the shared subspace."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from adamerge.merging.task_vectors import TaskVectors
from adamerge.transforms.doge_fit import Residual, fit, fit_adam, norm_coefficients, shared_subspace
from adamerge.transforms.magnitude import global_thresholds, tensor_thresholds, trim
from adamerge.transforms.order_statistics import Scope
from adamerge.transforms.transform import (
    TASK_ARITHMETIC,
    Stacks,
    TensorTransform,
    Transform,
    matrices,
    per_expert,
    require,
)
from adamerge.types import ConfigError, check_types

Vectors: TypeAlias = Literal["base", "average", "task_arithmetic"]
"""How the tensors that are not fitted are treated."""


def scale_vectors(stack: Tensor, treatment: Vectors) -> Tensor:
    """Scale a tensor that is not fitted: by 0, 1/K or 0.3.

    Args:
        stack: (K, *shape).
        treatment: base, average or task_arithmetic.

    Returns:
        (K, *shape).

    Example:
        >>> scale_vectors(torch.tensor([[2.0], [4.0]]), "average").tolist()
        [[1.0], [2.0]]
    """
    return {"base": 0.0, "average": 1 / len(stack), "task_arithmetic": TASK_ARITHMETIC}[treatment] * stack


def is_fitted(name: str, dimensions: int, exclude: tuple[str, ...]) -> bool:
    """Return whether DOGE fits a tensor: it has two dimensions or more, and no excluded word in its name.

    Args:
        name: the parameter's name.
        dimensions: number of dimensions of its tensor.
        exclude: words that exclude a tensor.

    Returns:
        False for the tensors that the option `vectors` treats.

    Example:
        >>> is_fitted("encoder.fc.weight", 2, ("embed",)), is_fitted("embeddings.word.weight", 2, ("embed",))
        (True, False)
    """
    return dimensions >= 2 and not any(word in name for word in exclude)


@dataclass(frozen=True)
class Doge(Transform):
    """DOGE without data: K vectors λₖ·Mₖ⊙(τₖ + Δ) for each matrix, whose plain sum is the merged update.

    λₖ = η/‖τₖ‖, Δ fitted by least squares in the exact complement of the shared subspace, Mₖ the largest changes of
    expert k. Masking `before` the fit replaces τₖ by Mₖ⊙τₖ throughout and leaves Δ whole, so the fit stays optimal;
    `after` masks τₖ + Δ with the largest |τₖ|, which undoes the fit. Fitting a tensor takes about six times the memory
    of its stack of K·R·M numbers (measured: 205 MB for 34 MB, K = 8, R = M = 1024).

    As published (FusionBench, doge_ta): mask_order after, density 0.3, solver adam, shared_rank ⌊min(R, M)/6⌋.
    As published with AdaMerging: the same with balanced false. PEFT's port: scope tensor, residual matrix, solver adam.

    The defaults of density and order come from a sweep on the zoo's eight experts (tests/benchmarks/doge.py, 150
    training rows per task, where task arithmetic 0.3 has 91.3): masked before the fit 49.5 at a density of
    0.1, 94.1 at 0.3, 95.8 at 0.5; 94.5 without a mask; masked after it 93.5 at 0.3. At 0.5 the published η of 0.07 lies
    on a plateau (95.7 at 0.04, 95.9 at 0.06).

    Only matrices are fitted: tensors of two dimensions or more, without embeddings, as published (an update of norm η
    is out of proportion where the experts hardly moved). Embeddings are recognised by their names alone, so a model
    that names them differently needs `exclude`. The option `vectors` treats the other tensors.

    Attributes:
        eta: norm η of each expert's update of a tensor, > 0.
        density: share of the changes that a mask keeps, in (0, 1].
        mask_order: before (the fit), after (as published) or none.
        scope: mask over all matrices of an expert, or over each.
        residual: row or matrix.
        shared_rank: dimension of the shared subspace; None takes max(1, ⌊min(R, M)/K⌋).
        damping: damping of the exact solver, see `fit`; at least 0.
        solver: exact, or adam (400 steps of 1e-4, as published).
        vectors: treatment of tensors that are not fitted: base (no change), average (τₖ/K) or task_arithmetic
            (0.3 · τₖ).
        exclude: matrices whose names contain one of these words are not fitted.
        balanced: whether λ is in the outputs. False gives Mₖ⊙(τₖ + Δ), for learned coefficients that start at 0.3.

    Raises:
        ConfigError: on η ≤ 0, a density outside (0, 1], a rank below 1 or an unknown word.
    """

    eta: float = 0.07
    density: float = 0.5
    mask_order: Literal["before", "after", "none"] = "before"
    scope: Scope = "global"
    residual: Residual = "row"
    shared_rank: int | None = None
    damping: float = 3e-5
    solver: Literal["exact", "adam"] = "exact"
    vectors: Vectors = "base"
    exclude: tuple[str, ...] = ("embed", "wte.", "wpe.", "shared.weight", "relative_attention_bias", "lm_head")
    balanced: bool = True

    def __post_init__(self) -> None:
        """Check the options."""
        check_types(self)
        require(self.eta > 0, "eta", "a number above 0", self.eta)
        require(0 < self.density <= 1, "density", "a share in (0, 1]", self.density)
        require(self.shared_rank is None or self.shared_rank >= 1, "shared_rank", "1 or more", self.shared_rank)
        require(self.damping >= 0, "damping", "0 or more", self.damping)

    @property
    def by_matrix(self) -> bool:
        """True: it fits matrices."""
        return True

    @property
    def coefficient(self) -> float:
        """1; without λ in the outputs 0.3, where AdaMerging starts in FusionBench."""
        return 1.0 if self.balanced else TASK_ARITHMETIC

    def check(self, experts: int, shapes: Mapping[str, Sequence[int]]) -> None:
        """Require at least one matrix to fit; see `Transform.check`."""
        if not any(is_fitted(name, len(shape), self.exclude) for name, shape in shapes.items()):
            raise ConfigError(
                f"Doge fits matrices, but of {', '.join(shapes)[:200]} none is one whose name is free of "
                f"{', '.join(self.exclude)} (key exclude)."
            )

    def plan(self, stacks: Stacks, information: TaskVectors | None = None) -> TensorTransform:
        """Find the thresholds of global masks over all matrices; see `Transform.plan`."""
        thresholds = self._thresholds(stacks)

        def transform(name: str, stack: Tensor) -> Tensor:
            if not is_fitted(name, stack.ndim - 1, self.exclude):
                return scale_vectors(stack, self.vectors) / self.coefficient
            flat = matrices(stack)
            return self._merge(flat, thresholds(flat)).reshape(stack.shape)

        return transform

    def experts(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the experts' own names; see `Transform.experts`."""
        return names

    def _thresholds(self, stacks: Stacks) -> Callable[[Tensor], Tensor]:
        """Return a function: stack (K, R, M) → magnitude from which each expert's entries pass the mask, (K,)."""
        if self.mask_order == "none":
            return lambda stack: stack.new_zeros(len(stack))
        if self.scope == "tensor":
            return lambda stack: tensor_thresholds(stack, self.density)

        def fitted() -> Iterator[tuple[str, Tensor]]:
            return filter(lambda pair: is_fitted(pair[0], pair[1].ndim - 1, self.exclude), stacks())

        found = global_thresholds(fitted, self.density)
        return lambda stack: found

    def _merge(self, stack: Tensor, thresholds: Tensor) -> Tensor:
        """Fit Δ to a stack (K, R, M), masked before or after the fit or not at all: (K, R, M)."""
        fitted = trim(stack, thresholds) if self.mask_order == "before" else stack
        coefficients = norm_coefficients(fitted, self.eta)
        basis = shared_subspace(fitted, self.shared_rank)
        if self.solver == "exact":
            delta = fit(fitted, coefficients, basis, self.residual, self.damping)
        else:
            delta = fit_adam(fitted, coefficients, basis, self.residual)
        modified = fitted + delta
        if self.balanced:
            modified = per_expert(coefficients, fitted) * modified
        kept = per_expert(thresholds, stack) <= stack.abs()
        return torch.where(kept, modified, 0) if self.mask_order == "after" else modified
