"""Projected gradient, Frank-Wolfe, L-BFGS-B: torch optimisers over coefficients."""

from adamerge.optim.closure import Closure
from adamerge.optim.feasibility import keep_feasible
from adamerge.optim.frank_wolfe import FrankWolfe, Hard, Selection, Soft
from adamerge.optim.lbfgsb import LBFGSB
from adamerge.optim.pairs import OptimizerKind, check_pair
from adamerge.optim.projected_gradient import ProjectedGradient

__all__ = [
    "LBFGSB",
    "Closure",
    "FrankWolfe",
    "Hard",
    "OptimizerKind",
    "ProjectedGradient",
    "Selection",
    "Soft",
    "check_pair",
    "keep_feasible",
]
