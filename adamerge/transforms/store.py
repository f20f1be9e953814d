"""Transformed task vectors as checkpoints of their own, mapped like any other."""

import hashlib
import json
from contextlib import ExitStack
from pathlib import Path

from adamerge.files import SafetensorsWriter, whole_folder, write_text
from adamerge.task_vectors import Mapped, TaskVectors
from adamerge.transforms.transform import Transform
from adamerge.types import ConfigError
from adamerge.weights import Header, MappedFiles, Weights

MADE_FROM = "made_from.json"


def transformed(plain: TaskVectors, centre: Weights, transform: Transform, folder: Path) -> Mapped:
    """Transform task vectors one tensor at a time and store the results, a safetensors file each.

    Memory: the stack of one tensor, K·N numbers, and what the transform needs for it. A folder that is there already
    is complete, and is used as it is if it was made from the same.

    Args:
        plain: The task vectors.
        centre: What the results will be added to.
        transform: What to do.
        folder: Where the results are kept.

    Returns:
        The results, mapped from their files; they are not added to the base again.

    Raises:
        ConfigError: The folder holds something else.
    """
    names = transform.experts(plain.experts)
    made_from = _key(plain, transform)
    if not folder.exists():
        with whole_folder(folder) as part:
            _write(plain, transform, part, names)
            write_text(part / MADE_FROM, made_from)
    elif not (folder / MADE_FROM).exists() or (folder / MADE_FROM).read_text(encoding="utf-8") != made_from:
        raise ConfigError(
            f"{folder}: holds task vectors of other experts or of another transform than {transform}; remove it."
        )
    stored = {name: MappedFiles([folder / f"{name}.safetensors"]) for name in names}
    return Mapped(stored, tuple(plain.shapes), centre, None, plain.dtype, plain.device)


def _key(plain: TaskVectors, transform: Transform) -> str:
    """What stored results are of: transform, experts, and their numbers as far as the smallest parameter shows."""
    smallest = min(plain.shapes, key=lambda name: (plain.shapes[name].numel(), name))
    numbers = hashlib.sha256(plain.stack(smallest).cpu().numpy().tobytes()).hexdigest()
    return json.dumps([repr(transform), plain.experts, list(plain.shapes), numbers])


def _write(plain: TaskVectors, transform: Transform, folder: Path, names: tuple[str, ...]) -> None:
    headers = {name: Header(shape, plain.dtype) for name, shape in plain.shapes.items()}
    apply = transform.plan(plain.stacks)
    with ExitStack() as files:
        writers = [
            files.enter_context(SafetensorsWriter(folder / f"{name}.safetensors", headers, {"format": "pt"}))
            for name in names
        ]
        for name, stack in plain.stacks():
            for writer, vector in zip(writers, apply(name, stack), strict=True):
                writer.write(name, vector.to(plain.dtype))
