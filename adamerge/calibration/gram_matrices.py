"""What linear layers see of the calibration rows: XᵀX of each layer's inputs, task by task, in bounded memory.

    G[k] = XₖᵀXₖ / Nₖ,  Xₖ (Nₖ, D) the layer's inputs on task k's rows, padding left out

From these alone follow the closed-form start and RegMean.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TypeAlias

import torch
from torch import Tensor, nn

from adamerge.batch import Batch, present_at
from adamerge.data.rows import Rows, move
from adamerge.merging.execution import execution_of
from adamerge.merging.merged_model import MergedModel
from adamerge.types import Coefficients, ConfigError

ROOM = 2**28
"""Numbers in the Gram matrices that are held at once: 1 GiB in fp32."""

Grams: TypeAlias = dict[str, list[Tensor]]
"""By the name of a linear layer's weight: one (D, D) for each task that has rows."""


Run: TypeAlias = Callable[[str, Batch], object]
"""Passes a task's batch through the model whose layers are listened to."""


class _SeenAllError(Exception):
    """All inputs that were asked for have passed; the rest of the model need not run."""


def linear_layers(model: MergedModel) -> dict[str, int]:
    """Weights (R, D) of linear layers that have task vectors, and D, in the order in which the module names them.

    Raises:
        ConfigError: There are none, as in GPT-2, whose layers have their weights the other way round.
    """
    own = next(iter(model.experts.tasks.values())).own_module
    layers = {f"{path}.weight": part for path, part in own.named_modules() if isinstance(part, nn.Linear)}
    found = {name: part.in_features for name, part in layers.items() if name in model.vectors.shapes}
    if not found:
        raise ConfigError(
            f"{type(own).__name__} has no torch.nn.Linear among the parameters to be merged, so neither closed_form "
            "nor regmean has anything to solve; choose another start or centre."
        )
    return found


def grams_of_experts(model: MergedModel, rows: Mapping[str, Rows], size: int, room: int = ROOM) -> Iterator[Grams]:
    """Gram matrices of every linear layer, each task's from its own expert's inputs.

    As many layers at once as `room` numbers hold, and one pass of all rows through the experts for each such part, so
    that memory grows neither with the number of experts nor with depth (one layer always fits).

    Args:
        model: Runs the experts.
        rows: Calibration rows of the tasks that have any.
        size: Rows that pass an expert together.
        room: Numbers in the Gram matrices that are held at once.
    """
    for names in _parts(linear_layers(model), len(rows), room):
        yield _grams(model, rows, names, size, lambda task, batch: model.forward_expert(task, batch.inputs))


def grams_of_merged(
    model: MergedModel, rows: Mapping[str, Rows], names: Sequence[str], coefficients: Coefficients, size: int
) -> Grams:
    """Gram matrices of some layers, from the inputs of the model merged with coefficients (G, K), on every task's rows.

    A batch's forward pass ends where the last of these layers has its input.
    """
    with execution_of(model).at(coefficients) as merged:
        return _grams(model, rows, names, size, lambda task, batch: list(merged.outputs({task: [batch]})))


def forward_order(model: MergedModel, rows: Mapping[str, Rows]) -> list[list[str]]:
    """Linear layers in the order in which they run; those that share their input (query, key, value) together."""
    task, own = next(iter(rows.items()))
    module, batch = model.experts.tasks[task].own_module, own.batch([0])
    order: list[list[str]] = []
    last: list[Tensor] = []

    def note(name: str, x: Tensor) -> None:
        if any(name in names for names in order):
            return
        if last and last[0] is x:
            order[-1].append(name)
        else:
            order.append([name])
            last[:] = [x]

    with _listening(module, list(linear_layers(model)), note):
        model.forward_expert(task, move(batch, model.vectors.device, model.vectors.dtype).inputs)
    return order


@torch.no_grad()
def _grams(model: MergedModel, rows: Mapping[str, Rows], names: Sequence[str], size: int, run: Run) -> Grams:
    parts = [_gram(model, task, own, names, size, run) for task, own in rows.items()]
    return {name: [part[name] for part in parts] for name in names}


def _gram(model: MergedModel, task: str, rows: Rows, names: Sequence[str], size: int, run: Run) -> dict[str, Tensor]:
    """One task's Gram matrices, (D, D) each; zero for a layer that the task's model does not run."""
    widths, module = linear_layers(model), model.experts.tasks[task].own_module
    if model.experts.tasks[task].kind.encoder_decoder:
        size = 1  # no padding: of which of its two halves a layer's input is cannot be told from the input
    totals = {name: torch.zeros(widths[name], widths[name], dtype=model.vectors.dtype) for name in names}
    totals = {name: total.to(model.vectors.device) for name, total in totals.items()}
    counts, waiting = dict.fromkeys(names, 0), set(names)
    batches = (move(batch, model.vectors.device, model.vectors.dtype) for batch in rows.batches(size))

    def add(name: str, x: Tensor) -> None:
        chosen = x[present_at(batch, x, encoded=True)] if x.ndim == 3 else x.reshape(-1, x.shape[-1])
        totals[name].addmm_(chosen.T, chosen)
        counts[name] += len(chosen)
        waiting.discard(name)
        if not waiting:
            raise _SeenAllError

    with _listening(module, names, add):
        for batch in batches:
            waiting.update(names)
            with suppress(_SeenAllError):
                run(task, batch)
    return {name: total / max(1, counts[name]) for name, total in totals.items()}


@contextmanager
def _listening(module: nn.Module, names: Sequence[str], hear: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call `hear` with the input of each of these layers whenever it runs."""
    with ExitStack() as hooks:
        for name in names:
            layer = module.get_submodule(name.removesuffix(".weight"))
            hooks.callback(layer.register_forward_pre_hook(_hook(hear, name)).remove)
        yield


def _hook(hear: Callable[[str, Tensor], None], name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    return lambda module, inputs: hear(name, inputs[0])


def _parts(widths: Mapping[str, int], tasks: int, room: int) -> Iterator[list[str]]:
    """Layers in runs whose Gram matrices have at most `room` numbers; a layer that is too wide runs alone."""
    part: list[str] = []
    for name, width in widths.items():
        if part and tasks * (sum(widths[n] ** 2 for n in part) + width**2) > room:
            yield part
            part = []
        part.append(name)
    if part:
        yield part
