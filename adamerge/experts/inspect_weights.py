"""What only the numbers tell: NaNs, an expert equal to the base, unchanged parameters, an expert of another base."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from adamerge.experts.experts import Experts
from adamerge.types import IncompatibleExpertsError

OUT_OF_PROPORTION = 0.5
"""‖expert − base‖ / ‖base‖ above which an expert was hardly fine-tuned from this base: fine-tuning moves weights by a
few hundredths, and independent weights of equal size are √2 apart."""

_PIECE = 2**22
"""Numbers that are looked at together, so that memory does not grow with the size of a tensor."""


@dataclass(frozen=True)
class Inspection:
    """Result of reading all weights once.

    Attributes:
        changed: Shared parameters in which at least one expert differs from the base; these get coefficients.
        unchanged: The other shared parameters.
        update: ‖expert − base‖ / ‖base‖ over all shared parameters, by task.
        warnings: What looks wrong but can be merged.
    """

    changed: tuple[str, ...]
    unchanged: tuple[str, ...]
    update: dict[str, float]
    warnings: tuple[str, ...]


def inspect_weights(experts: Experts) -> Inspection:
    """Read every shared parameter of the base and all experts once, in bounded memory.

    Raises:
        IncompatibleExpertsError: NaN or infinite numbers, or an expert equal to the base; every case in one list.
    """
    problems: list[str] = []
    squares = dict.fromkeys(experts.tasks, 0.0)
    base_square = 0.0
    changed: list[str] = []
    for name in experts.shared:
        base = experts.base[name]
        problems += _not_finite(base, name, _base_source(experts))
        base_square += _square(base)
        differs = False
        for task, weights in experts.weights.items():
            tensor = weights[name]
            if torch.equal(tensor, base):
                continue
            differs = True
            problems += _not_finite(tensor, name, _source(experts, task))
            squares[task] += _square(tensor, base)
        if differs:
            changed.append(name)
    for task, expert in experts.tasks.items():
        for name in expert.whole_head:
            problems += _not_finite(expert.weights[name], name, _source(experts, task))
    problems += [
        f"{_source(experts, task)}: all shared parameters equal the base's; this is the base, not an expert of it."
        for task, square in squares.items()
        if square == 0.0
    ]
    if problems:
        raise IncompatibleExpertsError("\n".join(problems))
    update = {task: (square / base_square) ** 0.5 for task, square in squares.items()}
    unchanged = tuple(name for name in experts.shared if name not in set(changed))
    return Inspection(tuple(changed), unchanged, update, tuple(_warnings(experts, update)))


def _warnings(experts: Experts, update: dict[str, float]) -> Iterator[str]:
    usual = median(update.values())
    for task, size in update.items():
        if size > OUT_OF_PROPORTION or (len(update) > 2 and size > 10 * usual):
            yield (
                f"{_source(experts, task)}: ‖expert − base‖ is {size:.2f} times ‖base‖ (median of all experts "
                f"{usual:.3f}). It was probably fine-tuned from another base than {_base_source(experts)}."
            )
    statistics = {
        name: None
        for expert in experts.tasks.values()
        for name, _ in expert.own_module.named_buffers()
        if name.endswith("running_mean") and name not in expert.head_buffers
    }
    if statistics:
        yield (
            f"{len(statistics)} BatchNorm layers ({next(iter(statistics))}, …): buffers are not merged, the base's "
            "running statistics are kept, and they do not fit merged weights well."
        )


def _not_finite(tensor: Tensor, name: str, source: str) -> list[str]:
    bad = sum(int((~torch.isfinite(piece)).sum()) for piece in _pieces(tensor))
    return [f"{source}: {name} has {bad} NaN or infinite numbers."] if bad else []


def _square(tensor: Tensor, other: Tensor | None = None) -> float:
    """‖tensor‖² or ‖tensor − other‖², summed in fp64 over pieces."""
    others = _pieces(other) if other is not None else None
    return sum(
        torch.linalg.vector_norm(piece.float() - (next(others).float() if others else 0.0), dtype=torch.float64).item()
        ** 2
        for piece in _pieces(tensor)
    )


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    return iter(tensor.reshape(-1).split(_PIECE))


def _source(experts: Experts, task: str) -> str:
    checkpoint = experts.tasks[task].checkpoint
    return f"{task} ({checkpoint.source})" if checkpoint else task


def _base_source(experts: Experts) -> str:
    return experts.checkpoint.source if experts.checkpoint else "the base"
