"""Gram matrices XᵀX of the inputs of linear layers, per task, in bounded memory.

    G[k] = XₖᵀXₖ / Nₖ,  Xₖ (Nₖ, D) the layer's inputs on task k's rows, without padding

The closed-form start and RegMean need nothing else of the rows. Sums are fp64: G[k] of a layer that sees fewer
positions than it is wide is singular, and the rounding of fp32 sums fills its null space with noise.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TypeAlias

import torch
from torch import Tensor, nn

from adamerge.batch import Batch, present_at
from adamerge.data.rows import Rows, move
from adamerge.merging.execution import ResidentExpert, StreamedExpert, execution_of, expert_of
from adamerge.merging.merged_model import MergedModel
from adamerge.types import Coefficients, ConfigError

ROOM = 2**27
"""Elements of the Gram matrices that are in memory at once: 1 GiB in fp64."""

Grams: TypeAlias = dict[str, list[Tensor]]
"""Per name of a linear layer's weight: one (D, D) matrix, fp64, per task that has rows."""


Run: TypeAlias = Callable[[Batch], object]
"""Runs a batch through a task's model, whose layer inputs are recorded."""


class _SeenAllError(Exception):
    """All requested inputs are recorded; the rest of the model need not run."""


def linear_layers(model: MergedModel) -> dict[str, int]:
    """List the weights (R, D) of linear layers that have task vectors.

    Returns:
        D per weight name, in the module's order of names.

    Raises:
        ConfigError: There are none, as in GPT-2, whose layers store transposed weights.
    """
    own = next(iter(model.experts.tasks.values())).own_module
    layers = {f"{path}.weight".lstrip("."): part for path, part in own.named_modules() if isinstance(part, nn.Linear)}
    found = {name: part.in_features for name, part in layers.items() if name in model.vectors.shapes}
    if not found:
        raise ConfigError(
            f"{type(own).__name__}: expected a torch.nn.Linear among the parameters to merge, found none, so "
            "closed_form, RegMean, Esm and FeatCal have no layer to solve. Choose another init (a number, average, "
            "published) and another centre (null, Isotropic)."
        )
    return found


def grams_of_experts(model: MergedModel, rows: Mapping[str, Rows], size: int) -> Iterator[Grams]:
    """Compute the Gram matrices of every linear layer, each task's from its own expert's inputs.

    Each part has as many layers as fit into `ROOM` elements, at least one, and runs all rows through the experts once.
    So memory grows neither with the number of experts nor with the depth of the model.

    Args:
        model: Runs the experts.
        rows: Calibration rows of the tasks that have rows.
        size: Rows per forward pass.

    Yields:
        The Gram matrices of one part of the layers.
    """
    for names in split_by_room(linear_layers(model), len(rows)):
        yield grams_of(model, rows, names, size, lambda task: run_expert(expert_of(model, task)))


def grams_of_merged(
    model: MergedModel, rows: Mapping[str, Rows], names: Sequence[str], coefficients: Coefficients, size: int
) -> Grams:
    """Compute the Gram matrices of some layers from the merged model's inputs, on every task's rows.

    The forward pass of a batch ends at the input of the last of these layers.

    Args:
        model: Experts, task vectors and grouping.
        rows: Calibration rows of the tasks that have rows.
        names: Weights of the layers.
        coefficients: Coefficients to merge with, (G, K).
        size: Rows per forward pass.
    """
    with execution_of(model).at(coefficients) as merged:
        return grams_of(model, rows, names, size, lambda task: lambda batch: list(merged.outputs({task: [batch]})))


def forward_order(model: MergedModel, rows: Mapping[str, Rows]) -> list[list[str]]:
    """List linear layers in the order in which they run; layers that share an input (query, key, value) together."""
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

    with _inputs_to(note, module, list(linear_layers(model))):
        expert_of(model, task)(move(batch, model.vectors.device, model.vectors.dtype).inputs)
    return order


def run_expert(expert: ResidentExpert | StreamedExpert) -> Run:
    """Return what runs an expert."""
    return lambda batch: expert(batch.inputs)


