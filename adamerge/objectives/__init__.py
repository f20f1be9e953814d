"""What "well merged" means; pure functions with thin frozen shells."""

from adamerge.objectives.alignment import HiddenAlignment, LogitAlignment, objective_of_teacher
from adamerge.objectives.cross_entropy import CrossEntropy, cross_entropy
from adamerge.objectives.entropy import Entropy, entropy
from adamerge.objectives.objective import Objective
from adamerge.objectives.regulariser import Regulariser
from adamerge.objectives.sum import Sum

__all__ = [
    "CrossEntropy",
    "Entropy",
    "HiddenAlignment",
    "LogitAlignment",
    "Objective",
    "Regulariser",
    "Sum",
    "cross_entropy",
    "entropy",
    "objective_of_teacher",
]
