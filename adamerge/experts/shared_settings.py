"""Settings of config.json that all experts share and their base has otherwise: a merge computes with the experts'."""

from collections.abc import Mapping

import torch

from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.compatibility import different, settings_of_both
from adamerge.experts.config_file import LAYERS
from adamerge.experts.experts import Expert


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
    keys = [key for key in different(there, here) if not LAYERS.search(key.rpartition(".")[2])]
    return {key: here[key] for key in keys if not _is_size(base, expert, there[key], here[key])}


def _is_size(base: Checkpoint, expert: Checkpoint, there: object, here: object) -> bool:
    """Return whether two numbers are sizes of one tensor that has another shape in an expert's file."""
    theirs, own = _shapes(base), _shapes(expert)
    pairs = ((theirs[name], shape) for name, shape in own.items() if name in theirs)
    return any(a != b and there in a and here in b for a, b in pairs)


def _shapes(checkpoint: Checkpoint) -> dict[str, torch.Size]:
    """Return shapes by name in the file, with and without the first part: `bert.` of a classifier, for example."""
    found = {name: header.shape for name, header in checkpoint.tensors.headers.items()}
    return {**{name.partition(".")[2]: shape for name, shape in found.items()}, **found}
