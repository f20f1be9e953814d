"""The pairs of choices that mathematics rules out, in one table, each with its reason."""

from enum import StrEnum

from adamerge.optim.feasible_sets import Box, FeasibleSet, Simplex, Unbounded
from adamerge.types import ConfigError


class OptimizerKind(StrEnum):
    """What moves the coefficients."""

    TORCH = "torch"
    TORCH_LBFGS = "torch's LBFGS"
    PROJECTED_GRADIENT = "projected gradient"
    FRANK_WOLFE_HARD = "Frank-Wolfe (hard)"
    FRANK_WOLFE_COSINE = "Frank-Wolfe (hard, by cosine)"
    FRANK_WOLFE_SOFT = "Frank-Wolfe (soft)"
    LBFGSB = "L-BFGS-B"


_NO_VERTEX = "a linear loss has no least point on an unbounded set, so there is no vertex to select; choose a simplex"
_PROJECTED = (
    "it goes to many points in a step, and curvature from points outside of the set, or pushed back onto it, is not "
    "that of the loss; choose L-BFGS-B on a box, or projected gradient descent"
)

UNDEFINED_SETS: dict[tuple[OptimizerKind, type[FeasibleSet]], str] = {
    (OptimizerKind.FRANK_WOLFE_HARD, Unbounded): _NO_VERTEX,
    (OptimizerKind.FRANK_WOLFE_COSINE, Unbounded): _NO_VERTEX,
    (OptimizerKind.FRANK_WOLFE_COSINE, Box): (
        "the ends of a box are no experts, whose cosine with the gradient could be taken; choose a simplex, or "
        "selection by the linear score"
    ),
    (OptimizerKind.FRANK_WOLFE_SOFT, Unbounded): _NO_VERTEX,
    (OptimizerKind.FRANK_WOLFE_SOFT, Box): (
        "each coefficient of a box has two ends of its own, so there are no k best experts to choose among; choose a "
        "simplex, or projected gradient descent"
    ),
    (OptimizerKind.TORCH_LBFGS, Simplex): _PROJECTED,
    (OptimizerKind.TORCH_LBFGS, Box): _PROJECTED,
    (OptimizerKind.LBFGSB, Simplex): (
        "L-BFGS-B knows bounds on single coefficients only, not on their sum; choose a box, or projected gradient "
        "descent or Frank-Wolfe on the simplex"
    ),
}
"""Why an optimiser cannot keep coefficients in a set."""

CLOSURE_KINDS = frozenset(OptimizerKind) - {OptimizerKind.TORCH}
"""Optimisers that evaluate the loss several times per step and decide by what they see."""
SEARCHING_KINDS = CLOSURE_KINDS - {OptimizerKind.TORCH_LBFGS}
"""Ours among them, which find the size of their steps themselves and know when they are done."""


class Circumstance(StrEnum):
    """What learning may come with besides an optimiser and a set."""

    CLIPPING = "gradient clipping"
    FP16 = "fp16"
    BF16 = "bf16"
    MINI_BATCHES = "another batch at every step"
    IDLE_SCHEDULER = "a learning-rate scheduler"
    SEVERAL_PROCESSES = "several devices"


UNDEFINED_CIRCUMSTANCES: dict[Circumstance, tuple[frozenset[OptimizerKind], str]] = {
    Circumstance.CLIPPING: (
        CLOSURE_KINDS,
        "a clipped gradient is not the slope of the loss, so line search, gap and curvature would believe a wrong "
        "number; leave out trainer.gradient_clip_val, or choose a torch optimiser",
    ),
    Circumstance.FP16: (
        CLOSURE_KINDS,
        "the gradient scaler of fp16 unscales and steps once, without the closure that this optimiser evaluates; "
        "choose 32-true, or a torch optimiser",
    ),
    Circumstance.BF16: (
        CLOSURE_KINDS,
        "a loss in bf16 is rounded at its third digit, where a line search takes the rounding for a descent, or for "
        "the end of it; choose 32-true, or a torch optimiser",
    ),
    Circumstance.MINI_BATCHES: (
        frozenset({OptimizerKind.LBFGSB, OptimizerKind.TORCH_LBFGS}),
        "it takes curvature from one step to the next, and the loss of other rows is another function; set "
        "data.batch_size: null (and data.rows as few as the time allows), or choose another optimiser",
    ),
    Circumstance.IDLE_SCHEDULER: (
        SEARCHING_KINDS,
        "it finds the size of its steps itself, so a scheduler would change nothing; set lr_scheduler: null, or choose "
        "a step rule of constant size",
    ),
    Circumstance.SEVERAL_PROCESSES: (
        frozenset({OptimizerKind.FRANK_WOLFE_COSINE}),
        "a cosine is taken with the gradient of all rows, and each device has that of its own; choose selection by the "
        "linear score, or set trainer.devices: 1",
    ),
}
"""Which optimisers a circumstance rules out, and why."""


def check_pair(optimizer: OptimizerKind, feasible: FeasibleSet) -> None:
    """Refuse an optimiser on a set where it is not defined, with the reason.

    Args:
        optimizer: what moves the coefficients.
        feasible: where they may live.

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


def check_circumstance(optimizer: OptimizerKind, circumstance: Circumstance) -> None:
    """Refuse an optimiser with something that learning comes with, with the reason.

    Args:
        optimizer: what moves the coefficients.
        circumstance: what learning comes with; a scheduler only where the optimiser has no use for its learning rate.

    Raises:
        ConfigError: naming the two choices and why they exclude each other.
    """
    kinds, reason = UNDEFINED_CIRCUMSTANCES[circumstance]
    if optimizer in kinds:
        raise ConfigError(f"{optimizer} with {circumstance} is not defined: {reason}.")
