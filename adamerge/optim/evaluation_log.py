"""The log of a loss's evaluations, replayed to SciPy; float64 arrays there, tensors here."""

from typing import NamedTuple, TypeAlias, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adamerge.optim.closure import Objective
from adamerge.types import Coefficients

Numbers: TypeAlias = NDArray[np.float64]
"""float64, as SciPy reads and writes them."""


class Log(NamedTuple):
    """E evaluations of a loss of N unknowns.

    Attributes:
        points: float64, (E, N).
        losses: float64, (E,).
        gradients: float64, (E, N).
    """

    points: Tensor
    losses: Tensor
    gradients: Tensor


@final
class Replay:
    """The loss as SciPy sees it: read from the log while SciPy asks for logged points, then from the closure.

    SciPy keeps no state that could be stored, but asks for the same points when it gets the same answers. If it asks
    for another point (another version of SciPy, another processor), the log is cut there and continues from it.

    Args:
        log: Evaluations of earlier steps, first to last.
        objective: The loss at points that are not in the log.
        like: float, (G, K), whose shape, dtype and device the objective expects.
    """

    def __init__(self, log: Log, objective: Objective, like: Coefficients) -> None:
        self._points: list[Numbers] = list(to_array(log.points))
        self._losses: list[float] = [float(loss) for loss in log.losses]
        self._gradients: list[Numbers] = list(to_array(log.gradients))
        self._objective = objective
        self._like = like
        self._asked = 0

    def __call__(self, unknowns: Numbers) -> tuple[float, Numbers]:
        """Return the loss and its gradient, from the log where it holds this point next.

        Args:
            unknowns: float64, (N,).

        Returns:
            Loss and gradient, (N,).
        """
        at = self._asked
        self._asked += 1
        if at == len(self._points) or not np.array_equal(self._points[at], unknowns):
            self._cut(at)
            self._evaluate(unknowns)
        return self._losses[at], self._gradients[at].copy()

    def _cut(self, length: int) -> None:
        del self._points[length:], self._losses[length:], self._gradients[length:]

    def _evaluate(self, unknowns: Numbers) -> None:
        found = self._objective.at(to_table(to_tensor(unknowns), self._like))
        self._points.append(unknowns.copy())
        self._losses.append(found.loss)
        self._gradients.append(to_array(found.gradient.reshape(-1)))

    def log(self) -> Log:
        """Return every evaluation so far."""
        losses = torch.tensor(self._losses, dtype=torch.float64)
        return Log(to_tensor(np.stack(self._points)), losses, to_tensor(np.stack(self._gradients)))


def to_array(values: Tensor) -> Numbers:
    """Convert a tensor to float64 on the CPU.

    Args:
        values: float, any shape.

    Returns:
        float64, the same shape.
    """
    return values.detach().to("cpu", torch.float64).numpy()


def to_tensor(values: Numbers) -> Tensor:
    """Copy an array into a tensor.

    Args:
        values: float64, any shape.

    Returns:
        float64, the same shape.
    """
    return torch.tensor(values, dtype=torch.float64)


def to_table(unknowns: Tensor, like: Coefficients) -> Coefficients:
    """Reshape unknowns to a table of coefficients.

    Args:
        unknowns: float64, (N,).
        like: float, (G, K) with G·K = N, of the wanted dtype and device.

    Returns:
        float, (G, K).

    Example:
        >>> to_table(torch.tensor([1.0, 2.0], dtype=torch.float64), torch.zeros(2, 1))
        tensor([[1.],
                [2.]])
    """
    return unknowns.to(like.device, like.dtype).reshape(like.shape)
