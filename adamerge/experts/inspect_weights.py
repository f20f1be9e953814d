"""Checks that read all weights: NaNs, experts equal to the base, unchanged parameters, experts of another base."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from adamerge.experts.experts import Experts
from adamerge.storage.weights import Weights
from adamerge.types import IncompatibleExpertsError

OUT_OF_PROPORTION = 0.5
"""‖expert − base‖ / ‖base‖ above which an expert was probably not fine-tuned from this base: fine-tuning changes
weights by a few hundredths, and independent weights of equal norm have a distance of √2."""

_PIECE = 2**22
"""Numbers that are read at a time, so that memory does not grow with the size of a tensor."""


@dataclass(frozen=True)
class Inspection:
    """Result of one pass over all weights.

    Attributes:
        changed: Shared parameters in which at least one expert differs from the base; these get coefficients.
        unchanged: The other shared parameters.
        update: ‖expert − base‖ / ‖base‖ over all shared parameters, by task.
        warnings: Suspicious findings that do not prevent merging.
    """

    changed: tuple[str, ...]
    unchanged: tuple[str, ...]
    update: dict[str, float]
    warnings: tuple[str, ...]


class _Sums:
    """Sums over the pieces of one checkpoint's tensors.

    Attributes:
        square: ‖tensor‖² of the base, ‖tensor − base‖² of an expert, in fp64.
        bad: Count of NaN or infinite numbers by parameter.
    """

    def __init__(self) -> None:
        self.square = 0.0
        self.bad: Counter[str] = Counter()

    def add(self, name: str, piece: Tensor, other: Tensor | None = None) -> None:
        """Add a piece of a parameter."""
        difference = piece.float() - other.float() if other is not None else piece.float()
        self.bad[name] += int((~torch.isfinite(piece)).sum())
        self.square += torch.linalg.vector_norm(difference, dtype=torch.float64).item() ** 2

    def problems(self, source: str) -> list[str]:
        """List the parameters with NaN or infinite numbers."""
        return [
            f"{source}: {name} has {bad} NaN or infinite numbers. Use another checkpoint."
            for name, bad in self.bad.items()
            if bad
        ]


def inspect_weights(experts: Experts) -> Inspection:
    """Read every shared parameter of the base and all experts once, one piece at a time; this also hashes their files.

    Args:
        experts: The base and its experts.

    Returns:
        Changed and unchanged parameters, the relative size of each task vector, and warnings.

    Raises:
        IncompatibleExpertsError: NaN or infinite numbers, or an expert equal to the base; one line per case.
    """
    base, own = _Sums(), {task: _Sums() for task in experts.tasks}
    changed = {name for name in _in_order_of_files(experts, own) if _inspect_one(name, experts, base, own)}
    problems = base.problems(_base_source(experts))
    problems += [line for task, sums in own.items() for line in sums.problems(_source(experts, task))]
    problems += [
        f"{_source(experts, task)}: all shared parameters equal the base's; this is the base, not an expert. Correct "
        "the path, or remove the task."
        for task, sums in own.items()
        if sums.square == 0.0
    ]
    if problems:
        raise IncompatibleExpertsError("\n".join(problems))
    update = {task: (sums.square / base.square) ** 0.5 for task, sums in own.items()}
    with_coefficient, without = (tuple(n for n in experts.shared if (n in changed) is of) for of in (True, False))
    return Inspection(with_coefficient, without, update, tuple(_warnings(experts, update)))


def _in_order_of_files(experts: Experts, own: Mapping[str, _Sums]) -> Iterator[str]:
    """Yield the shared parameters in the order of the first expert's files; heads between them are inspected."""
    first = next(iter(experts.weights.values()))
    heads = {t: sorted(e.whole_head, key=e.weights.place, reverse=True) for t, e in experts.tasks.items()}
    for name in (*sorted(experts.shared, key=first.place), None):
        for task, weights in experts.weights.items():
            left = heads[task]
            while left and (name is None or weights.place(left[-1]) < weights.place(name)):
                _inspect_head(left.pop(), weights, own[task])
        if name is not None:
            yield name


def _inspect_head(name: str, weights: Weights, sums: _Sums) -> None:
    for piece in weights.pieces(name, _PIECE):
        sums.bad[name] += int((~torch.isfinite(piece)).sum())


def _inspect_one(name: str, experts: Experts, base: _Sums, own: Mapping[str, _Sums]) -> bool:
    """Add one parameter to the sums; return whether any expert differs from the base in it."""
    differs = False
    sources = (experts.base, *experts.weights.values())
    for first, *others in zip(*(source.pieces(name, _PIECE) for source in sources), strict=True):
        base.add(name, first)
        for sums, piece in zip(own.values(), others, strict=True):
            if not torch.equal(piece, first):
                differs = True
                sums.add(name, piece, first)
    return differs


def _warnings(experts: Experts, update: dict[str, float]) -> Iterator[str]:
    usual = median(update.values())
    for task, size in update.items():
        if size > OUT_OF_PROPORTION or (len(update) > 2 and size > 10 * usual):
            yield (
                f"{_source(experts, task)}: ‖expert − base‖ is {size:.2f} times ‖base‖ (median of all experts "
                f"{usual:.3f}). It was probably fine-tuned from another base than {_base_source(experts)}; check the "
                "checkpoint."
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
            "running statistics are kept, and they do not fit merged weights well. Recompute them after the merge."
        )


def _source(experts: Experts, task: str) -> str:
    checkpoint = experts.tasks[task].checkpoint
    return f"{task} ({checkpoint.source})" if checkpoint else task


def _base_source(experts: Experts) -> str:
    return experts.checkpoint.source if experts.checkpoint else "the base"
