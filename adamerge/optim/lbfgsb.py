"""L-BFGS-B through SciPy, resumable by replaying a log of evaluations."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast, final

import numpy as np
import torch
from scipy import optimize  # pyright: ignore[reportMissingTypeStubs]
from torch import Tensor, nn
from typing_extensions import override

from adamerge.optim.closure import Closure, Evaluation, Objective, check_start, coefficients_of
from adamerge.optim.descent import Cosines, Descent, SearchingOptimizer, SearchMemory
from adamerge.optim.evaluation_log import Log, Numbers, Replay, to_array, to_table, to_tensor
from adamerge.optim.feasible_sets import Box, FeasibleSet
from adamerge.optim.incompatible_options import OptimizerKind, check_pair
from adamerge.types import Coefficients, ConfigError, check_types


class _Memory(SearchMemory):
    """What a resumed run needs: the log of E evaluations of N = G·K unknowns, and how far they have led."""

    iterations: int
    points: Tensor  # float64, (E, N)
    losses: Tensor  # float64, (E,)
    gradients: Tensor  # float64, (E, N)
    unknowns: Tensor  # float64, (N,)
    converged: bool
    residual: float


class _Result(Protocol):
    """The fields of SciPy's result that are read here."""

    x: Numbers  # (N,)
    jac: Numbers  # (N,)
    fun: float
    success: bool
    status: int


@final
@dataclass(frozen=True)
class LBFGSB(Descent):
    r"""Limited-memory quasi-Newton descent within bounds, where every step sees the same rows.

    $$\min_C L(C) \quad \text{subject to} \quad \text{lower} \le C \le \text{upper}$$

    One step is one iteration of SciPy's L-BFGS-B: as many evaluations as its line search needs, mostly one. The
    unknowns are float64; the closure sees them rounded to the dtype of the coefficients.

    Args:
        history: Number of steps that the curvature is taken from, at least 1.
        loss_tolerance: Relative decrease of the loss that ends the descent; by default 10 rounding units of the
            coefficients' dtype (1.2e-6 in fp32), since less is noise.
        gradient_tolerance: Greatest number of the projected gradient that ends the descent; by default 100 rounding
            units (1.2e-5 in fp32).

    Raises:
        ConfigError: An option is out of its range.

    Reference:
        R. H. Byrd, P. Lu, J. Nocedal, C. Zhu, "A limited memory algorithm for bound constrained optimization", SIAM
        Journal on Scientific Computing 16, 1995.

    Example:
        >>> coefficients = nn.Parameter(torch.tensor([[0.5, 0.5]]))
        >>> optimizer = LBFGSB().build([coefficients], Box())
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = (coefficients - torch.tensor([[2.0, 0.25]])).square().sum()
        ...     loss.backward()
        ...     return loss
        >>> while not optimizer.done:
        ...     _ = optimizer.step(closure)
        >>> coefficients.data
        tensor([[1.0000, 0.2500]])
    """

    history: int = 10
    loss_tolerance: float | None = None
    gradient_tolerance: float | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        check_types(self)
        tolerances = [given for given in (self.loss_tolerance, self.gradient_tolerance) if given is not None]
        if not (self.history >= 1 and all(0 <= tolerance < math.inf for tolerance in tolerances)):
            raise ConfigError(
                f"expected history ≥ 1 and finite tolerances ≥ 0 of L-BFGS-B, found {self.history}, "
                f"{self.loss_tolerance} and {self.gradient_tolerance}."
            )

    @property
    @override
    def kind(self) -> OptimizerKind:
        return OptimizerKind.LBFGSB

    @override
    def build(
        self, parameters: Iterable[nn.Parameter], feasible: FeasibleSet, cosines: Cosines | None = None
    ) -> "LBFGSBOptimizer":
        del cosines
        return LBFGSBOptimizer(parameters, feasible, self)


