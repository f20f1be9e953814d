"""The abstract objective: one task's outputs on a batch → a scalar that the coefficients minimise."""

from abc import ABC, abstractmethod

from torch import Tensor

from adamerge.batch import Batch, Form, Outputs


class Objective(ABC):
    """A number to be made small by the coefficients: one task's mean over the rows of a batch."""

    @property
    def uses_targets(self) -> bool:
        """Whether it compares with the experts' own outputs on the same rows."""
        return False

    @property
    def compared(self) -> "Objective | None":
        """The part of it that compares with a teacher's outputs; None if nothing does."""
        return self if self.uses_targets else None

    @property
    def uses_labels(self) -> bool:
        """Whether it needs the labels of the calibration rows."""
        return False

    @property
    def unsuited(self) -> frozenset[Form]:
        """What it is meaningless for; nothing where it compares with the expert."""
        return frozenset()

    @property
    def layers(self) -> tuple[int | str, ...]:
        """Hidden states that it compares: indices, negative ones from the end, or "middle"; empty where none."""
        return ()

    @property
    def parts(self) -> tuple["Objective", ...]:
        """The objectives that it is a sum of; itself where it is none."""
        return (self,)

    @property
    def by_position(self) -> "Objective | None":
        """The part of it that is a mean over counted positions of something of their logits alone."""
        return None

    @property
    def not_by_position(self) -> "Objective | None":
        """What it has besides; the two add up to it, and this one looks at no logits where the other is there."""
        return self if self.by_position is None else None

    @abstractmethod
    def __call__(self, outputs: Outputs, batch: Batch, targets: Outputs | None) -> Tensor:
        """Compute the objective of one task on one batch.

        Args:
            outputs: What the merged model says.
            batch: The rows.
            targets: What the task's expert says of the same rows; None unless `uses_targets`.

        Returns:
            A scalar.
        """
