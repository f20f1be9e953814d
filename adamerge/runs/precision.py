"""The precision of a run's passes."""

from adamerge.learning.settings import kind_of
from adamerge.merging.device import BF16, FP32, device_of, fastest_precision, is_missing
from adamerge.optim.incompatible_options import CLOSURE_KINDS
from adamerge.runs.config import MergeConfig


def precision_of(config: MergeConfig) -> str:
    """Return `trainer.precision` as Lightning knows it: auto becomes what this machine takes the least time for.

    With optimisers that search their steps, for which bf16 is not precise enough, that is 32-true.

    Args:
        config: Configuration; a device that this machine lacks computes in fp32.
    """
    asked, accelerator = config.trainer.precision, config.trainer.accelerator
    if asked != "auto":
        return asked
    if is_missing(accelerator) or kind_of(config.optimizer) in CLOSURE_KINDS:
        return FP32
    return fastest_precision(device_of(accelerator))


def in_bf16(config: MergeConfig) -> bool:
    """Return whether a run's passes compute in bf16, by autocast."""
    return precision_of(config) == BF16
