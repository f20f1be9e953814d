"""The loss and its gradient at any coefficients, through an optimiser's closure; the same on every process."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, cast, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from adamerge.optim.feasible_sets import FeasibleSet
from adamerge.optim.processes import mean_over_processes
from adamerge.types import Coefficients, ConfigError

Closure: TypeAlias = Callable[[], Tensor]
"""Zeroes the gradient, computes the loss, runs backward and returns the loss."""


@final
@dataclass(frozen=True)
class Evaluation:
    """What a closure says at one point.

    Args:
        coefficients: float, (G, K).
        loss: of the coefficients; may be infinite or not a number.
        gradient: float, (G, K), of the loss.
    """

    coefficients: Coefficients
    loss: float
    gradient: Coefficients


@final
class Objective:
    """The loss as a function of coefficients, for the length of one optimiser step.

    Args:
        parameter: float, (G, K), the coefficients that the closure reads.
        closure: as Lightning's: zeroes the gradient, computes the loss, runs backward, returns the loss.

    Raises:
        ConfigError: if there is no closure.
    """

    def __init__(self, parameter: Coefficients, closure: Closure | None) -> None:
        """Refuse a step without a closure."""
        if closure is None:
            raise ConfigError(
                "This optimiser evaluates the loss itself: call step(closure), where closure() zeroes the gradient, "
                "computes the loss, runs backward and returns the loss."
            )
        self._parameter = parameter
        self._closure = closure
        self.evaluations = 0

    def at(self, coefficients: Coefficients) -> Evaluation:
        """Move the parameter and evaluate the closure there.

        Args:
            coefficients: float, (G, K).

        Returns:
            Loss and gradient, averaged over processes.

        Raises:
            ConfigError: if the closure leaves no gradient.
        """
        self.move(coefficients)
        with torch.enable_grad():
            loss = self._closure()
        self.evaluations += 1
        gradient = self._parameter.grad
        if gradient is None:
            raise ConfigError("The closure left the coefficients without a gradient; it must call backward().")
        # Copies: the parameter and its gradient are overwritten by the next evaluation.
        return Evaluation(
            coefficients=self._parameter.detach().clone(),
            loss=mean_over_processes(loss.detach()).item(),
            gradient=mean_over_processes(gradient.detach().clone()),
        )

    def start(self) -> Evaluation:
        """Evaluate where the parameter is.

        Returns:
            Loss and gradient, averaged over processes.

        Raises:
            FloatingPointError: if the loss is not finite, since nothing can be decided from it.
        """
        start = self.at(self._parameter.detach().clone())
        if not (math.isfinite(start.loss) and bool(start.gradient.isfinite().all())):
            raise FloatingPointError(
                f"The loss at the current coefficients is {start.loss}, or its gradient is not finite. Look for "
                "overflow in the model, take shorter steps, or start from smaller coefficients."
            )
        return start

    def move(self, coefficients: Coefficients) -> None:
        """Write coefficients into the parameter.

        Args:
            coefficients: float, (G, K).
        """
        with torch.no_grad():
            self._parameter.copy_(coefficients)


def coefficients_of(optimizer: Optimizer) -> Coefficients:
    """Return the one table of coefficients that an optimiser governs.

    Args:
        optimizer: over one parameter.

    Returns:
        float, (G, K).

    Raises:
        ConfigError: if there are several parameters, or the only one is no table.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if len(parameters) != 1 or parameters[0].ndim != 2:
        shapes = [tuple(parameter.shape) for parameter in parameters]
        raise ConfigError(f"expected one parameter of coefficients, of shape (G, K), found shapes {shapes}.")
    return cast("Tensor", parameters[0])


def check_start(coefficients: Coefficients, feasible: FeasibleSet) -> None:
    """Refuse coefficients that are outside of their set before the first step.

    Args:
        coefficients: float, (G, K).
        feasible: the set of each row.

    Raises:
        ConfigError: if a row is outside, or the set leaves nothing to learn.
    """
    feasible.check_experts(coefficients.shape[1])
    if not feasible.contains(coefficients.detach()):
        sums = coefficients.detach().sum(dim=1)
        raise ConfigError(
            f"The coefficients start outside of {feasible}: values from {coefficients.min().item():.4g} to "
            f"{coefficients.max().item():.4g}, row sums from {sums.min().item():.4g} to {sums.max().item():.4g}. "
            "Start from project(coefficients), or choose a larger set."
        )
