"""The merged model divided among processes: each merges, and differentiates by, some rows of every parameter.

write:      shard[p] = centre[p][rows] + Σₖ C[g(p), k] · τₖ[p][rows]        no other rows of the files are read
gradient:   Σₚ ⟨∂L/∂shard[p], τₖ[p][rows]⟩                                  this process's part of the sum
"""

# pyright: standard

import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from adamerge.experts.module_contents import Contents, contents_of, unchanged
from adamerge.experts.random_numbers import same_random_numbers
from adamerge.merging.divided_modules import DividedModules
from adamerge.merging.grouping import Grouping
from adamerge.merging.merged_model import MergedModel, hold
from adamerge.optim.processes import in_collective, most_over_processes
from adamerge.storage.some_rows import SomeRows
from adamerge.types import Coefficients, ConfigError


class Shards:
    """This process's rows of the merged model, and the modules that all processes run together.

    Args:
        model: Experts and task vectors, and paths of blocks if they are not to be found.
        resident: Whether to hold this process's rows of the task vectors; None holds them where they take less than
            half of `room`.
        room: Free bytes on the device.
        gathered: Dtype in which parameters are gathered and used; by default that of the task vectors, in which shards
            and their gradients are in any case.

    Attributes:
        vectors: This process's rows of the task vectors.
    """

    def __init__(
        self,
        model: MergedModel,
        resident: bool | None = None,
        room: int | None = None,
        gathered: torch.dtype | None = None,
    ) -> None:
        self._modules = DividedModules(model, gathered)
        self._tensors = self._modules.tensors
        self._rows = {name: _rows(own[0]) for name, own in self._tensors.items() if _local(own[0]).numel()}
        merged = {name: rows for name, rows in self._rows.items() if name in model.vectors.shapes}
        self.vectors = hold(model.vectors.part(merged), resident, room)
        fixed = SomeRows(model.experts.base, {name: self._rows[name] for name in self._rows.keys() - merged.keys()})
        for name in fixed.headers:
            self._set(name, model.own(fixed[name]))
        self._named = tuple(self._modules.tasks.named_modules())
        self._contents: Contents | None = None

    def grouping(self, whole: Grouping) -> Grouping:
        """Return the groups of this process's rows."""
        here = {name: self._rows[name] for name in self.vectors.shapes}
        return whole.part(here) if self.vectors.per == "row" else whole

    def write(
        self,
        coefficients: Coefficients,
        grouping: Grouping,
        rounded: Callable[[str, Tensor, int], Tensor] | None = None,
    ) -> None:
        """Merge this process's rows.

        Args:
            coefficients: C, (G, K).
            grouping: Of this process's rows.
            rounded: Rounds some rows of a parameter, given its name, the rows, and how many numbers are before them.
        """
        for unit in self._modules.units:
            unit.reshard()  # what is still gathered after a pass without gradient would not see new values
        for names in self._portions():
            for name, values in self.vectors.combine(coefficients, grouping, names).items():
                before = (self._rows[name].start or 0) * (values.numel() // len(values) if values.ndim else 0)
                self._set(name, values if rounded is None else rounded(name, values, before))
        torch.clear_autocast_cache()

    def run(self, task: str, arguments: Mapping[str, object]) -> Any:  # noqa: ANN401 - whatever the module returns
        """Run a task's module; all processes run the same tasks in the same order.

        Raises:
            ConfigError: The pass reads or changes parameters where each process has its part of them.
        """
        try:
            with self._as_before(), same_random_numbers(0, self.vectors.device):
                self._modules.place(task)
                return self._modules(task, arguments)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or in_collective(error):
                raise
            reason = (str(error).splitlines() or [""])[0]
            raise ConfigError(
                f"trainer.strategy: expected a model that uses each parameter in the block that has it, but the one of "
                f"{task} fails where every process has a part of its parameters ({reason}). Set strategy: ddp."
            ) from error

    def gradient(self, grouping: Grouping) -> Coefficients:
        """Compute this process's part of ∂L/∂C, (G, K), from the gradients that arrived, and drop these.

        Gradients of shards are averaged over processes, and so count once a process.

        Args:
            grouping: Of this process's rows.

        Raises:
            ConfigError: Processes have run different blocks.
        """
        self.check_order()
        shards, whole = dict[str, Tensor](), dict[str, Tensor]()
        for name in self.vectors.shapes:
            for tensor in self._tensors[name]:
                if tensor.grad is not None:
                    to, gradient = shards if isinstance(tensor, DTensor) else whole, _local(tensor.grad)
                    to[name] = to[name] + gradient if name in to else gradient
                    tensor.grad = None
        total = distributed.get_world_size() * self.vectors.inner(shards, grouping)
        return total + self.vectors.inner(whole, grouping)

    def check_order(self) -> None:
        """Check that all processes have run the same blocks: what they gathered together would be of different ones.

        Raises:
            ConfigError: They have not.
        """
        own = zlib.crc32(repr(self._modules.order).encode())
        self._modules.order.clear()
        both = torch.tensor([own, -own], dtype=torch.float64, device=self.vectors.device)
        if most_over_processes(both).sum() != 0:
            raise ConfigError(
                "trainer.strategy: expected a model that runs the same blocks for all rows, in one order, but "
                "processes with other rows ran other blocks. Set strategy: ddp."
            )

    def whole(self, name: str) -> Tensor:
        """Gather a parameter on every process."""
        tensor = self._tensors[name][0].detach()
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    @torch.no_grad()
    def _set(self, name: str, values: Tensor) -> None:
        for tensor in self._tensors[name]:
            _local(tensor).copy_(values)

    def _portions(self) -> Iterator[list[str]]:
        """Yield names of parameters that are merged together, so that little exists beside the shards."""
        size, portion = 0, list[str]()
        for name, shape in self.vectors.shapes.items():
            if portion and size + shape.numel() > PORTION:
                yield portion
                size, portion = 0, []
            size, portion = size + shape.numel(), [*portion, name]
        yield portion

    @contextmanager
    def _as_before(self) -> Generator[None]:
        """Restore what a pass changes in modules: attributes and hooks; parameters and buffers are set before each."""
        self._contents = contents_of(self._named, self._contents)
        kept = [one for one in self._contents.kept if one.key not in ("_parameters", "_buffers")]
        with unchanged(self._modules.tasks, self._named, self._contents._replace(kept=kept)):
            yield


PORTION = 2**24
"""Numbers that are merged together: enough for a GPU to be busy."""


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()


def _rows(tensor: nn.Parameter) -> slice:
    """Return which rows of a parameter are here: the process's chunk, as torch.chunk cuts it."""
    if not isinstance(tensor, DTensor):
        return slice(None)
    size = -(-len(tensor) // distributed.get_world_size())
    start = distributed.get_rank() * size
    return slice(start, start + len(tensor.to_local()))
