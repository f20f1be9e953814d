"""How far to go along a path of coefficients: backtracking, interpolation, short step."""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch

from adamerge.optim.closure import Evaluation, Objective
from adamerge.types import Coefficients

Path: TypeAlias = Callable[[float], Coefficients]
"""Coefficients (G, K) by the length of the step; a length of 0 is the start."""

SUFFICIENT = 1e-4
"""Share of the decrease promised by the gradient that a step must deliver (the sigma of Armijo's condition)."""

FLAT = 0.1
"""Share of the first slope that counts as the bottom: the loss is then within 1 % of the decrease there is."""

TRIALS = 20
"""Most evaluations of one search: down to a millionth of the first length."""

NOISE = 4.0
"""Rounding units of the loss within which the difference of two losses says nothing."""


def promised(start: Evaluation, coefficients: Coefficients) -> float:
    r"""Compute the first-order change of the loss: $\langle \nabla L(C),\, C' - C \rangle$.

    Args:
        start: the loss and gradient at C, (G, K).
        coefficients: float, (G, K), the point C'.

    Returns:
        Below 0 for a promised decrease.
    """
    return (start.gradient * (coefficients - start.coefficients)).sum().item()


def resolution(start: Evaluation) -> float:
    """Estimate the difference of losses that rounding alone can make.

    Args:
        start: the loss there, and coefficients whose dtype tells the precision.

    Returns:
        A small number above or equal to 0.
    """
    return NOISE * torch.finfo(start.coefficients.dtype).eps * abs(start.loss)


def slope_resolution(start: Evaluation) -> float:
    """Change of the loss, to first order, that the rounding of the coefficients alone can make.

    Args:
        start: coefficients and gradient there.

    Returns:
        A small number above or equal to 0.
    """
    return torch.finfo(start.coefficients.dtype).eps * (start.gradient * start.coefficients).abs().sum().item()


def change(start: Evaluation, end: Evaluation) -> float:
    r"""Compute the change of the loss; from the gradients where the difference of losses is lost in rounding.

    $$L(C') - L(C) \approx \tfrac12 \langle \nabla L(C) + \nabla L(C'),\, C' - C \rangle$$

    Args:
        start: at C.
        end: at C'.

    Returns:
        Below 0 for a decrease; not a number where the loss at C' is none.

    Reference:
        W. W. Hager, H. Zhang, "A new conjugate gradient method with guaranteed descent and an efficient line search",
        SIAM Journal on Optimization 16, 2005, section 3 (the approximate Wolfe conditions, for the same reason).
    """
    difference = end.loss - start.loss
    if abs(difference) > resolution(start) or math.isnan(difference):
        return difference
    moved = end.coefficients - start.coefficients  # (G, K)
    return 0.5 * ((start.gradient + end.gradient) * moved).sum().item()


def decreases(start: Evaluation, end: Evaluation, sufficient: float = SUFFICIENT) -> bool:
    r"""Return whether Armijo's condition holds along any path.

    $$L(C') - L(C) \le \sigma \langle \nabla L(C),\, C' - C \rangle$$

    Args:
        start: at C.
        end: at C'; a loss that is not a number never decreases.
        sufficient: sigma, the share of the promised decrease, between 0 and 1.

    Returns:
        Whether the decrease is sufficient, up to rounding.

    Reference:
        D. P. Bertsekas, "On the Goldstein-Levitin-Polyak gradient projection method", IEEE Transactions on Automatic
        Control 21, 1976, equation 12.
    """
    return change(start, end) <= sufficient * promised(start, end.coefficients) + slope_resolution(start)


def backtrack(
    objective: Objective,
    start: Evaluation,
    path: Path,
    trial: float,
    *,
    shrink: float = 0.5,
    sufficient: float = SUFFICIENT,
) -> tuple[float, Evaluation]:
    """Shorten a step until it decreases the loss sufficiently.

    Args:
        objective: the loss.
        start: at length 0.
        path: coefficients by length.
        trial: first length, above 0.
        shrink: factor from one length to the next, between 0 and 1.
        sufficient: share of the promised decrease to deliver, between 0 and 1.

    Returns:
        The length and what was found there; length 0 and the start if no length will do.
    """
    for _ in range(TRIALS):
        end = objective.at(path(trial))
        if decreases(start, end, sufficient):
            return trial, end
        trial *= shrink
    return 0.0, start


