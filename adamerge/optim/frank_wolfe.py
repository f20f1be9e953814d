"""Frank-Wolfe as a torch optimiser: scores select vertices, and steps that are hard or soft go between them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, TypedDict, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from adamerge.optim.closure import (
    Closure,
    Evaluation,
    Objective,
    check_start,
    coefficients_of,
)
from adamerge.optim.convex_hull import Hull, weight_gap
from adamerge.optim.descent import Cosines, Descent, SearchingOptimizer, SearchMemory
from adamerge.optim.feasible_sets import Box, FeasibleSet, Simplex
from adamerge.optim.incompatible_options import check_pair
from adamerge.optim.line_search import resolution
from adamerge.optim.processes import mean_over_processes
from adamerge.types import Coefficients, ConfigError, check_types

Score: TypeAlias = Literal["linear", "cosine"]
"""What makes a vertex the best: see `FrankWolfe`."""


@final
@dataclass(frozen=True)
class Selection:
    """One vertex that Frank-Wolfe selected, for a report.

    Args:
        group: row of the coefficients.
        expert: column of the coefficients; None for the base.
        first_step: the step, counted from 0, that selected it first.
        times: number of steps that selected it.
        weight: its present share of the row, from 0 to 1; the coefficient is radius times weight on a simplex.
    """

    group: int
    expert: int | None
    first_step: int
    times: int
    weight: float


class Pace(TypedDict):
    """How far the last searches went: where the next one begins."""

    inverse_curvature: float | None  # length of the last line search
    curvature: float | None  # of the last short step
    inner_step_size: float | None  # of the last projected gradient step on weights


class _Memory(Pace, SearchMemory):
    """What a resumed run needs besides the coefficients."""

    step: int
    gap: float
    times: Tensor  # int64, (R, V), steps that selected a vertex
    first: Tensor  # int64, (R, V), the first of them, or -1


class Turn(NamedTuple):
    """Where a step begins.

    Attributes:
        objective: The loss elsewhere.
        start: The loss and its gradient here.
        hull: Of the set.
        weights: Of the vertices here, (R, V).
        scores: Linear, of the vertices, (R, V).
        choice: By which vertices are selected, the least being the best, (R, V): the scores, or cosines.
        number: Of the step, from 0.
        lr: The optimiser's.
        pace: Of the steps before.
    """

    objective: Objective
    start: Evaluation
    hull: Hull
    weights: Tensor
    scores: Tensor
    choice: Tensor
    number: int
    lr: float
    pace: Pace


class Taken(NamedTuple):
    """What a step came to.

    Attributes:
        end: The coefficients, (G, K).
        selected: The vertices that it selected, bool, (R, V).
        pace: For the next one.
    """

    end: Coefficients
    selected: Tensor
    pace: Pace


@dataclass(frozen=True, kw_only=True)
class FrankWolfeOptions(Descent, ABC):
    """What hard and soft Frank-Wolfe have in common, for the optimiser that takes their steps.

    Args:
        selection: What makes a vertex the best: the "linear" score, or the "cosine" of the published code.
        tolerance: Gap at or below which the descent has converged, at least 0, in units of the loss.

    Raises:
        ConfigError: An option is out of its range.
    """

    selection: Score = "linear"
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        """Check the options."""
        check_types(self)
        if not 0 <= self.tolerance < math.inf:
            raise ConfigError(f"expected the gap's tolerance to be finite and at least 0, found {self.tolerance}.")

    @property
    @override
    def uses_cosines(self) -> bool:
        return self.selection == "cosine"

    @abstractmethod
    def take(self, turn: Turn) -> Taken:
        """Take one step from where the gap is above the tolerance."""


@final
class FrankWolfeOptimizer(SearchingOptimizer[_Memory]):
    r"""Frank-Wolfe as a torch optimiser: a score selects vertices, steps go between them.

    Each row g has a simplex (or the ends of a box) of its own. Searching rules share one curvature M between the rows
    and give each row its own step, $\gamma_g = \langle -\nabla_g, d_g \rangle / (M \|d_g\|^2)$ up to its limit: the
    minimum of the quadratic upper bound, which is separable. With one row this is the ordinary step.

    Args:
        params: One parameter of coefficients, float, (G, K), in the set.
        feasible: The set of each row: a simplex, or for hard steps a box.
        options: Hard or soft, and how.
        cosines: Cosines at the last evaluation, where these select.
        lr: Which a scheduler may change; see `FrankWolfe`.

    Raises:
        ConfigError: The set is unbounded or a single point, or the coefficients are no table or outside of the set.
    """

    MEMORY = "frank_wolfe"

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        feasible: FeasibleSet,
        options: FrankWolfeOptions,
        cosines: Cosines | None = None,
        lr: float = 1.0,
    ) -> None:
        check_pair(options.kind, feasible)
        assert isinstance(feasible, Simplex | Box)  # check_pair
        super().__init__(params, {"lr": lr})
        coefficients = coefficients_of(self)
        check_start(coefficients, feasible)
        self._hull = Hull(feasible, coefficients.shape[1])
        self._options = options
        self._cosines = cosines
        shape = self._hull.weights(coefficients.detach()).shape
        self._memory = _Memory(
            step=0,
            loss=math.inf,
            gap=math.inf,
            stalled=False,
            evaluations=0,
            inverse_curvature=None,
            curvature=None,
            inner_step_size=None,
            times=torch.zeros(shape, dtype=torch.int64),
            first=torch.full(shape, -1, dtype=torch.int64),
        )

    @property
    def vertices(self) -> int:
        """The pool's size V: the experts, and the base where it is included."""
        return self._hull.vertices

    @property
    @override
    def distance(self) -> dict[str, float]:
        return {"gap": self.gap}

    @property
    def gap(self) -> float:
        """Frank-Wolfe gap at the start of the last step, summed over rows; infinite before the first."""
        return self._memory["gap"]

    @property
    @override
    def converged(self) -> bool:
        """Whether the gap is within the tolerance; a step then leaves the coefficients as they are."""
        return self._memory["gap"] <= self._options.tolerance

    def selections(self, coefficients: Coefficients | None = None) -> list[Selection]:
        """List every vertex selected so far, by group, then in the order of selection.

        On a box these are the upper ends; going to a lower end selects nothing.

        Args:
            coefficients: Whose weights to report, float, (G, K), in the set; the present ones by default.
        """
        chosen = coefficients_of(self).detach() if coefficients is None else coefficients
        weights = self._hull.weights(chosen).cpu()  # (R, V)
        times, first = self._memory["times"].cpu(), self._memory["first"].cpu()  # (R, V), (R, V)
        found: list[Selection] = []
        for at in times.nonzero():  # (2,)
            row, vertex = int(at[0]), int(at[1])
            place = self._hull.place(row, vertex)
            if place is not None:
                counts = int(first[row, vertex]), int(times[row, vertex])
                found.append(Selection(*place, *counts, weights[row, vertex].item()))
        return sorted(found, key=lambda selection: (selection.group, selection.first_step))

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
        weights, scores = self._hull.weights(start.coefficients), self._hull.scores(start.gradient)  # (R, V), (R, V)
        gap = weight_gap(weights, scores).sum().item()
        end = start.coefficients
        if gap > self._options.tolerance:
            end = self._take(objective, start, weights, scores)
        objective.move(end)
        memory = self._memory
        self._memory = {
            **memory,
            "step": memory["step"] + 1,
            "loss": start.loss,
            "gap": gap,
            # What is left to gain is lost in the rounding of the loss, or could not be gained.
            "stalled": gap <= resolution(start) or torch.equal(end, start.coefficients),
            "evaluations": memory["evaluations"] + objective.evaluations,
        }
        return start.loss

    def _take(self, objective: Objective, start: Evaluation, weights: Tensor, scores: Tensor) -> Coefficients:
        """Take the step, and note what it selected."""
        memory, lr = self._memory, float(self.param_groups[0]["lr"])
        choice = self._choice(scores)
        turn = Turn(objective, start, self._hull, weights, scores, choice, memory["step"], lr, memory)
        end, selected, pace = self._options.take(turn)
        chosen, first = selected.cpu(), memory["first"].cpu()  # (R, V), (R, V)
        self._memory = {
            **memory,
            "inverse_curvature": pace["inverse_curvature"],
            "curvature": pace["curvature"],
            "inner_step_size": pace["inner_step_size"],
            "times": memory["times"].cpu() + chosen.long(),
            "first": torch.where(chosen & (first < 0), memory["step"], first),
        }
        return end

    def _choice(self, scores: Tensor) -> Tensor:  # (R, V) -> (R, V)
        """Return the scores by which vertices are selected, the least being the best; call it after evaluating."""
        if not self._options.uses_cosines:
            return scores
        if self._cosines is None:
            raise ConfigError("Selection by cosine needs the experts themselves: give build() a function for cosines.")
        return mean_over_processes(self._cosines()[:, : self._hull.vertices].to(scores))
