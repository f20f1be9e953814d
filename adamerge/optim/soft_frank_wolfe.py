"""Soft Frank-Wolfe: the best k vertices per step, with weights optimised over them and all that have weight."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from adamerge.optim.convex_hull import weight_gap
from adamerge.optim.descent import Cosines
from adamerge.optim.feasible_sets import FeasibleSet, project_simplex
from adamerge.optim.frank_wolfe import FrankWolfeOptimizer, FrankWolfeOptions, Taken, Turn
from adamerge.optim.incompatible_options import OptimizerKind
from adamerge.optim.line_search import backtrack, spectral_size
from adamerge.types import Coefficients, ConfigError


@final
@dataclass(frozen=True)
class SoftFrankWolfe(FrankWolfeOptions):
    """Soft Frank-Wolfe: the best k vertices per step, with weights optimised over them and all that have weight.

    Fully corrective: the weights of the proposed and the active vertices are moved by projected gradient steps.

    Args:
        top_k: Number of vertices proposed by their score, at least 1.
        inner_steps: Most projected gradient steps on their weights, at least 1; each takes 1 evaluation, mostly.
        per: Whether each "group" proposes its own k vertices, or all groups of the "model" the same k, by the sum of
            their scores, so that an expert is in the merge or out of it as a whole.
        selection: The "linear" score, or the "cosine" of the published code; see `FrankWolfe`.
        tolerance: Gap at or below which the descent has converged, at least 0, in units of the loss.

    Raises:
        ConfigError: An option is out of its range.

    Reference:
        H. Chen et al., "FW-Merging: scaling model merging with Frank-Wolfe optimization", ICCV 2025; S. Lacoste-Julien,
        M. Jaggi, "On the global linear convergence of Frank-Wolfe optimization variants", NeurIPS 2015, algorithm 4.

    Example:
        >>> from adamerge.optim.feasible_sets import Simplex
        >>> coefficients = nn.Parameter(torch.tensor([[1.0, 0.0, 0.0]]))
        >>> optimizer = SoftFrankWolfe(top_k=2).build([coefficients], Simplex())
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = (coefficients - torch.tensor([[0.0, 0.75, 0.25]])).square().sum()
        ...     loss.backward()
        ...     return loss
        >>> while not optimizer.done:
        ...     _ = optimizer.step(closure)
        >>> coefficients.data.round(decimals=3)
        tensor([[0.0000, 0.7500, 0.2500]])
    """

    top_k: int = 3
    inner_steps: int = 10
    per: Literal["group", "model"] = "group"

    def __post_init__(self) -> None:
        """Refuse numbers out of their range."""
        super().__post_init__()
        if self.top_k < 1 or self.inner_steps < 1:
            raise ConfigError(f"expected top_k ≥ 1 and inner_steps ≥ 1, found {self.top_k} and {self.inner_steps}.")

    @property
    @override
    def kind(self) -> OptimizerKind:
        return OptimizerKind.FRANK_WOLFE_SOFT

    @override
    def build(
        self, parameters: Iterable[nn.Parameter], feasible: FeasibleSet, cosines: Cosines | None = None
    ) -> "FrankWolfeOptimizer":
        built = FrankWolfeOptimizer(parameters, feasible, self, cosines)
        if self.top_k > built.vertices:
            raise ConfigError(
                f"top_k={self.top_k} exceeds the pool of {built.vertices} vertices (experts, and the base where it is "
                "included); choose a smaller k."
            )
        return built

    @override
    def take(self, turn: Turn) -> Taken:
        """Propose the best k vertices and correct the weights of all; see `FrankWolfeOptimizer`."""
        choice = turn.choice  # (R, V)
        if self.per == "model":
            choice = choice.sum(dim=0, keepdim=True).expand_as(choice)
        best = choice.topk(self.top_k, dim=1, largest=False).indices  # (R, k)
        proposed = torch.zeros_like(turn.weights, dtype=torch.bool).scatter(1, best, value=True)  # (R, V)
        end, size = self._correct(turn, outside=~proposed & (turn.weights <= 0))
        return Taken(end, proposed & (turn.hull.weights(end) > 0), {**turn.pace, "inner_step_size": size})

    def _correct(self, turn: Turn, outside: Tensor) -> tuple[Coefficients, float | None]:
        """Descend on the weights of a face by projected gradients, given what lies outside of it, bool (R, V)."""
        hull, start, size = turn.hull, turn.start, turn.pace["inner_step_size"]
        for _ in range(self.inner_steps):
            weights = hull.weights(start.coefficients)  # (R, V)
            scores = hull.scores(start.gradient).masked_fill(outside, torch.inf)  # (R, V)
            if weight_gap(weights, scores).sum().item() <= self.tolerance:
                break

            def path(length: float, weights: Tensor = weights, scores: Tensor = scores) -> Coefficients:
                return hull.coefficients(project_simplex(weights - length * scores))

            length, end = backtrack(turn.objective, start, path, size or _first_size(scores))
            if length == 0:
                break
            size, start = spectral_size(start, end, hull.scale) or 2.0 * length, end
        return start.coefficients, size


def _first_size(scores: Tensor) -> float:
    """Compute the step that moves a weight by about 1: the inverse of the widest spread of finite scores in a row."""
    finite = scores.masked_fill(scores.isinf(), -torch.inf)  # (R, V)
    spread = (finite.amax(dim=1) - scores.amin(dim=1)).max().item()
    return 1.0 / spread
