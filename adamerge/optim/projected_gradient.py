"""Projected gradient descent, with a line search along the projection arc."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast, final

from torch import Tensor, nn
from typing_extensions import override

from adamerge.optim.closure import Closure, Evaluation, Objective, check_start, coefficients_of
from adamerge.optim.descent import Cosines, Descent, SearchingOptimizer, SearchMemory
from adamerge.optim.feasible_sets import FeasibleSet
from adamerge.optim.incompatible_options import OptimizerKind, check_pair
from adamerge.optim.line_search import backtrack, promised, resolution
from adamerge.types import Coefficients, ConfigError, check_types

StepRule = Literal["armijo", "constant"]


class _Memory(SearchMemory):
    """What a resumed run needs besides the coefficients."""

    step_size: float
    residual: float


@final
@dataclass(frozen=True)
class ProjectedGradient(Descent):
    r"""Gradient descent that is projected back onto the feasible set.

    $$C \leftarrow \text{project}(C - \alpha \nabla L(C))$$

    With "armijo", the step size starts at the last accepted one, grown by a factor, and shrinks until the decrease of
    the loss is sufficient: best where every step sees the same rows. With "constant" it is `lr`, and a step evaluates
    once.

    Args:
        lr: The step size, or the first one tried; above 0.
        step_rule: "armijo" or "constant".
        grow: Factor from an accepted step size to the next one tried, at least 1.
        shrink: Factor from a refused step size to the next one tried, between 0 and 1.
        sufficient: Share of the decrease promised by the gradient that an accepted step delivers, between 0 and 1. On
            a quadratic a small share lets steps of nearly twice the inverse curvature pass, which zigzag for ever; a
            quarter ends at one and a half.
        tolerance: Residual at or below which the descent has converged, at least 0.

    Raises:
        ConfigError: An option is out of its range.

    Reference:
        D. P. Bertsekas, "On the Goldstein-Levitin-Polyak gradient projection method", IEEE Transactions on Automatic
        Control 21, 1976, equation 12.

    Example:
        >>> import torch
        >>> from adamerge.optim.feasible_sets import Simplex
        >>> coefficients = nn.Parameter(torch.tensor([[0.5, 0.5]]))
        >>> optimizer = ProjectedGradient().build([coefficients], Simplex())
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = (coefficients - torch.tensor([[2.0, 0.0]])).square().sum()
        ...     loss.backward()
        ...     return loss
        >>> _ = optimizer.step(closure)
        >>> coefficients.data
        tensor([[1., 0.]])
    """

    lr: float = 1.0
    step_rule: StepRule = "armijo"
    grow: float = 2.0
    shrink: float = 0.5
    sufficient: float = 0.25
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        """Check the options."""
        check_types(self)
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ConfigError(f"expected lr of projected gradient descent to be above 0, found {self.lr}.")
        shares = 0 < self.shrink < 1 and 0 < self.sufficient < 1
        if not (shares and 1 <= self.grow < math.inf and 0 <= self.tolerance < math.inf):
            raise ConfigError(
                f"expected finite grow ≥ 1 and tolerance ≥ 0, 0 < shrink < 1 and 0 < sufficient < 1, found "
                f"{self.grow}, {self.tolerance}, {self.shrink} and {self.sufficient}."
            )

    @property
    @override
    def kind(self) -> OptimizerKind:
        return OptimizerKind.PROJECTED_GRADIENT

    @property
    @override
    def uses_lr(self) -> bool:
        return self.step_rule == "constant"

    @override
    def build(
        self, parameters: Iterable[nn.Parameter], feasible: FeasibleSet, cosines: Cosines | None = None
    ) -> "ProjectedGradientOptimizer":
        del cosines
        return ProjectedGradientOptimizer(parameters, feasible, self)


@final
class ProjectedGradientOptimizer(SearchingOptimizer[_Memory]):
    """Projected gradient descent as a torch optimiser.

    Args:
        params: One parameter of coefficients, float, (G, K), in the set.
        feasible: The set of each row.
        options: How.

    Raises:
        ConfigError: The coefficients are no table or outside of the set.
    """

    MEMORY = "projected_gradient"

    def __init__(self, params: Iterable[nn.Parameter], feasible: FeasibleSet, options: ProjectedGradient) -> None:
        check_pair(options.kind, feasible)
        super().__init__(params, {"lr": options.lr})
        check_start(coefficients_of(self), feasible)
        self._feasible, self._options = feasible, options
        self._memory = _Memory(
            step_size=options.lr / options.grow, loss=math.inf, residual=math.inf, stalled=False, evaluations=0
        )

    @property
    @override
    def distance(self) -> dict[str, float]:
        return {"residual": self.residual}

    @property
    def step_size(self) -> float:
        """The last accepted step size."""
        return self._memory["step_size"]

    @property
    def residual(self) -> float:
        r"""$\max |C - \text{project}(C - \nabla L(C))|$ at the start of the last step; 0 at stationary points."""
        return self._memory["residual"]

    @property
    @override
    def converged(self) -> bool:
        """Whether the residual is within the tolerance; a step then leaves the coefficients as they are."""
        return self._memory["residual"] <= self._options.tolerance

    @property
    def _searches(self) -> bool:
        return not self._options.uses_lr

    @override
    def step(self, closure: Closure | None = None) -> float:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step.

        Args:
            closure: zeroes the gradient, computes the loss, runs backward, returns the loss.

        Returns:
            The loss at the start of the step.

        Raises:
            ConfigError: if there is no closure.
            FloatingPointError: if the loss is not finite.
        """
        objective = Objective(coefficients_of(self), closure)
        start = objective.start()
        residual = (start.coefficients - self._arc(start, 1.0)).abs().max().item()
        step_size = self.step_size
        end = start.coefficients
        if residual > self._options.tolerance:
            step_size, end = self._descend(objective, start)
        objective.move(end)
        self._memory = _Memory(
            step_size=step_size,
            loss=start.loss,
            residual=residual,
            # A search cut the step short, and yet what is promised is lost in the rounding of the loss.
            stalled=self._searches and step_size <= self.step_size and -promised(start, end) <= resolution(start),
            evaluations=self.evaluations + objective.evaluations,
        )
        return start.loss

    def _descend(self, objective: Objective, start: Evaluation) -> tuple[float, Coefficients]:
        if not self._searches:
            step_size = cast("float", self.param_groups[0]["lr"])
            return step_size, self._arc(start, step_size)
        trial = self._options.grow * self.step_size
        step_size, end = backtrack(
            objective,
            start,
            lambda length: self._arc(start, length),
            trial,
            shrink=self._options.shrink,
            sufficient=self._options.sufficient,
        )
        # A search that failed forgets nothing: on other rows the last step size may do.
        return step_size or self.step_size, end.coefficients

    def _arc(self, start: Evaluation, step_size: float) -> Tensor:
        return self._feasible.project(start.coefficients - step_size * start.gradient)
