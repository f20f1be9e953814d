"""Frank-Wolfe: selects experts by the score of their vertices; hard (one a step) or soft (the best k)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypedDict, cast, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from adamerge.feasible import Box, FeasibleSet, Simplex, project_simplex
from adamerge.optim.closure import Closure, Evaluation, Objective, check_start, coefficients_of
from adamerge.optim.descent import Cosines, Descent, SearchingOptimizer
from adamerge.optim.hull import Hull, Move, Variant, away_move, pairwise_move, toward_move, weight_gap
from adamerge.optim.line_search import backtrack, interpolate, resolution, short_step, spectral_size
from adamerge.optim.pairs import OptimizerKind, check_pair
from adamerge.types import Coefficients, ConfigError

StepRule = Literal["armijo", "short_step", "classic", "constant"]
VariantName = Literal["plain", "away", "pairwise"]
Score = Literal["linear", "cosine"]

_VARIANTS: dict[VariantName, Variant] = {"plain": toward_move, "away": away_move, "pairwise": pairwise_move}
_SEARCHING: tuple[StepRule, ...] = ("armijo", "short_step")
_FIXED: tuple[StepRule, ...] = ("classic", "constant")

_MEMORY = "frank_wolfe"


@final
@dataclass(frozen=True)
class FrankWolfe(Descent):
    r"""Hard Frank-Wolfe over the hull of the experts: a step goes towards one vertex in each group.

    $$s_g = \arg\min_{s} \langle \nabla_g L(C), s - C_g \rangle, \qquad C_g \leftarrow C_g + \gamma_g (s_g - C_g)$$

    Args:
        step_rule: How far to go.
            "armijo": to where the interpolated slope vanishes, with a sufficient decrease; 2 to 3 evaluations a step.
            "short_step": to the minimum of a quadratic upper bound, of given curvature (1 evaluation a step), or of
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
    selection: Score = "linear"
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        """Refuse options that do not fit each other."""
        if self.step_rule not in (*_SEARCHING, *_FIXED):
            raise ConfigError(f"Expected step_rule to be one of {(*_SEARCHING, *_FIXED)}, found {self.step_rule!r}.")
        if self.variant not in _VARIANTS:
            raise ConfigError(f"Expected variant to be one of {tuple(_VARIANTS)}, found {self.variant!r}.")
        if self.variant != "plain" and self.step_rule in _FIXED:
            raise ConfigError(
                f"The variant {self.variant!r} needs a step rule that looks at the loss, since its steps have no size "
                f"known beforehand. Choose one of {_SEARCHING}, or the plain variant with {self.step_rule!r}."
            )
        if self.variant != "plain" and self.selection == "cosine":
            raise ConfigError(
                f"Selection by cosine is the published code's, which knows plain steps alone; the variant "
                f"{self.variant!r} compares linear scores. Choose variant: plain, or selection: linear."
            )
        if not 0 < self.size <= 1:
            raise ConfigError(f"Expected the constant step size to be in (0, 1], found {self.size}.")
        if self.curvature is not None and not (self.curvature > 0 and math.isfinite(self.curvature)):
            raise ConfigError(f"Expected the curvature to be a finite number above 0, found {self.curvature}.")
        if self.curvature is not None and self.step_rule != "short_step":
            raise ConfigError(f"The curvature is for the short step only, not for {self.step_rule!r}; leave it out.")
        _check(self.selection, self.tolerance)

    @property
    @override
    def kind(self) -> OptimizerKind:
        return OptimizerKind.FRANK_WOLFE_COSINE if self.uses_cosines else OptimizerKind.FRANK_WOLFE_HARD

    @property
    @override
    def uses_lr(self) -> bool:
        return self.step_rule == "constant"

    @property
    @override
    def uses_cosines(self) -> bool:
        return self.selection == "cosine"

    @override
    def build(
        self, parameters: Iterable[nn.Parameter], feasible: FeasibleSet, cosines: Cosines | None = None
    ) -> "FrankWolfeOptimizer":
        return FrankWolfeOptimizer(parameters, feasible, self, cosines)


@final
@dataclass(frozen=True)
class SoftFrankWolfe(Descent):
    """Soft Frank-Wolfe: the best k vertices a step, with weights optimised over them and all that have weight.

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
    """

    top_k: int = 3
    inner_steps: int = 10
    per: Literal["group", "model"] = "group"
    selection: Score = "linear"
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        """Refuse numbers out of their range."""
        if self.top_k < 1 or self.inner_steps < 1:
            raise ConfigError(f"Expected top_k ≥ 1 and inner_steps ≥ 1, found {self.top_k} and {self.inner_steps}.")
        if self.per not in ("group", "model"):
            raise ConfigError(f"Expected per to be 'group' or 'model', found {self.per!r}.")
        _check(self.selection, self.tolerance)

    @property
    @override
    def kind(self) -> OptimizerKind:
        return OptimizerKind.FRANK_WOLFE_SOFT

    @property
    @override
    def uses_cosines(self) -> bool:
        return self.selection == "cosine"

    @override
    def build(
        self, parameters: Iterable[nn.Parameter], feasible: FeasibleSet, cosines: Cosines | None = None
    ) -> "FrankWolfeOptimizer":
        return FrankWolfeOptimizer(parameters, feasible, self, cosines)


