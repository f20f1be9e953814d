"""L-BFGS-B through SciPy, resumable by replaying a log of evaluations."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor, nn
from typing_extensions import override

from adamerge.optim.closure import Closure, Evaluation, Objective, check_start, coefficients_of
from adamerge.optim.descent import Cosines, Descent, SearchingOptimizer, SearchMemory
from adamerge.optim.feasible_sets import Box, FeasibleSet
from adamerge.optim.incompatible_options import OptimizerKind, check_pair
from adamerge.types import Coefficients, ConfigError

Numbers = NDArray[np.float64]


class _Memory(SearchMemory):
    """What a resumed run needs: the log of E evaluations of N = G·K unknowns, and how far they have led."""

    iterations: int
    points: Tensor  # float64, (E, N)
    losses: Tensor  # float64, (E,)
    gradients: Tensor  # float64, (E, N)
    unknowns: Tensor  # float64, (N,)
    converged: bool
    residual: float


@final
class _Replay:
    """The loss as SciPy sees it: from the log as long as SciPy asks for what is in it, then from the closure.

    SciPy keeps no state that could be stored, but asks for the same points when it gets the same answers. Should it
    ever ask for another one (another version of SciPy, another processor), the log is cut there and goes on afresh.
    """

    def __init__(self, memory: _Memory, objective: Objective, like: Coefficients) -> None:
        self._points: list[Numbers] = list(_array(memory["points"]))
        self._losses: list[float] = _array(memory["losses"]).tolist()
        self._gradients: list[Numbers] = list(_array(memory["gradients"]))
        self._objective = objective
        self._like = like
        self._asked = 0

    def __call__(self, unknowns: Numbers) -> tuple[float, Numbers]:  # (N,) -> (), (N,)
        at = self._asked
        self._asked += 1
        if at == len(self._points) or not np.array_equal(self._points[at], unknowns):
            self._cut(at)
            self._evaluate(unknowns)
        return self._losses[at], self._gradients[at].copy()

    def _cut(self, length: int) -> None:
        del self._points[length:], self._losses[length:], self._gradients[length:]

    def _evaluate(self, unknowns: Numbers) -> None:
        found = self._objective.at(_table(torch.from_numpy(unknowns.copy()), self._like))
        self._points.append(unknowns.copy())
        self._losses.append(found.loss)
        self._gradients.append(_array(found.gradient.reshape(-1)))

    def log(self) -> tuple[Tensor, Tensor, Tensor]:
        """Points (E, N), losses (E,) and gradients (E, N)."""
        return (
            torch.from_numpy(np.stack(self._points)),
            torch.tensor(self._losses, dtype=torch.float64),
            torch.from_numpy(np.stack(self._gradients)),
        )


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
        tolerances = [given for given in (self.loss_tolerance, self.gradient_tolerance) if given is not None]
        if not (self.history >= 1 and all(0 <= tolerance < math.inf for tolerance in tolerances)):
            raise ConfigError(
                f"Expected history ≥ 1 and finite tolerances ≥ 0 of L-BFGS-B, found {self.history}, "
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
        if not torch.equal(_table(memory["unknowns"], coefficients), coefficients.detach()):
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
        replay = _Replay(memory, objective, coefficients)
        iterations = memory["iterations"] + 1
        result = minimize(
            replay,
            _array(memory["points"])[0],
            jac=True,
            method="L-BFGS-B",
            bounds=self._bounds(coefficients.numel()),
            options={
                "maxiter": iterations,
                "maxfun": np.iinfo(np.int32).max,
                "maxcor": self._history,
                "ftol": self._loss_tolerance,
                "gtol": self._gradient_tolerance,
            },
        )
        points, losses, gradients = replay.log()
        unknowns = torch.from_numpy(np.asarray(result.x, dtype=np.float64).copy())
        if objective.evaluations == 0:
            objective.start()  # Lightning expects every step to call its closure
        objective.move(_table(unknowns, coefficients))
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
            residual=self._residual(unknowns, torch.from_numpy(np.asarray(result.jac, dtype=np.float64).copy())),
            evaluations=self.evaluations + objective.evaluations,
        )
        return float(result.fun)

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


def _array(values: Tensor) -> Numbers:
    return values.detach().to("cpu", torch.float64).numpy()


def _table(unknowns: Tensor, like: Coefficients) -> Coefficients:  # (N,) -> (G, K)
    return unknowns.to(like.device, like.dtype).reshape(like.shape)
