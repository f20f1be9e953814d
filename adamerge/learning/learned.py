"""Result of learning, as an object and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adamerge.optim import Selection
from adamerge.optim.selections import as_json, from_json
from adamerge.types import Coefficients


@dataclass(frozen=True, eq=False)
class Learned:
    """Result of learning.

    Attributes:
        coefficients: Coefficients of the best iterate, fp32, (G, K).
        best_step: Its step.
        history: One entry per evaluation on the held-out rows.
        interrupted: Whether a signal stopped learning before the end.
        certificate: The optimiser's certificate after that step: the loss, the gap (Frank-Wolfe) or the residual of the
            projected gradient, and the number of loss evaluations so far. Empty for torch's optimisers and for the
            start.
        converged: Whether the optimiser had converged: further steps on the same rows would have changed nothing.
        selections: The vertices that Frank-Wolfe selected so far, with their weights in the coefficients.
        moved: Largest distance of a coefficient from its start over all steps; None if nothing was learned.
        warnings: What a user should know of learning: an optimiser that has not moved the coefficients, and why.
        guard: What the guard found, as JSON; None if nothing was compared.
        plain: Whether the coefficients are of untransformed task vectors over the base, because the guard took a
            finished merge that is none of what was learned on.
        centre: Name of what the task vectors are added to; empty where nobody named it.
        start: Where the coefficients start, in words; empty where nobody said it.
        seconds: Time of learning.
    """

    coefficients: Coefficients
    best_step: int
    history: list[dict[str, float]]
    interrupted: bool
    certificate: dict[str, float] = field(default_factory=dict[str, float])
    converged: bool = False
    selections: list[Selection] = field(default_factory=list[Selection])
    moved: float | None = None
    warnings: tuple[str, ...] = ()
    guard: Mapping[str, object] | None = None
    plain: bool = False
    centre: str = ""
    start: str = ""
    seconds: float = 0.0

    def as_json(self, groups: Sequence[str], experts: Sequence[str]) -> dict[str, object]:
        """Return everything but the coefficients as JSON, with the names of their rows and columns."""
        found: dict[str, object] = {"best_step": self.best_step, "history": self.history}
        if self.certificate:
            found["certificate"] = {**self.certificate, "converged": self.converged}
        if self.selections:
            found["selections"] = as_json(self.selections, groups, experts)
        if self.moved is not None:
            found |= {"moved": self.moved, "warnings": list(self.warnings)}
        if self.guard is not None:
            found["guard"] = dict(self.guard)
        return found

    @classmethod
    def from_json(
        cls, found: Mapping[str, Any], coefficients: Coefficients, groups: Sequence[str], experts: Sequence[str]
    ) -> "Learned":
        """Read what `as_json` returned for a run that was not interrupted, and add its coefficients."""
        certificate = dict(found.get("certificate", {}))
        converged = bool(certificate.pop("converged", False))
        selections = from_json(found.get("selections", []), groups, experts)
        return cls(
            coefficients,
            found["best_step"],
            found["history"],
            False,
            certificate,
            converged,
            selections,
            found.get("moved"),
            tuple(found.get("warnings", ())),
            seconds=float(found.get("seconds", 0.0)),
        )