def _check(selection: str, tolerance: float) -> None:
    if selection not in ("linear", "cosine"):
        raise ConfigError(f"Expected selection to be 'linear' or 'cosine', found {selection!r}.")
    if not tolerance >= 0:
        raise ConfigError(f"Expected the tolerance of the gap to be at least 0, found {tolerance}.")


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


class _Memory(TypedDict):
    """What a resumed run needs besides the coefficients."""

    step: int
    loss: float
    gap: float
    stalled: bool
    evaluations: int
    inverse_curvature: float | None  # length of the last line search
    curvature: float | None  # of the last short step
    inner_step_size: float | None  # of the last projected gradient step on weights
    times: Tensor  # int64, (R, V), steps that selected a vertex
    first: Tensor  # int64, (R, V), the first of them, or -1


@final
class FrankWolfeOptimizer(SearchingOptimizer):
    r"""Frank-Wolfe as a torch optimiser: a score selects vertices, steps go between them.

    Each row g has a simplex (or the ends of a box) of its own. Searching rules share one curvature M between the rows
    and give each row its own step, $\gamma_g = \langle -\nabla_g, d_g \rangle / (M \|d_g\|^2)$ up to its limit: the
    minimum of the quadratic upper bound, which is separable. With one row this is the ordinary step.

    Args:
        params: One parameter of coefficients, float, (G, K), in the set.
        feasible: The set of each row: a simplex, or for hard steps a box.
        options: Hard or soft, and how.
        cosines: Cosines at the last evaluation, where these select.

    Raises:
        ConfigError: The set is unbounded or a single point, k exceeds the pool, or the coefficients are no table or
            outside of the set.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        feasible: FeasibleSet,
        options: FrankWolfe | SoftFrankWolfe,
        cosines: Cosines | None = None,
    ) -> None:
        check_pair(options.kind, feasible)
        assert isinstance(feasible, Simplex | Box)  # check_pair
        super().__init__(params, {"lr": options.size if isinstance(options, FrankWolfe) else 1.0})
        coefficients = coefficients_of(self)
        check_start(coefficients, feasible)
        self._hull = Hull(feasible, coefficients.shape[1])
        self._options = options
        self._cosines = cosines
        if isinstance(options, SoftFrankWolfe) and options.top_k > self._hull.vertices:
            raise ConfigError(
                f"top_k={options.top_k} exceeds the pool of {self._hull.vertices} vertices (experts, and the base "
                "where it is included); choose a smaller k."
            )
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
    @override
    def done(self) -> bool:
        return self.converged or self._memory["stalled"]

    @property
    @override
    def certificate(self) -> dict[str, float]:
        if not self.evaluations:
            return {}
        return {"loss": self._memory["loss"], "gap": self.gap, "evaluations": self.evaluations}

    @property
    def gap(self) -> float:
        """Frank-Wolfe gap at the start of the last step, summed over rows; infinite before the first."""
        return self._memory["gap"]

    @property
    def converged(self) -> bool:
        """Whether the gap is within the tolerance; a step then leaves the coefficients as they are."""
        return self._memory["gap"] <= self._options.tolerance

    @property
    def evaluations(self) -> int:
        """How often the closure was called."""
        return self._memory["evaluations"]

    def selections(self, coefficients: Coefficients | None = None) -> list[Selection]:
        """Every vertex selected so far, by group, then in the order of selection.

        On a box these are the upper ends; going to a lower end selects nothing.

        Args:
            coefficients: Whose weights to report, float, (G, K), in the set; the present ones by default.
        """
        chosen = coefficients_of(self).detach() if coefficients is None else coefficients
        weights = self._hull.weights(chosen).cpu()  # (R, V)
        times, first = self._memory["times"].cpu(), self._memory["first"].cpu()  # (R, V), (R, V)
        found: list[Selection] = []
        for row, vertex in times.nonzero().tolist():
            place = self._hull.place(row, vertex)
            if place is not None:
                at = (row, vertex)
                found.append(Selection(*place, int(first[at]), int(times[at]), weights[at].item()))
        return sorted(found, key=lambda selection: (selection.group, selection.first_step))

    @property
    def _memory(self) -> _Memory:
        # A key that is no parameter: torch stores and loads its value as it is, without a cast.
        return cast("dict[str, _Memory]", cast("object", self.state))[_MEMORY]

    @_memory.setter
    def _memory(self, memory: _Memory) -> None:
        cast("dict[str, _Memory]", cast("object", self.state))[_MEMORY] = memory

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
            hard = isinstance(self._options, FrankWolfe)
            end = (self._take_hard if hard else self._take_soft)(objective, start, weights, scores)
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

    def _take_hard(self, objective: Objective, start: Evaluation, weights: Tensor, scores: Tensor) -> Coefficients:
        steps = cast("FrankWolfe", self._options)
        choice = self._choice(scores)
        move = _VARIANTS[steps.variant](weights, scores) if choice is scores else toward_move(weights, choice)
        if steps.step_rule in _FIXED:
            end = self._hull.coefficients(move.at(self._fixed_size(move.limit)))
        else:
            end = self._search(objective, start, scores, move)
        # A search that found nothing better selects nothing.
        if not torch.equal(end, start.coefficients):
            self._record(move.selected)
        return end

    def _choice(self, scores: Tensor) -> Tensor:  # (R, V) -> (R, V)
        """The scores by which vertices are selected, the least being the best; called right after the evaluation."""
        if not self._options.uses_cosines:
            return scores
        if self._cosines is None:
            raise ConfigError("Selection by cosine needs the experts themselves: give build() a function for cosines.")
        return self._cosines()[:, : self._hull.vertices].to(scores)

    def _fixed_size(self, like: Tensor) -> Tensor:  # (R, 1)
        classic = cast("FrankWolfe", self._options).step_rule == "classic"
        size = 2.0 / (self._memory["step"] + 2.0) if classic else cast("float", self.param_groups[0]["lr"])
        return torch.full_like(like, size)

    def _search(self, objective: Objective, start: Evaluation, scores: Tensor, move: Move) -> Coefficients:
        """Search along the lengths 1 / M, where M is a curvature in common to all rows."""
        steps = cast("FrankWolfe", self._options)
        slopes = -(scores * move.direction).sum(dim=1, keepdim=True).clamp(max=0.0)  # (R, 1)
        squares = self._hull.squares(move.direction)  # (R, 1)
        rates = torch.where(squares > 0, slopes / squares, 0.0)  # (R, 1)
        limits = (move.limit / rates)[rates > 0]  # (at most R,)

        def path(length: float) -> Coefficients:
            return self._hull.coefficients(move.at(length * rates))

        if limits.numel() == 0:
            return start.coefficients
        nearest, furthest = limits.min().item(), limits.max().item()
        if steps.step_rule == "short_step":
            if steps.curvature is not None:
                return path(1.0 / steps.curvature)
            curvature = self._memory["curvature"]
            if curvature is None:
                # Where one trial tells nothing, doubling finds the curvature from below.
                first = 1.1 / (spectral_size(start, objective.at(path(nearest))) or furthest)
            else:
                first = 0.9 * curvature
            found, end = short_step(objective, start, path, first)
            self._memory = {**self._memory, "curvature": found}
            return end.coefficients
        last = self._memory["inverse_curvature"]
        length, end = interpolate(objective, start, path, min(last or nearest, furthest), furthest)
        # A length that met its limit, or none, says nothing about the curvature.
        kept = length if 0 < length < furthest else max(last or 0.0, length)
        self._memory = {**self._memory, "inverse_curvature": kept or None}
        return end.coefficients

    def _take_soft(self, objective: Objective, start: Evaluation, weights: Tensor, scores: Tensor) -> Coefficients:
        steps = cast("SoftFrankWolfe", self._options)
        choice = self._choice(scores)  # (R, V)
        if steps.per == "model":
            choice = choice.sum(dim=0, keepdim=True).expand_as(choice)
        best = choice.topk(steps.top_k, dim=1, largest=False).indices  # (R, k)
        proposed = torch.zeros_like(weights, dtype=torch.bool).scatter(1, best, value=True)  # (R, V)
        end = self._correct(objective, start, outside=~proposed & (weights <= 0))
        self._record(proposed & (self._hull.weights(end) > 0))
        return end

    def _correct(self, objective: Objective, start: Evaluation, outside: Tensor) -> Coefficients:
        """Projected gradient descent on the weights of a face, given what lies outside of it, bool (R, V)."""
        hull, size = self._hull, self._memory["inner_step_size"]
        for _ in range(cast("SoftFrankWolfe", self._options).inner_steps):
            weights = hull.weights(start.coefficients)  # (R, V)
            scores = hull.scores(start.gradient).masked_fill(outside, torch.inf)  # (R, V)
            if weight_gap(weights, scores).sum().item() <= self._options.tolerance:
                break

            def path(length: float, weights: Tensor = weights, scores: Tensor = scores) -> Coefficients:
                return hull.coefficients(project_simplex(weights - length * scores))

            length, end = backtrack(objective, start, path, size or _first_size(scores))
            if length == 0:
                break
            size, start = spectral_size(start, end, hull.scale) or 2.0 * length, end
        self._memory = {**self._memory, "inner_step_size": size}
        return start.coefficients

    def _record(self, selected: Tensor) -> None:
        memory, chosen = self._memory, selected.cpu()  # (R, V)
        first = memory["first"].cpu()  # (R, V)
        self._memory = {
            **memory,
            "times": memory["times"].cpu() + chosen.long(),
            "first": torch.where(chosen & (first < 0), memory["step"], first),
        }


def _first_size(scores: Tensor) -> float:
    """Step that moves a weight by about 1: the inverse of the widest spread of finite scores in a row."""
    finite = scores.masked_fill(scores.isinf(), -torch.inf)  # (R, V)
    spread = (finite.amax(dim=1) - scores.amin(dim=1)).max().item()
    return 1.0 / spread
