"""The seam of optimisers that know the feasible set, and how any optimiser is built over coefficients."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Generic, TypeAlias, TypedDict, TypeVar, cast

from torch import Tensor, nn
from torch.optim import Optimizer

from adamerge.optim.feasible_sets import FeasibleSet
from adamerge.optim.incompatible_options import OptimizerKind
from adamerge.optim.keep_feasible import keep_feasible

BuildOptimizer: TypeAlias = Callable[[Iterable[nn.Parameter]], Optimizer]
"""Any torch optimiser, called with the coefficients."""

Cosines: TypeAlias = Callable[[], Tensor]
"""Cosine of the last evaluation's gradient with each expert itself, the centre last, (G, K + 1)."""


class SearchMemory(TypedDict):
    """What every optimiser that searches keeps: the loss it saw last, whether it is stuck, and what was spent."""

    loss: float
    stalled: bool
    evaluations: int


Memory = TypeVar("Memory", bound=SearchMemory)


class SearchingOptimizer(Optimizer, ABC, Generic[Memory]):
    """A torch optimiser that evaluates the loss itself, through its closure, and knows when it is done.

    What a resumed run needs of it besides the coefficients is one value, its memory, under the key `MEMORY` of torch's
    state. This key is no parameter: torch stores and loads the value as it is, float64 whatever the coefficients are.
    """

    MEMORY: ClassVar[str]

    @property
    def _memory(self) -> Memory:
        return cast("dict[str, Memory]", cast("object", self.state))[self.MEMORY]

    @_memory.setter
    def _memory(self, memory: Memory) -> None:
        cast("dict[str, Memory]", cast("object", self.state))[self.MEMORY] = memory

    @property
    @abstractmethod
    def converged(self) -> bool:
        """Whether what tells how far the minimum may be is within the tolerance; a step then changes nothing."""

    @property
    @abstractmethod
    def distance(self) -> Mapping[str, float]:
        """What tells how far the minimum may be: the gap or the residual, by its name."""

    @property
    def done(self) -> bool:
        """Whether further steps on the same rows would leave the coefficients as they are, or nearly so.

        That is also where no further decrease can be found, mostly since the rounding of the loss hides it.
        """
        return self.converged or self._memory["stalled"]

    @property
    def evaluations(self) -> int:
        """How often the closure was called."""
        return self._memory["evaluations"]

    @property
    def certificate(self) -> dict[str, float]:
        """Loss, what tells how far its minimum may be from it, and what was spent; empty before the first step."""
        if not self.evaluations:
            return {}
        return {"loss": self._memory["loss"], **self.distance, "evaluations": self.evaluations}


class Descent(ABC):
    """Options of an optimiser that knows the feasible set; a subclass is a final frozen dataclass."""

    @property
    @abstractmethod
    def kind(self) -> OptimizerKind:
        """Which row of the table of undefined pairs it is."""

    @property
    def uses_lr(self) -> bool:
        """Whether it takes steps of the size of its `lr`, which a scheduler may change."""
        return False

    @property
    def uses_cosines(self) -> bool:
        """Whether it scores experts by their cosine with the gradient."""
        return False

    @abstractmethod
    def build(
        self, parameters: Iterable[nn.Parameter], feasible: FeasibleSet, cosines: Cosines | None = None
    ) -> SearchingOptimizer[Any]:
        """Build the torch optimiser.

        Args:
            parameters: One parameter of coefficients, float, (G, K), in the set.
            feasible: The set of each row.
            cosines: Called after an evaluation; needed where `uses_cosines`.

        Raises:
            ConfigError: The set does not fit the optimiser, or the coefficients are no table or outside of it.
        """


def build_optimizer(
    optimizer: Descent | BuildOptimizer,
    coefficients: nn.Parameter,
    feasible: FeasibleSet,
    cosines: Cosines | None = None,
) -> Optimizer:
    """Build an optimiser whose iterates stay in the set: one that knows it, or any of torch's, then projected.

    Args:
        optimizer: Which one.
        coefficients: float, (G, K), in the set.
        feasible: The set of each row.
        cosines: See `Descent.build`.

    Raises:
        ConfigError: The set does not fit the optimiser or the coefficients.
    """
    if isinstance(optimizer, Descent):
        return optimizer.build([coefficients], feasible, cosines)
    built = optimizer([coefficients])
    keep_feasible(built, feasible)
    return built
