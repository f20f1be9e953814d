"""Weighted sum of objectives."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from adamerge.batch import Batch, Form, Outputs
from adamerge.objectives.objective import Objective
from adamerge.types import ConfigError, check_types


@dataclass(frozen=True)
class Sum(Objective):
    """Weighted sum of objectives.

    Args:
        terms: The objectives.
        weights: One a term; all 1 by default.
    """

    terms: list[Objective]
    weights: list[float] | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        check_types(self)
        if not self.terms or (self.weights is not None and len(self.weights) != len(self.terms)):
            raise ConfigError("objective: a Sum needs at least one term, and one weight per term if weights are given.")
        if not all(math.isfinite(weight) for weight in self.weights or []):
            raise ConfigError(f"objective.weights: expected finite numbers, found {self.weights}.")

    @property
    @override
    def uses_targets(self) -> bool:
        return any(term.uses_targets for term in self.terms)

    @property
    @override
    def compared(self) -> "Objective | None":
        return self._of([term.compared for term in self.terms])

    @property
    @override
    def uses_labels(self) -> bool:
        return any(term.uses_labels for term in self.terms)

    @property
    @override
    def unsuited(self) -> frozenset[Form]:
        return frozenset(form for term in self.terms for form in term.unsuited)

    @property
    @override
    def parts(self) -> tuple[Objective, ...]:
        return tuple(part for term in self.terms for part in term.parts)

    @property
    @override
    def layers(self) -> tuple[int | str, ...]:
        return tuple(layer for term in self.terms for layer in term.layers)

    @property
    @override
    def by_position(self) -> Objective | None:
        others = [term.not_by_position for term in self.terms]
        known = all(one is None or one.layers for one in others)  # hidden states are looked at without logits
        return self._of([term.by_position for term in self.terms]) if known else None

    @property
    @override
    def not_by_position(self) -> Objective | None:
        return self if self.by_position is None else self._of([term.not_by_position for term in self.terms])

    def _of(self, terms: Sequence[Objective | None]) -> "Sum | None":
        weights = self.weights or [1.0] * len(self.terms)
        kept = [(term, weight) for term, weight in zip(terms, weights, strict=True) if term is not None]
        return Sum([term for term, _ in kept], [weight for _, weight in kept]) if kept else None

    @override
    def __call__(self, outputs: Outputs, batch: Batch, targets: Outputs | None) -> Tensor:
        total = torch.zeros((), device=outputs.logits.device)
        start = 0
        for term, weight in zip(self.terms, self.weights or [1.0] * len(self.terms), strict=True):
            end = start + len(term.layers)
            part = outputs._replace(hidden=outputs.hidden[start:end], encoded=outputs.encoded[start:end])
            goal = targets._replace(hidden=targets.hidden[start:end]) if targets else None
            total = total + weight * term(part, batch, goal)
            start = end
        return total
