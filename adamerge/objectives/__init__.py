"""What "well merged" means; pure functions with thin frozen shells."""

from adamerge.objectives.entropy import Entropy, entropy
from adamerge.objectives.objective import Objective

__all__ = ["Entropy", "Objective", "entropy"]
