"""The transforms that a configuration names, alone or inside other choices, and the memory that they take."""

from collections.abc import Iterator, Sequence

from adamerge.calibration.calibrated_merge import CalibratedMerge
from adamerge.calibration.race import CentreChoice
from adamerge.experts.experts import Experts
from adamerge.experts.low_rank import Adapted
from adamerge.runs.config import MergeConfig
from adamerge.transforms import Transform
from adamerge.transforms.work_bytes import work_bytes


def choices(config: MergeConfig) -> Iterator[tuple[str, object]]:
    """Yield what is computed of the experts, by the word for what it becomes."""
    yield "task vectors", config.task_vectors
    if config.centre is not None:
        yield "centre", config.chosen_centre
    for name, model in config.models_beside.items():
        yield f"beside: {name}", model


def transforms_of(choice: object) -> Iterator[Transform]:
    """Yield the transforms that a choice applies: itself, what it refits, or what races."""
    if isinstance(choice, Transform):
        yield choice
    elif isinstance(choice, CalibratedMerge):
        yield from transforms_of(choice.refits)
    elif isinstance(choice, CentreChoice):
        for one in choice.contestants:
            yield from transforms_of(one)


def transforms_bytes(config: MergeConfig, experts: Experts, names: Sequence[str]) -> list[int | None]:
    """Estimate the most bytes that each transform takes for one parameter; None for those that need rows.

    Args:
        config: Configuration.
        experts: Base and experts.
        names: Parameters to merge.
    """
    used = [transform for _, choice in choices(config) for transform in transforms_of(choice)]
    return [_bytes_of(one, config, experts, names) for one in used]


def _bytes_of(transform: Transform, config: MergeConfig, experts: Experts, names: Sequence[str]) -> int | None:
    shapes = {name: experts.base.shape(name) for name in names}
    count, dtype = len(experts.tasks), config.work_dtype
    inside: list[int] = []
    if any(isinstance(own, Adapted) for own in experts.weights.values()):  # in the space of factors where it can be
        few = {name for name in shapes if transform.core_of(name) is not None}
        size = 3 * len(transform.experts(config.names)) * dtype.itemsize  # in fp64, and in the dtype of the work
        inside = [size * shapes.pop(name).numel() for name in few]
    known = work_bytes(transform, shapes, experts.layouts, count, dtype)
    return None if known is None else max(known, *inside, 0)
