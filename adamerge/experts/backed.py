"""Whether the files of a checkpoint can hold the model that config.json describes, before that model is built."""

import torch

from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.config_file import LAYERS, file_of, numbers
from adamerge.experts.skeleton import built
from adamerge.types import IncompatibleExpertsError

_FEW_LAYERS = 128
"""Number of layers that is built without looking into the files."""

_SMALL = 2**16
"""Size of a dimension that is built without looking into the files."""

_TIMES = 8
"""How many times the numbers in its files a model may have: parameters may be tied, or missing."""


def check_backed(checkpoint: Checkpoint) -> None:
    """Check the sizes in config.json against the tensors in the files; nothing of such a size is built.

    Args:
        checkpoint: An open checkpoint.

    Raises:
        IncompatibleExpertsError: config.json has more layers, or a far larger model, than the files have tensors for.
    """
    sizes, headers = list(numbers(checkpoint.config.to_dict())), checkpoint.tensors.headers
    for key, number in sizes:
        if LAYERS.search(key) and number > max(len(headers), _FEW_LAYERS):
            raise IncompatibleExpertsError(
                f"{file_of(checkpoint.config)}: expected at most {len(headers)} layers, because the files "
                f"beside it have {len(headers)} tensors, found {key}: {number}. Correct the file, or copy or download "
                "it again."
            )
    largest = max((size for shape, _ in headers.values() for size in shape), default=0)
    large = dict.fromkeys(key for key, number in sizes if number > max(largest, _SMALL))
    if large:
        _check_total(checkpoint, ", ".join(large))


def _check_total(checkpoint: Checkpoint, large: str) -> None:
    stored = sum(shape.numel() for shape, _ in checkpoint.tensors.headers.values())
    try:
        with torch.device("meta"):
            module = built(checkpoint.config, checkpoint.architecture, trust_remote_code=checkpoint.trust_remote_code)
    except IncompatibleExpertsError:
        raise
    except Exception:  # it cannot be built; whoever builds it reports why
        return
    described = sum(parameter.numel() for parameter in module.parameters())
    if described > _TIMES * stored + _SMALL:
        raise IncompatibleExpertsError(
            f"{file_of(checkpoint.config)}: {large}: describes a {checkpoint.architecture} of {described} numbers, but "
            f"the files beside it hold {stored}. Correct the file, or copy or download it again."
        )
