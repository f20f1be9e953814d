"""What the oldest releases that the package allows lack, and the tests that do without it."""

import inspect
import re

import pytest
from torch.distributed.fsdp import FSDPModule
from torch.optim import Adam, lr_scheduler

HAS_FSDP2 = hasattr(FSDPModule, "set_reduce_scatter_unused_params")
"""Whether PyTorch can divide a model of which a batch leaves parts out; `fit` refuses the strategy where it cannot."""

needs_fsdp2 = pytest.mark.skipif(not HAS_FSDP2, reason="this PyTorch does not reduce gradients of unused parameters")
_LATE = hasattr(lr_scheduler, "TYPE_CHECKING")
needs_late_hints = pytest.mark.skipif(not _LATE, reason="this PyTorch imports all hints of its schedulers")
needs_late_rounding = pytest.mark.skipif(not _LATE, reason="this PyTorch rounds otherwise than that of the former runs")

_LATER = [name for name in ("decoupled_weight_decay",) if name not in inspect.signature(Adam).parameters]


def readable(settings: str) -> str:
    """Leave out of a run's settings the options that a newer PyTorch wrote and this one does not know."""
    for name in _LATER:
        settings = re.sub(rf"(\n|\\n) *{name}: \w+", "", settings)  # in YAML, and in YAML within JSON
    return settings
