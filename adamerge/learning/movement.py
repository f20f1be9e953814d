"""How far an optimiser moved the coefficients, and why it did not."""

from collections.abc import Mapping

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.optim import LBFGS, Optimizer
from typing_extensions import override

from adamerge.optim import SearchingOptimizer
from adamerge.optim.feasible_sets import FeasibleSet
from adamerge.types import Coefficients

HARDLY = 1e-4
"""Distance of a coefficient from its start below which a merge is the start for all purposes: τ changes by 0.01 %."""


class Movement(Callback):
    """Record the largest distance of any coefficient from its start; the state is part of a checkpoint.

    Args:
        feasible: Feasible set of the coefficients.

    Attributes:
        distance: max |C − start| over the steps so far.
        gradient: max |∂L/∂C| over the evaluations so far.
        lr: Largest learning rate so far.
    """

    def __init__(self, feasible: FeasibleSet) -> None:
        self._feasible = feasible
        self._start: Coefficients = torch.empty(0)
        self._slope: Coefficients = torch.empty(0)  # the last gradient
        self._recorded = True
        self.distance: float = 0.0
        self.gradient: float = 0.0
        self.lr: float = 0.0
        self.steps: int = 0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        known = self._start.numel() > 0
        if trainer.global_step == 0 or not known:
            self._start = pl_module.get_parameter("coefficients").detach().cpu().clone()
        if trainer.global_step and not known:  # resumed from 0.1.0, which did not record the start: movement is unknown
            self._recorded = False

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self.lr = max(self.lr, *(float(group["lr"]) for group in optimizer.param_groups))
        slope = pl_module.get_parameter("coefficients").grad
        if slope is not None:
            self._slope = slope.detach().cpu().clone()
            self.gradient = max(self.gradient, self._slope.abs().max().item())

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        moved = pl_module.get_parameter("coefficients").detach().cpu() - self._start
        self.distance, self.steps = max(self.distance, moved.abs().max().item()), trainer.global_step

    def note(self, optimizer: Optimizer) -> str | None:
        """Say that the optimiser moved nothing, and why; None if it moved the coefficients."""
        if self.distance >= HARDLY or not self.steps or not self._recorded:
            return None
        how = f" by more than {self.distance:.1g}" if self.distance else ""
        seen = f"{self.steps} step{'s' if self.steps > 1 else ''}, largest gradient {self.gradient:.2g}"
        return f"warning: {type(optimizer).__name__} has moved no coefficient{how} ({seen}): {self._reason(optimizer)}"

    def _reason(self, optimizer: Optimizer) -> str:
        if self.gradient == 0:
            return "the loss does not depend on the coefficients. Check the rows and the objective."
        if not self._leaves_room():
            return f"{self._feasible} ends where the coefficients start. Change init, or choose a larger set."
        if isinstance(optimizer, SearchingOptimizer):
            return _of_search(optimizer)
        if self.lr == 0:
            return "the learning rate is 0 at every step. Check optimizer and lr_scheduler."
        if isinstance(optimizer, LBFGS):
            tolerances = {key: optimizer.param_groups[0][key] for key in ("tolerance_grad", "tolerance_change")}
            if any(tolerances.values()):
                return f"the gradient or the decrease is within {_words(tolerances)}. Lower both, for example to 0."
        return f"its steps are too short (lr at most {self.lr:.2g}). Raise the learning rate, or loss_weight of models."

    def _leaves_room(self) -> bool:
        """Return whether a step against the last gradient leaves the start."""
        if not self._slope.numel():
            return True
        step = 0.1 * self._slope / self._slope.abs().max().clamp_min(torch.finfo(self._slope.dtype).tiny)
        return not torch.allclose(self._feasible.project(self._start - step), self._start, rtol=0, atol=1e-6)

    @override
    def state_dict(self) -> dict[str, object]:
        numbers = {"distance": self.distance, "gradient": self.gradient, "lr": self.lr, "steps": self.steps}
        return {**numbers, "start": self._start, "slope": self._slope}

    @override
    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        self._start, self._slope = state_dict["start"], state_dict["slope"]  # pyright: ignore
        self.distance, self.gradient = state_dict["distance"], state_dict["gradient"]  # pyright: ignore
        self.lr, self.steps = state_dict["lr"], state_dict["steps"]  # pyright: ignore


def _of_search(optimizer: SearchingOptimizer) -> str:  # pyright: ignore[reportMissingTypeArgument]
    if optimizer.converged:
        return f"its tolerance is met at the start ({_words(optimizer.distance)}). Lower it to go on."
    return "no step lowers the loss by more than its rounding. Set dtype: float64, or change init."


def _words(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{key} {value:.2g}" for key, value in numbers.items())