def interpolate(
    objective: Objective, start: Evaluation, path: Path, trial: float, limit: float
) -> tuple[float, Evaluation]:
    r"""Step to where the slope along a path vanishes by interpolation; exact for a quadratic loss on a straight path.

    $$\gamma^* = \gamma \frac{s_0}{s_0 - s_1}, \qquad s_i = \langle \nabla L(C_i),\, C_1 - C_0 \rangle$$

    Slopes at the start and at a trial, not losses: near the minimum, differences of losses drown in rounding first.

    Args:
        objective: the loss.
        start: at length 0, where the path descends.
        path: coefficients by length.
        trial: first length, above 0.
        limit: greatest length.

    Returns:
        The trial if its slope is small already, else the better of trial and interpolation, or what backtracking finds
        if neither decreases the loss.
    """
    first = objective.at(path(trial))
    slope = promised(start, first.coefficients)  # s_0
    slope_there = (first.gradient * (first.coefficients - start.coefficients)).sum().item()  # s_1
    good = decreases(start, first)
    if good and (abs(slope_there) <= FLAT * abs(slope) or (slope_there < 0 and trial >= limit)):
        return trial, first
    # A slope that falls further has no zero to interpolate, and a trial that overflows no slope: go far, or come near.
    best = min(trial * slope / (slope - slope_there), limit) if slope_there > slope else limit
    best = best if math.isfinite(first.loss) and math.isfinite(best) else 0.1 * trial
    second = objective.at(path(best))
    if decreases(start, second) and not (good and first.loss < second.loss - resolution(start)):
        return best, second
    return (trial, first) if good else backtrack(objective, start, path, 0.5 * min(trial, best))


def short_step(objective: Objective, start: Evaluation, path: Path, curvature: float) -> tuple[float, Evaluation]:
    r"""Step to the minimum of a quadratic upper bound, whose curvature doubles until it is one.

    $$L(C') \le L(C) + \langle \nabla L(C), C' - C \rangle + \tfrac{M}{2} \|C' - C\|^2$$

    Args:
        objective: the loss.
        start: at length 0.
        path: coefficients by length 1/M: the minimum of the bound along the path.
        curvature: first M, above 0; a little below the last one, so that it can fall.

    Returns:
        The curvature M and what was found at its minimum; the start if no M will do.

    Reference:
        F. Pedregosa, G. Negiar, A. Askari, M. Jaggi, "Linearly convergent Frank-Wolfe with backtracking line-search",
        AISTATS 2020, algorithm 2.
    """
    for _ in range(TRIALS):
        end = objective.at(path(1.0 / curvature))
        square = (end.coefficients - start.coefficients).square().sum().item()
        bound = promised(start, end.coefficients) + 0.5 * curvature * square
        if change(start, end) <= bound + slope_resolution(start):
            return curvature, end
        curvature *= 2.0
    return curvature, start


def spectral_size(start: Evaluation, end: Evaluation, scale: float = 1.0) -> float | None:
    r"""Compute the step size that fits the curvature of the last step, for the next one.

    $$\alpha = \frac{\|\Delta C\|^2}{\langle \Delta C, \Delta \nabla L \rangle}$$

    Args:
        start: of the last step.
        end: of the last step.
        scale: change of the coefficients with a change of the unknowns, where these are other numbers.

    Returns:
        The step size in the unknowns, or None where the loss is not convex along the step, or the step is too small.

    Reference:
        E. G. Birgin, J. M. Martinez, M. Raydan, "Nonmonotone spectral projected gradient methods on convex sets", SIAM
        Journal on Optimization 10, 2000, section 2.
    """
    moved = end.coefficients - start.coefficients  # (G, K)
    bend = (moved * (end.gradient - start.gradient)).sum().item()
    # A move so small that its square underflows says nothing.
    if not bend > 0 or not moved.square().sum().item() > 0:
        return None
    return moved.square().sum().item() / (scale**2 * bend)