@torch.no_grad()
def grams_of(
    model: MergedModel, rows: Mapping[str, Rows], names: Sequence[str], size: int, runner: Callable[[str], Run]
) -> Grams:
    """Compute the Gram matrices of some layers from the inputs of any model.

    Args:
        model: Whose layers.
        rows: Calibration rows of the tasks that have rows.
        names: Weights of the layers.
        size: Rows per forward pass.
        runner: What runs a task's rows.
    """
    parts = [_gram(model, task, own, names, size, runner(task)) for task, own in rows.items()]
    return {name: [part[name] for part in parts] for name in names}


def _gram(model: MergedModel, task: str, rows: Rows, names: Sequence[str], size: int, run: Run) -> dict[str, Tensor]:
    """Compute one task's Gram matrices, (D, D) each; zero for a layer that the task's model does not run.

    Raises:
        ConfigError: The inputs of a layer are not finite.
    """
    widths, module = linear_layers(model), model.experts.tasks[task].own_module
    device = model.vectors.device
    totals = {name: torch.zeros(widths[name], widths[name], dtype=torch.float64, device=device) for name in names}
    counts, waiting = dict.fromkeys(names, 0), set(names)

    def add(name: str, x: Tensor) -> None:
        chosen = counted(batch, x)
        totals[name].addmm_(chosen.T, chosen)
        counts[name] += len(chosen)
        waiting.discard(name)
        if not waiting:
            raise _SeenAllError

    with _inputs_to(add, module, names):
        for batch in batches_of(model, task, rows, size):
            waiting.update(names)
            with suppress(_SeenAllError):
                run(batch)
    _check_finite(task, totals)
    return {name: total / max(1, counts[name]) for name, total in totals.items()}


def batches_of(model: MergedModel, task: str, rows: Rows, size: int) -> Iterator[Batch]:
    """Batch a task's rows on the device; those of an encoder-decoder one by one.

    Inputs of its layers do not show whether they come from the encoder or the decoder, so there must be no padding.
    """
    if model.experts.tasks[task].kind.encoder_decoder:
        size = 1
    return (move(batch, model.vectors.device, model.vectors.dtype) for batch in rows.batches(size))


def counted(batch: Batch, x: Tensor) -> Tensor:
    """Take the positions of a layer's input that are no padding, (N, D), fp64."""
    chosen = x[present_at(batch, x, encoded=True)] if x.ndim == 3 else x.reshape(-1, x.shape[-1])
    return chosen.double()


def inputs_of(run: Run, module: nn.Module, batch: Batch, names: Sequence[str]) -> dict[str, Tensor]:
    """Run a batch to the last of some layers, and return their inputs, (N, D) each; of a repeated layer the first.

    Args:
        run: What runs the batch.
        module: The module whose layers are run.
        batch: The rows, on the device.
        names: Weights of the layers; those that do not run are absent.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str, x: Tensor) -> None:
        found.setdefault(name, counted(batch, x))
        if len(found) == len(names):
            raise _SeenAllError

    with _inputs_to(keep, module, names), suppress(_SeenAllError):
        run(batch)
    return found


def _check_finite(task: str, totals: Mapping[str, Tensor]) -> None:
    bad = [name for name, total in totals.items() if not total.isfinite().all()]
    if bad:
        raise ConfigError(
            f"{task}: the inputs of {bad[0]} are not finite on its calibration rows, so the layer cannot be solved. "
            "Set dtype: float64, or choose another init (a number) and another centre (null)."
        )


@contextmanager
def _inputs_to(record: Callable[[str, Tensor], None], module: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Call `record` with the input of each of these layers whenever the layer runs."""
    with ExitStack() as hooks:
        for name in names:
            layer = module.get_submodule(name.rpartition(".")[0])
            hooks.callback(layer.register_forward_pre_hook(_hook(record, name)).remove)
        yield


def _hook(record: Callable[[str, Tensor], None], name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    return lambda module, inputs: record(name, inputs[0])


def split_by_room(widths: Mapping[str, int], tasks: int) -> Iterator[list[str]]:
    """Split layers into parts whose Gram matrices have at most `ROOM` elements; a wider layer is a part by itself."""
    part: list[str] = []
    for name, width in widths.items():
        if part and tasks * (sum(widths[n] ** 2 for n in part) + width**2) > ROOM:
            yield part
            part = []
        part.append(name)
    if part:
        yield part
