"""Merges that are made in forward order: each part of the model gets what the merged parts before it pass on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from adamerge.calibration.gram_matrices import Run, forward_order, linear_layers
from adamerge.data.rows import Rows
from adamerge.merging.blocks import find_blocks
from adamerge.merging.merged_model import MergedModel
from adamerge.merging.rounds import Source
from adamerge.merging.streamed_outputs import answers

Weight: TypeAlias = Callable[[str], Tensor]
"""Name of a parameter that is merged → its values."""


@dataclass(frozen=True)
class Part:
    """A part of the model that is merged at once: a block, or linear layers outside of blocks that share an input.

    Attributes:
        paths: Paths of its modules.
        layers: Weights of its linear layers, in forward order.
    """

    paths: tuple[str, ...]
    layers: tuple[str, ...]

    def holds(self, name: str) -> bool:
        """Return whether a parameter is in one of its modules."""
        return any(name.startswith(f"{path}.") for path in self.paths)


def parts_in_order(model: MergedModel, rows: Mapping[str, Rows]) -> list[Part]:
    """List the parts of the model in the order in which they run first; layers that no row reaches are in none."""
    blocks = find_blocks(next(iter(model.experts.tasks.values())).own_module)
    parts: list[Part] = []
    for names in forward_order(model, rows):
        block = next((path for path in blocks if names[0].startswith(f"{path}.")), None)
        paths = (block,) if block else tuple(dict.fromkeys(name.rpartition(".")[0] for name in names))
        before = next((part for part in parts if part.paths == paths), None)
        if before is None:
            parts.append(Part(paths, tuple(names)))
        else:
            parts[parts.index(before)] = Part(paths, (*before.layers, *names))
    return parts


def prefix_weights(model: MergedModel, task: str, merged: Mapping[str, Tensor], rest: Sequence[Part]) -> Weight:
    """Return the parameters of a task's model that is merged up to a part: merged ones, the expert's own in the rest.

    Args:
        model: Experts.
        task: Whose expert.
        merged: Parameters of the merge; of layers that are not merged yet they are not read.
        rest: Parts that are not merged yet.
    """
    own = model.experts.weights[task]
    return lambda name: own[name] if any(part.holds(name) for part in rest) else merged[name]


def run_with(model: MergedModel, task: str, weight: Weight) -> Run:
    """Return what runs a task's model, with its own head, on any parameters: all at once, or one block at a time.

    Args:
        model: Experts, names of the parameters, and where to compute.
        task: Whose module and head.
        weight: The parameters.
    """
    if model.blocks is None:
        parameters = {name: model.own(weight(name)) for name in model.vectors.shapes}
        return lambda batch: model.forward(task, parameters, batch.inputs)
    expert, base = model.experts.tasks[task], model.experts.base

    def own(task: str, name: str) -> Tensor:
        if name in model.vectors.shapes:
            return model.own(weight(name))
        return model.own(expert.weights[name] if name in expert.whole_head else base[name])

    source = Source(frozenset(), lambda names: {}, own)
    return lambda batch: list(answers(model, source, [(task, batch)], ()))


def widths_of(model: MergedModel, part: Part) -> dict[str, int]:
    """Return the number of inputs of each linear layer of a part."""
    widths = linear_layers(model)
    return {name: widths[name] for name in part.layers}