@final
class LBFGSBOptimizer(SearchingOptimizer[_Memory]):
    """L-BFGS-B as a torch optimiser.

    Args:
        params: One parameter of coefficients, float, (G, K), in the set.
        feasible: No bounds, or a box.
        options: How.

    Raises:
        ConfigError: The set is a simplex, or the coefficients are no table or outside of the set.
    """

    MEMORY = "lbfgsb"

    def __init__(self, params: Iterable[nn.Parameter], feasible: FeasibleSet, options: LBFGSB) -> None:
        check_pair(options.kind, feasible)
        super().__init__(params, {"lr": 1.0})
        coefficients = coefficients_of(self)
        check_start(coefficients, feasible)
        rounding = torch.finfo(coefficients.dtype).eps
        self._feasible = feasible
        self._history = options.history
        self._loss_tolerance = 10.0 * rounding if options.loss_tolerance is None else options.loss_tolerance
        self._gradient_tolerance = (
            100.0 * rounding if options.gradient_tolerance is None else options.gradient_tolerance
        )
        self._memory = _fresh(coefficients)

    @property
    @override
    def distance(self) -> dict[str, float]:
        return {"residual": self.residual}

    @property
    def residual(self) -> float:
        r"""$\max |C - \text{project}(C - \nabla L(C))|$ at the end of the last step; 0 at stationary points."""
        return self._memory["residual"]

    @property
    @override
    def converged(self) -> bool:
        """Whether SciPy reports convergence; a step then leaves the coefficients as they are."""
        return self._memory["converged"]

    @override
    def step(self, closure: Closure | None = None) -> float:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one iteration of L-BFGS-B.

        Args:
            closure: zeroes the gradient, computes the loss, runs backward, returns the loss.

        Returns:
            The loss at the end of the iteration.

        Raises:
            ConfigError: if there is no closure.
            FloatingPointError: if the loss is not finite where the descent starts.
        """
        coefficients = coefficients_of(self)
        objective = Objective(coefficients, closure)
        memory = self._memory
        if not torch.equal(to_table(memory["unknowns"], coefficients), coefficients.detach()):
            # Somebody else moved the coefficients: the log is of another descent.
            memory = _fresh(coefficients)
        if memory["converged"] or memory["stalled"]:
            loss = objective.start().loss
            self._memory = {**memory, "evaluations": self.evaluations + objective.evaluations}
            return loss
        return self._iterate(objective, memory)

    def _iterate(self, objective: Objective, memory: _Memory) -> float:
        coefficients = coefficients_of(self)
        if len(memory["losses"]) == 0:
            memory = _logged(memory, objective.start())
        log = Log(memory["points"], memory["losses"], memory["gradients"])
        replay = Replay(log, objective, coefficients)
        iterations = memory["iterations"] + 1
        result = self._minimize(replay, to_array(memory["points"])[0], iterations)
        points, losses, gradients = replay.log()
        unknowns = to_tensor(result.x)
        if objective.evaluations == 0:
            objective.start()  # Lightning expects every step to call its closure
        objective.move(to_table(unknowns, coefficients))
        self._memory = _Memory(
            iterations=iterations,
            points=points,
            losses=losses,
            gradients=gradients,
            unknowns=unknowns,
            converged=bool(result.success),
            # Status 1 is the iteration limit, which each step sets; 2 an abnormal end of the line search.
            stalled=result.status == 2,
            loss=float(result.fun),
            residual=self._residual(unknowns, to_tensor(result.jac)),
            evaluations=self.evaluations + objective.evaluations,
        )
        return float(result.fun)

    def _minimize(self, replay: Replay, start: Numbers, iterations: int) -> _Result:
        found: object = optimize.minimize(  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            replay,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=self._bounds(len(start)),
            options={
                "maxiter": iterations,
                "maxfun": np.iinfo(np.int32).max,
                "maxcor": self._history,
                "ftol": self._loss_tolerance,
                "gtol": self._gradient_tolerance,
            },
        )
        return cast("_Result", found)

    def _residual(self, unknowns: Tensor, gradient: Tensor) -> float:  # (N,), (N,)
        return (unknowns - self._feasible.project(unknowns - gradient)).abs().max().item()

    def _bounds(self, unknowns: int) -> Sequence[tuple[float, float]] | None:
        if not isinstance(self._feasible, Box):
            return None
        return [(self._feasible.lower, self._feasible.upper)] * unknowns


def _fresh(coefficients: Coefficients) -> _Memory:
    unknowns = coefficients.detach().to("cpu", torch.float64, copy=True).reshape(-1)
    return _Memory(
        iterations=0,
        points=unknowns.new_empty(0, len(unknowns)),
        losses=unknowns.new_empty(0),
        gradients=unknowns.new_empty(0, len(unknowns)),
        unknowns=unknowns,
        converged=False,
        stalled=False,
        loss=math.inf,
        residual=math.inf,
        evaluations=0,
    )


def _logged(memory: _Memory, start: Evaluation) -> _Memory:
    gradient = start.gradient.to("cpu", torch.float64).reshape(1, -1)
    return {
        **memory,
        "points": memory["unknowns"][None],
        "losses": torch.tensor([start.loss], dtype=torch.float64),
        "gradients": gradient,
    }
