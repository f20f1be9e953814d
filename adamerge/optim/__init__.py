"""Projected gradient, Frank-Wolfe, L-BFGS-B: torch optimisers over coefficients."""

from adamerge.optim.closure import Closure
from adamerge.optim.descent import BuildOptimizer, Cosines, Descent, SearchingOptimizer, build_optimizer
from adamerge.optim.frank_wolfe import FrankWolfeOptimizer, Selection
from adamerge.optim.hard_frank_wolfe import FrankWolfe
from adamerge.optim.incompatible_options import Circumstance, OptimizerKind, check_circumstance, check_pair
from adamerge.optim.keep_feasible import keep_feasible
from adamerge.optim.lbfgsb import LBFGSB, LBFGSBOptimizer
from adamerge.optim.projected_gradient import ProjectedGradient, ProjectedGradientOptimizer
from adamerge.optim.soft_frank_wolfe import SoftFrankWolfe

__all__ = [
    "LBFGSB",
    "BuildOptimizer",
    "Circumstance",
    "Closure",
    "Cosines",
    "Descent",
    "FrankWolfe",
    "FrankWolfeOptimizer",
    "LBFGSBOptimizer",
    "OptimizerKind",
    "ProjectedGradient",
    "ProjectedGradientOptimizer",
    "SearchingOptimizer",
    "Selection",
    "SoftFrankWolfe",
    "build_optimizer",
    "check_circumstance",
    "check_pair",
    "keep_feasible",
]
