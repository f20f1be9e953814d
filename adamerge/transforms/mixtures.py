"""Methods of matrices on parameters that hold several matrices, or a transposed one: one matrix at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adamerge.experts.matrix_layouts import Layouts
from adamerge.merging.task_vectors import TaskVectors
from adamerge.transforms.transform import CoreTransform, FisherSettings, Stacks, TensorTransform, Transform


def by_matrix(transform: Transform, layouts: Layouts) -> Transform:
    """Return a transform that sees one matrix at a time; the transform itself if that makes no difference.

    Args:
        transform: The transform.
        layouts: How the parameters hold their matrices.
    """
    return _ByMatrix(transform, layouts) if transform.by_matrix and layouts else transform


@dataclass(frozen=True)
class _ByMatrix(Transform):
    """Apply a transform to each matrix (R, M), output × input, that a parameter holds.

    So a mixture gets the same from a method whether its experts are stacked, as transformers 5 holds them, or have a
    parameter each. A whole stack as one matrix would have a row per expert, and WUDI, whose products are over inputs,
    would take outputs for inputs in a stack that is transposed.

    Attributes:
        transform: The transform of a tensor.
        layouts: How parameters hold their matrices.
    """

    transform: Transform
    layouts: Layouts

    @property
    def title(self) -> str:
        """The transform's."""
        return self.transform.title

    @property
    def coefficient(self) -> float:
        """The transform's."""
        return self.transform.coefficient

    @property
    def fisher(self) -> FisherSettings | None:
        """The transform's."""
        return self.transform.fisher

    def core_of(self, name: str) -> CoreTransform | None:
        """Return the transform's core for a parameter that is one matrix, as it stands."""
        return None if name in self.layouts else self.transform.core_of(name)

    def check(self, experts: int, shapes: Mapping[str, Sequence[int]]) -> None:
        """Refuse what the transform refuses."""
        self.transform.check(experts, shapes)

    def experts(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the transform's outputs."""
        return self.transform.experts(names)

    def plan(self, stacks: Stacks, information: TaskVectors | None = None) -> TensorTransform:
        """Let the transform gather from single matrices, and apply it to them; see `Transform.plan`."""

        def matrices() -> Iterator[tuple[str, Tensor]]:
            return ((name, matrix) for name, stack in stacks() for matrix in self._split(name, stack))

        transform = self.transform.plan(matrices, information)

        def apply(name: str, stack: Tensor) -> Tensor:
            if name not in self.layouts:
                return transform(name, stack)
            outputs = [transform(name, matrix) for matrix in self._split(name, stack)]
            joined = torch.empty(len(outputs[0]), *stack.shape[1:], dtype=outputs[0].dtype, device=stack.device)
            for place, output in zip(self.layouts[name].split(joined), outputs, strict=True):
                place.copy_(output)
            return joined

        return apply

    def _split(self, name: str, stack: Tensor) -> list[Tensor]:
        layout = self.layouts.get(name)
        return [stack] if layout is None else [matrix.contiguous() for matrix in layout.split(stack)]
