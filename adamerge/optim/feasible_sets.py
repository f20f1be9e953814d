"""Where coefficients may live: project, vertex, gap.

Every row of a (G, K) table of coefficients has a feasible set of its own, the same for all rows. A set answers three
questions: its nearest point (`project`), its best point under a linear loss (`vertex`), and how much a linear loss
could still fall within it (`gap`).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from adamerge.types import LARGEST, Coefficients, ConfigError, check_types


def project_box(coefficients: Coefficients, lower: float = 0.0, upper: float = 1.0) -> Coefficients:
    r"""Find the nearest point with every number between two bounds.

    $$\arg\min_{x} \|x - c\|^2 \quad \text{subject to} \quad \text{lower} \le x_k \le \text{upper}$$

    Args:
        coefficients: float, (..., K).
        lower: the least value of a coefficient.
        upper: the greatest value of a coefficient.

    Returns:
        float, (..., K).

    Example:
        >>> project_box(torch.tensor([-0.5, 0.5, 1.5]))
        tensor([0.0000, 0.5000, 1.0000])
    """
    return coefficients.clamp(lower, upper)


def project_simplex(coefficients: Coefficients, radius: float = 1.0, *, at_most: bool = False) -> Coefficients:
    r"""Find the nearest point of a simplex, row by row, by sorting (exact, O(K log K)).

    $$\arg\min_{x \ge 0} \|x - c\|^2 \quad \text{subject to} \quad \textstyle\sum_k x_k = r
    \quad (\text{or} \le r)$$

    The solution is $x_k = \max(c_k - \theta, 0)$, where $\theta$ makes the sum equal to r. A number of minus infinity
    stays at zero, which confines a row to a face of the simplex.

    Args:
        coefficients: float, (..., K).
        radius: the sum r of a row, above 0.
        at_most: whether the sum of a row may also be less than r.

    Returns:
        float, (..., K).

    Reference:
        J. Duchi, S. Shalev-Shwartz, Y. Singer, T. Chandra, "Efficient projections onto the l1-ball for learning in
        high dimensions", ICML 2008, figure 1.

    Example:
        >>> project_simplex(torch.tensor([[0.9, 0.5, -1.0], [0.1, 0.1, 0.1]]))
        tensor([[0.7000, 0.3000, 0.0000],
                [0.3333, 0.3333, 0.3333]])
        >>> project_simplex(torch.tensor([[0.9, 0.5, -1.0], [0.1, 0.1, 0.1]]), at_most=True)
        tensor([[0.7000, 0.3000, 0.0000],
                [0.1000, 0.1000, 0.1000]])
    """
    # The same shift of all numbers moves θ alone, and small numbers lose fewer digits in the cumulative sum.
    shifted = coefficients - coefficients.amax(dim=-1, keepdim=True)  # (..., K), at most 0
    descending = shifted.sort(dim=-1, descending=True).values  # (..., K)
    excess = descending.cumsum(dim=-1) - radius  # (..., K)
    count = torch.arange(1, coefficients.shape[-1] + 1, dtype=coefficients.dtype, device=coefficients.device)  # (K,)
    # The first number always counts; only one that is not a number says otherwise.
    support = (descending - excess / count > 0).sum(dim=-1, keepdim=True).clamp(min=1)  # (..., 1)
    theta = excess.gather(-1, support - 1) / support  # (..., 1)
    on_simplex = (shifted - theta).clamp(min=0.0)  # (..., K)
    if not at_most:
        return on_simplex
    positive = coefficients.clamp(min=0.0)  # (..., K)
    return torch.where(positive.sum(dim=-1, keepdim=True) <= radius, positive, on_simplex)


class FeasibleSet(ABC):
    """Where one row of coefficients may live; a subclass is a final frozen dataclass."""

    @abstractmethod
    def project(self, coefficients: Coefficients) -> Coefficients:
        r"""Find the nearest point of the set, row by row.

        Args:
            coefficients: float, (G, K).

        Returns:
            float, (G, K): $\arg\min_{x} \|x - c\|$ over the set.
        """

    @abstractmethod
    def vertex(self, gradient: Coefficients) -> Coefficients:
        r"""Find the point of the set with the least linear loss, row by row.

        Args:
            gradient: float, (G, K).

        Returns:
            float, (G, K): $\arg\min_{s} \langle \text{gradient}, s \rangle$ over the set; always a corner.

        Raises:
            ConfigError: if the set has no corners.
        """

    @abstractmethod
    def check_experts(self, experts: int) -> None:
        """Refuse a number of experts for which the set leaves nothing to learn.

        Args:
            experts: K, the length of a row.

        Raises:
            ConfigError: if the set is a single point for that many experts.
        """

    @final
    def gap(self, coefficients: Coefficients, gradient: Coefficients) -> Tensor:
        r"""Compute the Frank-Wolfe gap: the most a linear loss could fall within the set.

        $$\text{gap} = \sum_g \langle \nabla_g,\, c_g - s_g \rangle, \qquad s_g = \text{vertex}(\nabla_g)$$

        At least 0 on the set, 0 exactly at stationary points, and for a convex loss at least the distance of the loss
        from its minimum.

        Args:
            coefficients: float, (G, K), in the set.
            gradient: float, (G, K), of the loss at the coefficients.

        Returns:
            float, ().

        Raises:
            ConfigError: if the set has no corners.

        Reference:
            M. Jaggi, "Revisiting Frank-Wolfe: projection-free sparse convex optimization", ICML 2013, equation 2.

        Example:
            >>> Simplex().gap(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 3.0]]))
            tensor(1.)
        """
        return (gradient * (coefficients - self.vertex(gradient))).sum()

    @final
    def contains(self, coefficients: Coefficients, tolerance: float = 1e-5) -> bool:
        """Return whether no coefficient is further than a tolerance from the set's nearest point.

        Args:
            coefficients: float, (G, K).
            tolerance: the largest distance that still counts as inside; the default allows for fp32 sums.

        Returns:
            False too where a coefficient is not a number.

        Example:
            >>> Box().contains(torch.tensor([[0.0, 1.1]]))
            False
        """
        return bool(((coefficients - self.project(coefficients)).abs() <= tolerance).all())


@final
@dataclass(frozen=True)
class Unbounded(FeasibleSet):
    """All real numbers.

    Example:
        >>> Unbounded().project(torch.tensor([[-2.0, 5.0]]))
        tensor([[-2.,  5.]])
    """

    @override
    def project(self, coefficients: Coefficients) -> Coefficients:
        return coefficients

    @override
    def vertex(self, gradient: Coefficients) -> Coefficients:
        raise ConfigError(
            "An unbounded set has no vertex: a linear loss falls without end on it. Frank-Wolfe and its gap need a "
            "compact set; choose a simplex or a box."
        )

    @override
    def check_experts(self, experts: int) -> None:
        pass


@final
@dataclass(frozen=True)
class Box(FeasibleSet):
    """Every coefficient between two bounds.

    Args:
        lower: the least value of a coefficient, at most 1e6 in size.
        upper: the greatest value of a coefficient, at most 1e6, above `lower`.

    Raises:
        ConfigError: if a bound is not finite or too large, or they enclose nothing.

    Example:
        >>> Box(upper=0.5).vertex(torch.tensor([[-1.0, 1.0]]))
        tensor([[0.5000, 0.0000]])
    """

    lower: float = 0.0
    upper: float = 1.0

    def __post_init__(self) -> None:
        """Refuse bounds that enclose nothing."""
        check_types(self)
        if not (abs(self.lower) <= LARGEST and abs(self.upper) <= LARGEST):
            raise ConfigError(
                f"expected finite bounds of a box, found lower={self.lower} and upper={self.upper} (at most "
                f"{LARGEST:g} in size). For no bounds, choose the unbounded set."
            )
        if self.lower >= self.upper:
            raise ConfigError(f"expected lower < upper of a box, found lower={self.lower} and upper={self.upper}.")

    @override
    def project(self, coefficients: Coefficients) -> Coefficients:
        return project_box(coefficients, self.lower, self.upper)

    @override
    def vertex(self, gradient: Coefficients) -> Coefficients:
        return torch.full_like(gradient, self.lower).masked_fill(gradient < 0, self.upper)

    @override
    def check_experts(self, experts: int) -> None:
        pass


@final
@dataclass(frozen=True)
class Simplex(FeasibleSet):
    """Non-negative coefficients with a given sum: the hull of the experts, scaled by a radius.

    With the base among the vertices (at c = 0) the sum may also be less than the radius. Radius 1 is the hull itself;
    task arithmetic with 0.3 on 8 experts has the sum 2.4.

    Args:
        radius: the sum r of a row, above 0, at most 1e6.
        includes_base: whether the base is a vertex: Σc ≤ r in place of Σc = r.

    Raises:
        ConfigError: if the radius is not a finite number above 0, or too large.

    Example:
        >>> Simplex(radius=2.0).vertex(torch.tensor([[3.0, 1.0], [-1.0, 1.0]]))
        tensor([[0., 2.],
                [2., 0.]])
        >>> Simplex(radius=2.0, includes_base=True).vertex(torch.tensor([[3.0, 1.0], [-1.0, 1.0]]))
        tensor([[0., 0.],
                [2., 0.]])
    """

    radius: float = 1.0
    includes_base: bool = False

    def __post_init__(self) -> None:
        """Refuse a radius that is not a finite number above 0."""
        check_types(self)
        if not 0 < self.radius <= LARGEST:
            raise ConfigError(
                f"expected the radius of a simplex to be a finite number above 0, found {self.radius} (at most "
                f"{LARGEST:g})."
            )

    @override
    def project(self, coefficients: Coefficients) -> Coefficients:
        return project_simplex(coefficients, self.radius, at_most=self.includes_base)

    @override
    def vertex(self, gradient: Coefficients) -> Coefficients:
        least, expert = gradient.min(dim=-1, keepdim=True)  # (G, 1), (G, 1)
        corner = torch.zeros_like(gradient).scatter(-1, expert, self.radius)  # (G, K)
        return corner.masked_fill(least >= 0, 0.0) if self.includes_base else corner

    @override
    def check_experts(self, experts: int) -> None:
        if experts < 2 and not self.includes_base:
            raise ConfigError(
                f"A simplex over {experts} expert is a single point (its coefficient is {self.radius}), so there is "
                "nothing to learn. Add experts, include the base among the vertices, or choose a box."
            )
