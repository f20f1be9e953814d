"""Hard Frank-Wolfe: a step goes towards one vertex in each group."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import nn
from typing_extensions import override

from adamerge.optim.convex_hull import Move, Variant, away_move, pairwise_move, toward_move
from adamerge.optim.descent import Cosines
from adamerge.optim.feasible_sets import FeasibleSet
from adamerge.optim.frank_wolfe import FrankWolfeOptimizer, FrankWolfeOptions, Pace, Taken, Turn
from adamerge.optim.incompatible_options import OptimizerKind
from adamerge.optim.line_search import TRIALS, interpolate, short_step, spectral_size
from adamerge.types import Coefficients, ConfigError

StepRule = Literal["armijo", "short_step", "classic", "constant"]
VariantName = Literal["plain", "away", "pairwise"]

_VARIANTS: dict[VariantName, Variant] = {"plain": toward_move, "away": away_move, "pairwise": pairwise_move}
_SEARCHING: tuple[StepRule, ...] = ("armijo", "short_step")
_FIXED: tuple[StepRule, ...] = ("classic", "constant")


@final
@dataclass(frozen=True)
class FrankWolfe(FrankWolfeOptions):
    r"""Hard Frank-Wolfe over the hull of the experts: a step goes towards one vertex in each group.

    $$s_g = \arg\min_{s} \langle \nabla_g L(C), s - C_g \rangle, \qquad C_g \leftarrow C_g + \gamma_g (s_g - C_g)$$

    Args:
        step_rule: How far to go.
            "armijo": to where the interpolated slope vanishes, with a sufficient decrease; 2 to 3 evaluations per step.
            "short_step": to the minimum of a quadratic upper bound, of given curvature (1 evaluation per step), or of
            the curvature that backtracking finds (2 evaluations, mostly).
            "classic": 2 / (t + 2) at step t = 0, 1, …, for stochastic rows; 1 evaluation.
            "constant": `size`; 1 evaluation. The optimiser's `lr`, so a scheduler may change it.
        variant: "plain" towards the best vertex, "away" from the worst one too where that descends faster, "pairwise"
            from the worst to the best; the last two converge linearly where the minimum lies on a face.
        size: Of the constant step, above 0, at most 1.
        curvature: The Lipschitz constant of the gradient in coefficients, above 0, for "short_step".
        selection: What makes a vertex the best: the "linear" score above, or the "cosine" of the gradient with the
            whole expert (not with what it adds to the base), summed over a group's tensors, as in the published code.
            The second may select a vertex towards which the loss rises; the plain variant alone has it.
        tolerance: Gap at or below which the descent has converged, at least 0, in units of the loss.

    Raises:
        ConfigError: An option is unknown, out of its range, or of no use beside the others.

    Reference:
        M. Jaggi, "Revisiting Frank-Wolfe: projection-free sparse convex optimization", ICML 2013; S. Lacoste-Julien,
        M. Jaggi, "On the global linear convergence of Frank-Wolfe optimization variants", NeurIPS 2015; H. Chen et al.,
        "FW-Merging: scaling model merging with Frank-Wolfe optimization", ICCV 2025.

    Example:
        >>> from adamerge.optim.feasible_sets import Simplex
        >>> coefficients = nn.Parameter(torch.tensor([[0.5, 0.5, 0.0]]))
        >>> optimizer = FrankWolfe().build([coefficients], Simplex())
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = (coefficients - torch.tensor([[0.0, 0.0, 2.0]])).square().sum()
        ...     loss.backward()
        ...     return loss
        >>> while not optimizer.done:
        ...     _ = optimizer.step(closure)
        >>> coefficients.data
        tensor([[0., 0., 1.]])
        >>> optimizer.selections()
        [Selection(group=0, expert=2, first_step=0, times=2, weight=1.0)]
    """

    step_rule: StepRule = "armijo"
    variant: VariantName = "pairwise"
    size: float = 0.1
    curvature: float | None = None

    def __post_init__(self) -> None:
        """Refuse options that do not fit each other."""
        super().__post_init__()
        if self.variant != "plain" and self.step_rule in _FIXED:
            raise ConfigError(
                f"the variant {self.variant!r} needs a step rule that evaluates the loss, since its steps have no size "
                f"known beforehand. Choose one of {_SEARCHING}, or the plain variant with {self.step_rule!r}."
            )
        if self.variant != "plain" and self.selection == "cosine":
            raise ConfigError(
                f"selection by cosine is the published code's, which has plain steps only; the variant "
                f"{self.variant!r} compares linear scores. Choose variant: plain, or selection: linear."
            )
        if not 0 < self.size <= 1:
            raise ConfigError(f"expected the constant step size to be in (0, 1], found {self.size}.")
        if self.curvature is not None and not (self.curvature > 0 and math.isfinite(self.curvature)):
            raise ConfigError(f"expected the curvature to be a finite number above 0, found {self.curvature}.")
        if self.curvature is not None and self.step_rule != "short_step":
            raise ConfigError(f"the curvature is for the short step only, not for {self.step_rule!r}; leave it out.")

    @property
    @override
    def kind(self) -> OptimizerKind:
        return OptimizerKind.FRANK_WOLFE_COSINE if self.uses_cosines else OptimizerKind.FRANK_WOLFE_HARD

    @property
    @override
    def uses_lr(self) -> bool:
        return self.step_rule == "constant"

    @override
    def build(
        self, parameters: Iterable[nn.Parameter], feasible: FeasibleSet, cosines: Cosines | None = None
    ) -> "FrankWolfeOptimizer":
        return FrankWolfeOptimizer(parameters, feasible, self, cosines, self.size)

    @override
    def take(self, turn: Turn) -> Taken:
        """Go towards one vertex in each group; see `FrankWolfeOptimizer`."""
        by_cosine = turn.choice is not turn.scores
        move = (
            toward_move(turn.weights, turn.choice) if by_cosine else _VARIANTS[self.variant](turn.weights, turn.scores)
        )
        pace = turn.pace
        if self.step_rule in _FIXED:
            size = 2.0 / (turn.number + 2.0) if self.step_rule == "classic" else turn.lr
            end = turn.hull.coefficients(move.at(torch.full_like(move.limit, size)))
        else:
            end, pace = self._search(turn, move)
        # A search that found nothing better selects nothing.
        moved = not torch.equal(end, turn.start.coefficients)
        return Taken(end, move.selected if moved else torch.zeros_like(move.selected), pace)

    def _search(self, turn: Turn, move: Move) -> tuple[Coefficients, Pace]:
        """Search along the lengths 1 / M, where M is a curvature in common to all rows."""
        slopes = -(turn.scores * move.direction).sum(dim=1, keepdim=True).clamp(max=0.0)  # (R, 1)
        squares = turn.hull.squares(move.direction)  # (R, 1)
        rates = torch.where(squares > 0, slopes / squares, 0.0)  # (R, 1)
        limits = (move.limit / rates)[rates > 0]  # (at most R,)

        def path(length: float) -> Coefficients:
            return turn.hull.coefficients(move.at(length * rates))

        if limits.numel() == 0:
            return turn.start.coefficients, turn.pace
        nearest, furthest = limits.min().item(), limits.max().item()
        if self.step_rule == "short_step":
            return self._short_step(turn, path, nearest, furthest)
        last = turn.pace["inverse_curvature"]
        length, end = interpolate(turn.objective, turn.start, path, min(last or nearest, furthest), furthest)
        # A length that met its limit, or none, says nothing about the curvature.
        kept = length if 0 < length < furthest else max(last or 0.0, length)
        return end.coefficients, {**turn.pace, "inverse_curvature": kept or None}

    def _short_step(
        self, turn: Turn, path: Callable[[float], Coefficients], nearest: float, furthest: float
    ) -> tuple[Coefficients, Pace]:
        """Step to the minimum of a quadratic upper bound, of the given curvature or the one that backtracking finds."""
        if self.curvature is not None:
            return path(1.0 / self.curvature), turn.pace
        curvature = turn.pace["curvature"]
        if curvature is None:
            # Where one trial tells nothing, doubling finds the curvature from below: as far as its trials reach.
            length = spectral_size(turn.start, turn.objective.at(path(nearest))) or furthest
            first = 1.1 / min(length, 2 ** (TRIALS // 2) * nearest)
        else:
            first = 0.9 * curvature
        found, end = short_step(turn.objective, turn.start, path, first)
        return end.coefficients, {**turn.pace, "curvature": found}
