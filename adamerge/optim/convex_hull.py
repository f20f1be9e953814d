"""Coefficients as weights of vertices, and the moves of Frank-Wolfe between them.

A row of a simplex is a convex combination of K corners (K + 1 with the base), and a coefficient of a box one of its two
ends. Both are rows of weights: R rows of V weights, each row at least 0 with the sum 1. The active set of a row is
then where its weights are above 0, and needs no memory of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from adamerge.optim.feasible_sets import Box, Simplex
from adamerge.types import Coefficients


@final
@dataclass(frozen=True)
class Hull:
    """The vertices of a compact set: corners of each simplex row, the base last; or upper and lower end of each number.

    Args:
        feasible: the set.
        experts: K, the length of a row of coefficients.

    Example:
        >>> hull = Hull(Simplex(radius=2.0, includes_base=True), experts=2)
        >>> hull.weights(torch.tensor([[1.0, 0.5]]))
        tensor([[0.5000, 0.2500, 0.2500]])
    """

    feasible: Simplex | Box
    experts: int

    @property
    def vertices(self) -> int:
        """V, the number of vertices of a row of weights."""
        return self._own + int(self._has_base)

    @property
    def _own(self) -> int:
        return 1 if isinstance(self.feasible, Box) else self.experts

    @property
    def _has_base(self) -> bool:
        return isinstance(self.feasible, Box) or self.feasible.includes_base

    @property
    def _offset(self) -> float:
        return self.feasible.lower if isinstance(self.feasible, Box) else 0.0

    @property
    def scale(self) -> float:
        """Change of a coefficient with its weight: the radius of a simplex, the width of a box."""
        box = self.feasible
        return box.upper - box.lower if isinstance(box, Box) else box.radius

    def place(self, row: int, vertex: int) -> tuple[int, int | None] | None:
        """Return what a vertex stands for.

        Args:
            row: from 0 to R - 1.
            vertex: from 0 to V - 1.

        Returns:
            Group and expert, the expert None for the base; or None for the lower end of a coefficient in a box.
        """
        if isinstance(self.feasible, Box):
            return None if vertex == 1 else divmod(row, self.experts)
        return row, (vertex if vertex < self.experts else None)

    def weights(self, coefficients: Coefficients) -> Tensor:
        """Return the weight of each vertex.

        Args:
            coefficients: float, (G, K), in the set.

        Returns:
            float, (R, V), rows at least 0 with the sum 1.
        """
        weights = ((coefficients - self._offset) / self.scale).reshape(-1, self._own).clamp(min=0.0)  # (R, V or V-1)
        if self._has_base:
            rest = 1.0 - weights.sum(dim=1, keepdim=True)  # (R, 1)
            # Rounding leaves the base a residue that no step can remove: an away step would be stuck on it.
            rest = rest.masked_fill(rest < self.vertices * torch.finfo(rest.dtype).eps, 0.0)
            weights = torch.cat([weights, rest], dim=1)  # (R, V)
        return weights / weights.sum(dim=1, keepdim=True)

    def coefficients(self, weights: Tensor) -> Coefficients:
        """Compute the coefficients of a convex combination of vertices.

        Args:
            weights: float, (R, V).

        Returns:
            float, (G, K).
        """
        scaled = self._offset + self.scale * weights[:, : self._own]  # (R, V or V-1)
        # The sum of offset and radius may exceed the upper bound by one rounding.
        return scaled.clamp(self._offset, self._offset + self.scale).reshape(-1, self.experts)

    def scores(self, gradient: Coefficients) -> Tensor:
        """Differentiate the loss in each weight: the linear score of each vertex.

        Args:
            gradient: float, (G, K).

        Returns:
            float, (R, V); 0 for the base, or the lower end.
        """
        scores = self.scale * gradient.reshape(-1, self._own)  # (R, V or V-1)
        return torch.cat([scores, torch.zeros_like(scores[:, :1])], dim=1) if self._has_base else scores

    def squares(self, direction: Tensor) -> Tensor:
        """Compute the squared length in coefficients of a direction in weights.

        Args:
            direction: float, (R, V).

        Returns:
            float, (R, 1).
        """
        return (self.scale * direction[:, : self._own]).square().sum(dim=1, keepdim=True)


def weight_gap(weights: Tensor, scores: Tensor) -> Tensor:
    r"""Compute the Frank-Wolfe gap of each row, $\sum_v w_v (h_v - \min h)$.

    Args:
        weights: float, (R, V).
        scores: float, (R, V), the derivative h of the loss in each weight; infinite for excluded vertices of weight 0.

    Returns:
        float, (R, 1), at least 0 in spite of rounding, since it adds what is at least 0.
    """
    excess = scores - scores.min(dim=1, keepdim=True).values  # (R, V)
    return torch.where(weights > 0, weights * excess, 0.0).sum(dim=1, keepdim=True)


@final
@dataclass(frozen=True)
class Move:
    """A path of weights, straight in each row until the row's own limit.

    Args:
        weights: float, (R, V), the start.
        direction: float, (R, V), with row sums 0.
        limit: float, (R, 1), the longest feasible step of each row.
        leaves: bool, (R, V), the vertex whose weight is 0 at the limit.
        selected: bool, (R, V), the vertex that a row goes towards; none in a row that only leaves one.
    """

    weights: Tensor
    direction: Tensor
    limit: Tensor
    leaves: Tensor
    selected: Tensor

    def at(self, steps: Tensor) -> Tensor:
        """Compute the weights after a step of its own length in each row.

        Args:
            steps: float, (R, 1) or (1, 1), at least 0.

        Returns:
            float, (R, V).
        """
        steps = torch.minimum(steps, self.limit)  # (R, 1)
        moved = (self.weights + steps * self.direction).clamp(min=0.0)  # (R, V)
        moved = moved.masked_fill(self.leaves & (steps >= self.limit), 0.0)  # exactly 0, or it stays active
        return moved / moved.sum(dim=1, keepdim=True)


Variant: TypeAlias = Callable[[Tensor, Tensor], Move]
"""The move that a variant of Frank-Wolfe takes from weights (R, V) with scores (R, V)."""


def toward_move(weights: Tensor, scores: Tensor) -> Move:
    r"""Take the plain step: $w + \gamma (e_s - w)$ with $s = \arg\min h$.

    Args:
        weights: float, (R, V).
        scores: float, (R, V).

    Returns:
        The move, up to the vertex itself.

    Reference:
        M. Frank, P. Wolfe, "An algorithm for quadratic programming", Naval Research Logistics 3, 1956.

    Example:
        >>> move = toward_move(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 3.0]]))
        >>> move.at(torch.tensor([[0.5]]))
        tensor([[0.7500, 0.2500]])
    """
    selected = _chosen(scores.argmin(dim=1), scores)  # (R, V)
    return Move(
        weights=weights,
        direction=selected.to(weights.dtype) - weights,
        limit=torch.ones_like(weights[:, :1]),
        leaves=torch.zeros_like(selected),
        selected=selected,
    )


def away_move(weights: Tensor, scores: Tensor) -> Move:
    r"""Take the plain step, or $w + \gamma (w - e_a)$ away from the worst active vertex a, whichever descends faster.

    Args:
        weights: float, (R, V).
        scores: float, (R, V).

    Returns:
        The move; away from a, up to $w_a / (1 - w_a)$, where a is dropped.

    Reference:
        S. Lacoste-Julien, M. Jaggi, "On the global linear convergence of Frank-Wolfe optimization variants", NeurIPS
        2015, algorithm 1.

    Example:
        >>> move = away_move(torch.tensor([[0.6, 0.3, 0.1]]), torch.tensor([[0.0, 0.0, 9.0]]))
        >>> move.at(move.limit)
        tensor([[0.6667, 0.3333, 0.0000]])
    """
    toward = toward_move(weights, scores)
    worst = _worst_active(weights, scores)  # (R, V)
    weight = weights.masked_fill(~worst, 0.0).sum(dim=1, keepdim=True)  # (R, 1)
    mean = (weights * scores).sum(dim=1, keepdim=True)  # (R, 1)
    away_gap = scores.masked_fill(~worst, 0.0).sum(dim=1, keepdim=True) - mean  # (R, 1)
    # A row on a single vertex has nothing to leave.
    away = (away_gap > weight_gap(weights, scores)) & (weight < 1.0)  # (R, 1)
    return Move(
        weights=weights,
        direction=torch.where(away, weights - worst.to(weights.dtype), toward.direction),
        limit=torch.where(away, weight / (1.0 - weight), toward.limit),
        leaves=worst & away,
        selected=toward.selected & ~away,
    )


def pairwise_move(weights: Tensor, scores: Tensor) -> Move:
    r"""Move weight from the worst active vertex a to the best vertex s: $w + \gamma (e_s - e_a)$.

    Args:
        weights: float, (R, V).
        scores: float, (R, V).

    Returns:
        The move, up to $w_a$, where a is dropped.

    Reference:
        S. Lacoste-Julien, M. Jaggi, "On the global linear convergence of Frank-Wolfe optimization variants", NeurIPS
        2015, algorithm 2.

    Example:
        >>> move = pairwise_move(torch.tensor([[0.6, 0.3, 0.1]]), torch.tensor([[1.0, 0.0, 9.0]]))
        >>> move.at(move.limit)
        tensor([[0.6000, 0.4000, 0.0000]])
    """
    selected = _chosen(scores.argmin(dim=1), scores)  # (R, V)
    worst = _worst_active(weights, scores)  # (R, V)
    return Move(
        weights=weights,
        direction=selected.to(weights.dtype) - worst.to(weights.dtype),
        limit=weights.masked_fill(~worst, 0.0).sum(dim=1, keepdim=True),
        leaves=worst & ~selected,
        selected=selected,
    )


def _chosen(vertex: Tensor, like: Tensor) -> Tensor:  # (R,), (R, V) -> bool (R, V)
    return one_hot(vertex, like.shape[1]).bool()


def _worst_active(weights: Tensor, scores: Tensor) -> Tensor:  # (R, V), (R, V) -> bool (R, V)
    return _chosen(scores.masked_fill(weights <= 0, -torch.inf).argmax(dim=1), scores)
