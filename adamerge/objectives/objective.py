"""The seam of objectives, and which numbers of a batch count."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from adamerge.types import Batch, Outputs


class Objective(ABC):
    """A number to be made small by the coefficients: one task's mean over the rows of a batch."""

    @property
    def uses_targets(self) -> bool:
        """Whether it compares with the experts' own outputs on the same rows."""
        return False

    @property
    def uses_labels(self) -> bool:
        """Whether it needs the labels of the calibration rows."""
        return False

    @property
    def layers(self) -> tuple[int | str, ...]:
        """Hidden states that it compares: indices, negative ones from the end, or "middle"; empty where none."""
        return ()

    @property
    def parts(self) -> tuple["Objective", ...]:
        """The objectives that it is a sum of; itself where it is none."""
        return (self,)

    @abstractmethod
    def __call__(self, outputs: Outputs, batch: Batch, targets: Outputs | None) -> Tensor:
        """The objective of one task on one batch.

        Args:
            outputs: What the merged model says.
            batch: The rows.
            targets: What the task's expert says of the same rows; None unless `uses_targets`.

        Returns:
            A scalar.
        """


def mean_where(values: Tensor, positions: Tensor | None) -> Tensor:
    """Mean of values (B,) or (B, S) over what counts: everything, or the positions (B, S) that are true.

    Example:
        >>> import torch
        >>> mean_where(torch.tensor([[1.0, 9.0]]), torch.tensor([[True, False]])).item()
        1.0
    """
    if positions is None or values.ndim < 2:
        return values.mean()
    counts = positions.to(values.dtype)
    return (values * counts).sum() / counts.sum().clamp_min(1)


def present_at(batch: Batch, hidden: Tensor, encoded: bool) -> Tensor:
    """Which positions of a hidden state (B, S, D) count, bool, (B, S).

    Args:
        batch: The rows.
        hidden: Of the model that they were run through.
        encoded: Whether it is of an encoder that a decoder reads, so that the batch's positions are not its own.
    """
    mask = batch.inputs.get("attention_mask")
    for known in (None if encoded else batch.positions, mask):
        if known is not None and known.shape == hidden.shape[:2]:
            return known.bool()
    return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
