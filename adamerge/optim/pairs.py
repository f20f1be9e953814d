"""The pairs of choices that mathematics rules out, in one table, each with its reason."""

from enum import StrEnum

from adamerge.feasible import Box, FeasibleSet, Simplex, Unbounded
from adamerge.types import ConfigError


class OptimizerKind(StrEnum):
    """What moves the coefficients."""

    TORCH = "torch"
    PROJECTED_GRADIENT = "projected gradient"
    FRANK_WOLFE_HARD = "Frank-Wolfe (hard)"
    FRANK_WOLFE_SOFT = "Frank-Wolfe (soft)"
    LBFGSB = "L-BFGS-B"


_NO_VERTEX = "a linear loss has no least point on an unbounded set, so there is no vertex to select; choose a simplex"

UNDEFINED_SETS: dict[tuple[OptimizerKind, type[FeasibleSet]], str] = {
    (OptimizerKind.FRANK_WOLFE_HARD, Unbounded): _NO_VERTEX,
    (OptimizerKind.FRANK_WOLFE_SOFT, Unbounded): _NO_VERTEX,
    (OptimizerKind.FRANK_WOLFE_SOFT, Box): (
        "each coefficient of a box has two ends of its own, so there are no k best experts to choose among; choose a "
        "simplex, or projected gradient descent"
    ),
    (OptimizerKind.LBFGSB, Simplex): (
        "L-BFGS-B knows bounds on single coefficients only, not on their sum; choose a box, or projected gradient "
        "descent or Frank-Wolfe on the simplex"
    ),
}
"""Why an optimiser cannot keep coefficients in a set."""

CLOSURE_KINDS = frozenset(OptimizerKind) - {OptimizerKind.TORCH}
"""Optimisers that evaluate the loss several times a step and decide by what they see."""

NO_CLIPPING = (
    "a clipped gradient is not the slope of the loss, so line search, gap and curvature would believe a wrong number; "
    "switch clipping off, or choose a torch optimiser"
)
NO_HALF_PRECISION = (
    "the gradient scaler of fp16 unscales and steps once, without the closure that this optimiser evaluates; choose "
    "bf16 or fp32, or a torch optimiser"
)


def check_pair(
    optimizer: OptimizerKind,
    feasible: FeasibleSet,
    *,
    gradient_clipping: bool = False,
    half_precision: bool = False,
) -> None:
    """Refuse a pair of choices that is not defined, with the reason.

    Args:
        optimizer: what moves the coefficients.
        feasible: where they may live.
        gradient_clipping: whether gradients are clipped before a step.
        half_precision: whether training runs under fp16 with a gradient scaler (bf16 needs none).

    Raises:
        ConfigError: naming the two choices and why they exclude each other.

    Example:
        >>> check_pair(OptimizerKind.LBFGSB, Box())
        >>> check_pair(OptimizerKind.LBFGSB, Simplex())
        Traceback (most recent call last):
        adamerge.types.ConfigError: L-BFGS-B on Simplex(radius=1.0, includes_base=False) is not defined: L-BFGS-B ...
    """
    reason = UNDEFINED_SETS.get((optimizer, type(feasible)))
    if reason is not None:
        raise ConfigError(f"{optimizer} on {feasible} is not defined: {reason}.")
    if gradient_clipping and optimizer in CLOSURE_KINDS:
        raise ConfigError(f"{optimizer} with gradient clipping is not defined: {NO_CLIPPING}.")
    if half_precision and optimizer in CLOSURE_KINDS:
        raise ConfigError(f"{optimizer} under fp16 is not defined: {NO_HALF_PRECISION}.")
