"""Checks that read all weights: NaNs, experts equal to the base, unchanged parameters, a wrong base."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adamerge.experts.common_component import FAR, NEAR, Products, alike, depth_of, ratios
from adamerge.experts.experts import Experts
from adamerge.storage.memory import SLACK, give_back
from adamerge.storage.weights import Weights
from adamerge.types import IncompatibleExpertsError

OUT_OF_PROPORTION = 0.5
"""‖expert − base‖ / ‖base‖ above which an expert was probably not fine-tuned from this base: fine-tuning changes
weights by a few hundredths, and independent weights of equal norm have a distance of √2."""

_PIECE = 2**20
"""Numbers of a model that are read at a time, so that memory does not grow with the size of a tensor."""


@dataclass(frozen=True)
class Inspection:
    """Result of one pass over all weights.

    Attributes:
        changed: Shared parameters in which at least one expert differs from the base; these get coefficients.
        unchanged: The other shared parameters.
        update: ‖expert − base‖ / ‖base‖ over all shared parameters, by task.
        cosines: Cosine of the task vectors of each pair of tasks, median over depths.
        warnings: Suspicious findings that do not prevent merging.
        products: Inner products of the task vectors, (K, K), by depth.
    """

    changed: tuple[str, ...]
    unchanged: tuple[str, ...]
    update: dict[str, float]
    cosines: dict[tuple[str, str], float]
    warnings: tuple[str, ...]
    products: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


class _Sums:
    """Sums over the pieces of one checkpoint's tensors.

    Attributes:
        square: ‖tensor‖² of the base, ‖tensor − base‖² of an expert, in fp64.
        bad: Count of NaN or infinite numbers by parameter.
    """

    def __init__(self) -> None:
        self.square = 0.0
        self.bad: Counter[str] = Counter()

    def add(self, name: str, piece: Tensor, difference: Tensor | None = None) -> None:
        """Add a piece of a parameter; of an expert, with its difference from the base."""
        numbers = piece.float() if difference is None else difference
        self.bad[name] += int((~torch.isfinite(piece)).sum())
        self.square += torch.linalg.vector_norm(numbers, dtype=torch.float64).item() ** 2

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
    base, own, products = _Sums(), {task: _Sums() for task in experts.tasks}, Products(tuple(experts.tasks))
    changed = set[str]()
    for name in _in_order_of_files(experts, own):
        changed |= {name} if _inspect_one(name, experts, base, own, products) else set()
        give_back(SLACK // 4)  # of a piece, the C library keeps what lies below the small things that live on
    problems = base.problems(_base_source(experts))
    problems += [line for task, sums in own.items() for line in sums.problems(_source(experts, task))]
    problems += [
        f"{_source(experts, task)}: all shared parameters equal the base's; this is the base, not an expert. Correct "
        "the path, or remove the task."
        for task, sums in own.items()
        if sums.square == 0.0 and (not experts.tasks[task].head or not changed)
    ]
    if problems:
        raise IncompatibleExpertsError(*problems)
    update = {task: (sums.square / base.square) ** 0.5 for task, sums in own.items()}
    with_coefficient, without = (tuple(n for n in experts.shared if (n in changed) is of) for of in (True, False))
    cosines = products.cosines()
    warnings = (*_of_sizes(experts, update), *_of_cosines(experts, cosines), *_of_statistics(experts))
    depths = dict.fromkeys(map(depth_of, experts.shared))  # in the module's order: the head last
    by_depth = {depth: products.by_depth[depth] for depth in depths if depth in products.by_depth}
    return Inspection(with_coefficient, without, update, cosines, warnings, by_depth)


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


def _inspect_one(name: str, experts: Experts, base: _Sums, own: Mapping[str, _Sums], products: Products) -> bool:
    """Add one parameter to the sums; return whether any expert differs from the base in it."""
    differs = False
    sources = (experts.base, *experts.weights.values())
    for first, *others in zip(*(source.pieces(name, _PIECE) for source in sources), strict=True):
        base.add(name, first)
        if all(torch.equal(piece, first) for piece in others):
            continue
        differs = True
        vectors = torch.stack([piece.float() for piece in others]).sub_(first.float())  # (K, n)
        for sums, piece, vector in zip(own.values(), others, vectors, strict=True):
            sums.add(name, piece, vector)
        products.add(name, vectors)
    return differs


def _of_sizes(experts: Experts, update: Mapping[str, float]) -> Iterator[str]:
    """Warn of task vectors that are out of proportion to the base or to the other experts, or nearly 0."""
    for (task, size), ratio in zip(update.items(), ratios(update).values(), strict=True):
        source, base = _source(experts, task), _base_source(experts)
        if size == 0:
            yield f"{source}: all shared parameters equal the base's; its task vector is 0, and only its head its own."
        elif ratio < NEAR:
            yield f"{source}: ‖expert − base‖ is {ratio:.1g} times that of the others; it is almost the base ({base})."
        elif size > OUT_OF_PROPORTION or ratio > FAR:
            than = f", and {ratio:.1f} times the median of the other experts" if ratio > FAR else ""
            yield (
                f"{source}: ‖expert − base‖ is {size:.2g} times ‖base‖{than}. It was probably fine-tuned from another "
                f"base than {base}; check the checkpoint."
            )


def _of_cosines(experts: Experts, cosines: Mapping[tuple[str, str], float]) -> Iterator[str]:
    """Warn of a component that several task vectors share."""
    for tasks, cosine in alike(cosines):
        sources = ", ".join(_source(experts, task) for task in tasks)
        yield (
            f"{sources}: their task vectors share a large part (cosine {cosine:.2f}, median over blocks); those of "
            "different tasks are nearly orthogonal. Either they were fine-tuned from another checkpoint than "
            f"{_base_source(experts)} (another version, an instruction-tuned one, another expert), or one contains "
            "another, or their tasks are much alike. A merge adds the common part once per expert: if they come from "
            "another checkpoint, take that one as base_model."
        )


def _of_statistics(experts: Experts) -> Iterator[str]:
    """Warn of running statistics, which are not merged."""
    statistics = {
        name: None
        for expert in experts.tasks.values()
        for name, _ in expert.own_module.named_buffers()
        if name.endswith("running_mean") and name not in expert.head_buffers
    }
    if statistics:
        yield (
            f"{len(statistics)} BatchNorm layers ({next(iter(statistics))}, …): buffers are not merged, the base's "
            "running statistics are kept, and they do not fit merged weights well. Recompute them after the merge, in "
            "one batch or in large, shuffled batches of one size: torch's update_bn takes the mean over batches."
        )


def _source(experts: Experts, task: str) -> str:
    checkpoint = experts.tasks[task].checkpoint
    return f"{task} ({checkpoint.source})" if checkpoint else task


def _base_source(experts: Experts) -> str:
    return experts.checkpoint.source if experts.checkpoint else "the base"
