"""Settings of config.json that all experts share and their base has otherwise: a merge computes with the experts'."""

from collections.abc import Mapping

import torch
from torch import nn

from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.compatibility import different, settings_of_both
from adamerge.experts.config_file import LAYERS
from adamerge.experts.experts import Expert
from adamerge.experts.fitting_size import with_value
from adamerge.experts.own_class import of_base
from adamerge.experts.skeleton import built


def shared_settings(base: Checkpoint | None, tasks: Mapping[str, Expert]) -> dict[str, object]:
    """Return the settings on which all experts agree and the base differs, among those that affect what is computed.

    None are shared with a zero-shot task, which computes with the base's. A setting that is the size of a tensor, of
    which experts keep one of another shape than the base's, stays out: the merged checkpoint has the base's tensor.

    Args:
        base: The base; None if it is in memory.
        tasks: The experts by task.

    Returns:
        Values by dotted key, as config.json has them; rope_parameters and the like are one value.

    Example:
        >>> shared_settings(None, {})
        {}
    """
    own = [one.checkpoint for one in tasks.values() if one.checkpoint is not None and not one.prefix]
    if base is None or not own or len(own) < len(tasks):
        return {}
    first, *rest = (_changed(base, one) for one in own)
    return {key: value for key, value in first.items() if all(key in one and one[key] == value for one in rest)}


def _changed(base: Checkpoint, expert: Checkpoint) -> dict[str, object]:
    there, here = settings_of_both(base, expert)
    sizes = own_sizes(base, expert)
    return {
        key: here[key]
        for key in different(there, here)
        if not LAYERS.search(key.rpartition(".")[2]) and key not in sizes
    }


def own_sizes(base: Checkpoint, expert: Checkpoint) -> set[str]:
    """Return the settings that differ as tensors do, which an expert can only keep in its own shape.

    Args:
        base: The base.
        expert: The expert.
    """
    if _same_shapes(base, expert):
        return set()
    (there, here), module = settings_of_both(base, expert), of_base(base)
    return {key for key in different(there, here) if _is_size(base, module, key, here[key])}


def _is_size(base: Checkpoint, module: nn.Module, key: str, value: object) -> bool:
    """Return whether tensors of the base would no longer fit its class, if a setting had an expert's value."""
    try:
        other = built(
            with_value(base.config, key, value), type(module).__name__, trust_remote_code=base.trust_remote_code
        )
    except Exception:  # transformers raises anything on sizes that do not belong together
        return True
    return _shapes_of(other) != _shapes_of(module)


def _shapes_of(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def _same_shapes(base: Checkpoint, expert: Checkpoint) -> bool:
    theirs, own = _shapes(base), _shapes(expert)
    return all(theirs.get(name, shape) == shape for name, shape in own.items())


def _shapes(checkpoint: Checkpoint) -> dict[str, torch.Size]:
    """Return shapes by name in the file, with and without the first part: `bert.` of a classifier, for example."""
    found = {name: header.shape for name, header in checkpoint.tensors.headers.items()}
    return {**{name.partition(".")[2]: shape for name, shape in found.items()}, **found}
