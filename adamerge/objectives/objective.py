"""The seam of objectives, and which numbers of a batch count."""

from abc import ABC, abstractmethod

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
