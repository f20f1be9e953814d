"""Transformed task vectors as checkpoints of their own, mapped like any other."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from adamerge.experts.progress_bars import bars_on_terminals
from adamerge.merging.factor_cores import cores_of
from adamerge.merging.factored_task_vectors import Factored
from adamerge.merging.mapped_task_vectors import Mapped
from adamerge.merging.resident_task_vectors import resident_bytes
from adamerge.merging.task_vectors import TaskVectors
from adamerge.storage.atomic_files import whole_folder
from adamerge.storage.digest import digest_of_json
from adamerge.storage.kept import SILENT, Keeper, Key
from adamerge.storage.weights import Header, MappedFiles, Weights
from adamerge.storage.write_safetensors import SafetensorsWriter
from adamerge.transforms.transform import TensorTransform, Transform


def transformed(
    plain: TaskVectors,
    centre: Weights,
    transform: Transform,
    folder: Path,
    *,
    information: Callable[[], TaskVectors] | None = None,
    rows: str | None = None,
    console: Console | None = None,
    keeper: Keeper = SILENT,
) -> Mapped:
    """Transform task vectors one tensor at a time and store the results, a safetensors file each.

    Memory: the stack of one tensor, K·N numbers, and what the transform needs for it.

    Args:
        plain: The task vectors.
        centre: What the results will be added to.
        transform: What to do.
        folder: Where the results are kept.
        information: Finds the experts' diagonal Fisher information, for a transform that asks for it; None where the
            results are only to be read.
        rows: Hash of the rows that the information is of; None where they are not at hand.
        console: Where to say what stays at the centre, and to show progress if it is a terminal.
        keeper: Keeps the results.

    Returns:
        The results, mapped from their files; they are not added to the base again.

    Raises:
        ConfigError: The transform needs information, there is none, and nothing is kept that fits.
    """
    names = transform.experts(plain.experts)

    def make(place: Path) -> None:
        with whole_folder(place) as part:
            _write(plain, transform, part, information() if information else None, console or Console(quiet=True))

    def read(place: Path) -> dict[str, MappedFiles]:
        return {name: MappedFiles([place / f"{name}.safetensors"]) for name in names}

    stored = keeper(folder, _key(plain, transform, rows), None if _lacks(transform, information) else make, read)
    return Mapped(stored, tuple(plain.shapes), centre, None, plain.dtype, plain.device)


def merged_at_once(
    plain: TaskVectors,
    transform: Transform,
    file: Path,
    *,
    information: Callable[[], TaskVectors] | None = None,
    rows: str | None = None,
    console: Console | None = None,
    keeper: Keeper = SILENT,
) -> Weights:
    """Return the finished merge, centre + coefficient · Σ outputs, from a file that holds it, or is written now.

    Memory: as for `transformed`.

    Args:
        plain: The task vectors.
        transform: What to do.
        file: Where the merge is kept; complete or absent.
        information: As for `transformed`.
        rows: As for `transformed`.
        console: As for `transformed`.
        keeper: As for `transformed`.

    Returns:
        The merged parameters, mapped from the file.

    Raises:
        ConfigError: As for `transformed`.
    """

    def make(place: Path) -> None:
        headers = {name: Header(shape, plain.dtype) for name, shape in plain.shapes.items()}
        look = information() if information else None
        with SafetensorsWriter(place, headers, {"format": "pt"}) as writer:
            for name, outputs in _outputs(plain, transform, look, console or Console(quiet=True)):
                centre = plain.centre(name).to(outputs)
                writer.write(name, centre + transform.coefficient * outputs.sum(0))

    makes = None if _lacks(transform, information) else make
    return keeper(file, _key(plain, transform, rows), makes, lambda place: MappedFiles([place]))


def largest_stack(shapes: Mapping[str, torch.Size], count: int, dtype: torch.dtype) -> str:
    """Say what the largest stack of one tensor of all experts takes.

    Args:
        shapes: Shape of each parameter, at least one.
        count: K, the number of experts.
        dtype: Of the stack.

    Example:
        >>> largest_stack({"w": torch.Size([1000, 500]), "b": torch.Size([9])}, 4, torch.float32)
        'the largest stack, w, takes 8.0 MB'
    """
    largest = max(shapes, key=lambda name: shapes[name].numel())
    size = resident_bytes({largest: shapes[largest]}, count, dtype) / 1e6
    return f"the largest stack, {largest}, takes {size:.1f} MB"


def _lacks(transform: Transform, information: Callable[[], TaskVectors] | None) -> bool:
    """Return whether a transform cannot be applied because it looks at rows that are not at hand."""
    return bool(transform.fisher) and information is None


def _key(plain: TaskVectors, transform: Transform, rows: str | None) -> Key:
    key = {"experts": plain.digest(), "settings": digest_of_json(repr(transform))}
    return key if rows is None else {**key, "rows": rows}


def _write(
    plain: TaskVectors, transform: Transform, folder: Path, information: TaskVectors | None, console: Console
) -> None:
    headers = {name: Header(shape, plain.dtype) for name, shape in plain.shapes.items()}
    unchanged: list[str] = []
    with ExitStack() as files:
        writers = [
            files.enter_context(SafetensorsWriter(folder / f"{name}.safetensors", headers, {"format": "pt"}))
            for name in transform.experts(plain.experts)
        ]
        for name, outputs in _outputs(plain, transform, information, console):
            if not _write_one(name, outputs, writers):
                unchanged.append(name)
    if unchanged:
        where = ", ".join(_by_layer(unchanged))
        _say(console, f"{len(unchanged)} of {len(plain.shapes)} parameters stay as they are: {where}")


def _outputs(
    plain: TaskVectors, transform: Transform, information: TaskVectors | None, console: Console
) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter's name and transformed task vectors, (K', *shape), one at a time and with a bar."""
    with bars_on_terminals(console) as progress:

        def stacks() -> Iterator[tuple[str, Tensor]]:
            names = progress.track(plain.shapes, description="looking at task vectors")
            return ((name, plain.stack(name)) for name in names)

        apply = transform.plan(stacks, information)
        for name in progress.track(plain.shapes, description="transforming them"):
            yield name, _transformed(name, plain, transform, apply).to(plain.dtype)


def _transformed(name: str, plain: TaskVectors, transform: Transform, apply: TensorTransform) -> Tensor:
    """Transform one parameter, (K', *shape): in the space of its factors where that is exact and cheaper."""
    core = transform.core_of(name)
    cores = cores_of(plain, name) if core and isinstance(plain, Factored) else None
    if core is None or cores is None:
        return apply(name, plain.stack(name))
    left, stack, right = cores
    outputs = left @ core(stack, (len(left), len(right))) @ right.T
    return outputs.reshape(-1, *plain.shapes[name])


def _write_one(name: str, vectors: Tensor, writers: Iterable[SafetensorsWriter]) -> bool:
    """Write the task vectors of one parameter, (K', *shape); returns whether any is not zero."""
    for writer, vector in zip(writers, vectors, strict=True):
        writer.write(name, vector)
    return bool(vectors.any())


def _by_layer(names: Iterable[str]) -> list[str]:
    """List names without their layers' numbers, each once.

    Example:
        >>> _by_layer(["layer.0.bias", "layer.1.bias"])
        ['layer.*.bias']
    """
    return list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names))


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
