"""Show what an adapter or a fine-tuned checkpoint changes, and how far it moves each block."""

from collections.abc import Iterator, Mapping

from rich.console import Console

from adamerge.experts.adapter import open_expert
from adamerge.experts.adapter_config import read_adapter_config
from adamerge.experts.adapter_summary import by_depth, squares
from adamerge.experts.checkpoint import Checkpoint, has_adapter, locate, open_checkpoint
from adamerge.experts.experts import Experts
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.experts.low_rank import Adapted
from adamerge.experts.summary import describe
from adamerge.merging.grouping import block_wise
from adamerge.storage.file_names import last_part
from adamerge.storage.weights import Weights
from adamerge.types import ConfigError, IncompatibleExpertsError

_PIECE = 2**20
"""Numbers that are read at a time."""


def inspect(
    place: str,
    base: str | None,
    console: Console,
    *,
    adapter: str | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> dict[str, tuple[float, float]]:
    """Print what an expert holds, as a merge uses it, and ‖ΔW‖ by depth; writes nothing.

    Args:
        place: Directory or hub id of an adapter or of a complete checkpoint.
        base: Directory or hub id of its base; by default the one that an adapter names, or the checkpoint below it.
        console: Prints it.
        adapter: Directory or hub id of an adapter of the checkpoint.
        allow_pickle: Whether pickled weights may be read.
        trust_remote_code: Whether Python code beside the weights may run.

    Returns:
        ‖ΔW‖ and ‖W‖ of the base by block.

    Raises:
        ConfigError: There is no base, or something cannot be opened.
        IncompatibleExpertsError: They do not belong together.
    """
    may = {"allow_pickle": allow_pickle, "trust_remote_code": trust_remote_code}
    below = _base(place, base or (place if adapter else None), **may)
    name = last_part(adapter or place) or place
    expert = open_expert(place, below, adapter=adapter, **may)
    experts = from_checkpoints(below, {name: expert})
    norms = norms_of(experts, name)
    for line in [*describe(experts), *_table(norms)]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return norms


def norms_of(experts: Experts, task: str) -> dict[str, tuple[float, float]]:
    """Compute ‖ΔW‖ of an expert and ‖W‖ of the base by block; the change of an adapter from its factors.

    Args:
        experts: Base and experts.
        task: Name of the expert.
    """
    weights = experts.weights[task]
    names = block_wise(experts.shared)
    labels = {name: names.groups[int(index[0])] for name, index in names.rows.items()}
    moved = _moved(weights, experts)
    own = {name: sum(p.double().square().sum().item() for p in experts.base.pieces(name, _PIECE)) for name in labels}
    change, size = by_depth(moved, labels), by_depth(own, labels)
    return {block: (change[block] ** 0.5, size[block] ** 0.5) for block in change}


def _base(place: str, base: str | None, **may: bool) -> Checkpoint:
    """Open the base that is given, or that an adapter names."""
    if base is not None:
        return open_checkpoint(base, **may)
    folder = locate(place, may["allow_pickle"], inside=True)
    if not has_adapter(folder):
        raise ConfigError(f"{place}: a complete checkpoint; expected its base, found none. Add --base.")
    named = read_adapter_config(place, folder).base_model
    if not named:
        raise ConfigError(f"{place}: an adapter that names no base. Give its base: --base.")
    try:
        return open_checkpoint(named, **may)
    except (ConfigError, IncompatibleExpertsError) as error:
        raise ConfigError(
            f"{place}: expected the base that the adapter names ({named}), which cannot be opened: {error} "
            "Give its base: --base."
        ) from error


def _moved(weights: Weights, experts: Experts) -> Mapping[str, float]:
    """Return ‖ΔW‖² by tensor; a checkpoint is read piece by piece."""
    if isinstance(weights, Adapted) and weights.over_base:
        return squares(weights)
    found: dict[str, float] = {}
    for name in experts.shared:
        pieces = zip(weights.pieces(name, _PIECE), experts.base.pieces(name, _PIECE), strict=True)
        found[name] = sum((one.double() - other.double()).square().sum().item() for one, other in pieces)
    return found


def _table(norms: Mapping[str, tuple[float, float]]) -> Iterator[str]:
    width = max(len(block) for block in norms)
    yield f"{'block':<{width}}  {'‖ΔW‖':>10}  {'‖ΔW‖/‖W‖':>10}"
    for block, (moved, size) in norms.items():
        yield f"{block:<{width}}  {moved:10.4g}  {moved / size if size else 0:10.4f}"
