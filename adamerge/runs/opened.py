"""Inputs of a run, opened and checked."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

from adamerge.experts.experts import Experts
from adamerge.runs.load_rows import Data


class Opened(NamedTuple):
    """Inputs of a run, opened and checked.

    Attributes:
        experts: Base and experts.
        changed: Names of the parameters in which at least one expert differs from the base.
        data: Rows per task.
        products: Inner products of the task vectors by depth.
        lines: What was printed of experts and rows.
    """

    experts: Experts
    changed: tuple[str, ...]
    data: Data
    products: Mapping[str, Tensor] = MappingProxyType({})
    lines: tuple[str, ...] = ()
