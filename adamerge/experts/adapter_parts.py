"""Layers that an adapter names, and that today's module holds within a larger tensor: of experts, gate and up.

Most are found by transformers' own rules of conversion. DBRX has none: the matrices of its experts stand below each
other in one parameter, and mlx-lm holds them as a layer of each expert:

    ΔW = [B₁ 0 … ; 0 B₂ … ; …] [A₁ ; A₂ ; …]                 for the matrices W₁, W₂, … below each other
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from adamerge.experts.adapter_conversion import Converted, conversion_of
from adamerge.experts.adapter_keys import Parts
from adamerge.experts.adapter_placement import Piece, Placement, placed
from adamerge.experts.adapter_places import AdapterPlaces
from adamerge.experts.conversion import Conversion
from adamerge.experts.low_rank import Change, LowRank
from adamerge.experts.matrix_layouts import in_a_row
from adamerge.storage.weights import Weights

_EXPERT = re.compile(r"(?P<experts>.+)\.(?P<number>\d+)\.(?P<name>[^.]+)")


class Home(NamedTuple):
    """Where a layer is.

    Attributes:
        name: Of the tensor that it is a part of.
        shape: Of its matrix, outputs × inputs.
        put: Takes its change.
    """

    name: str
    shape: torch.Size
    put: Callable[[Change], None]


class _Rows(NamedTuple):
    """The rows of a parameter that are the matrix of one expert, and whether as inputs × outputs."""

    parameter: str
    first: int
    shape: torch.Size
    turned: bool


class FusedParts:
    """Collects the changes of layers that are parts of larger tensors.

    Args:
        module: The module that the adapter was trained as.
        base: The base's tensors under the names of the module.
        places: Where an adapter's tensors belong.
    """

    def __init__(self, module: nn.Module, base: Weights, places: AdapterPlaces) -> None:
        self._module, self._base, self._places = module, base, places
        self._converted: dict[str, Converted] = {}
        self._rows: dict[str, dict[_Rows, Callable[[], LowRank]]] = defaultdict(dict)

    def home(self, parts: Parts) -> Home | None:
        """Find the tensor that a layer is a part of; None if there is none, or it cannot take what the adapter has."""
        if "A" not in parts.names or "B bias" in parts.names:
            return None
        conversion = self._places.conversion(f"{parts.module}.weight")
        if conversion is not None:
            one = self._converted_of(conversion)
            part = one.part(parts.module)
            return Home(part, one.shapes[part], partial(one.changes.__setitem__, part)) if part else None
        rows = _rows_of(self._places.modules, parts.module)
        if rows is None or rows.parameter not in self._base or "magnitude" in parts.names:
            return None
        shape = torch.Size(reversed(rows.shape)) if rows.turned else rows.shape
        return Home(rows.parameter, shape, partial(self._put_rows, rows))

    def changes(self) -> Iterator[tuple[str, Change]]:
        """Yield the change of every larger tensor that has a changed part."""
        for one in self._converted.values():
            yield from one.changes_of(self._base)
        for name, rows in self._rows.items():
            yield name, Change(low_rank=partial(_below_each_other, self._base.shape(name), rows))

    def _converted_of(self, conversion: Conversion) -> Converted:
        if conversion.first not in self._converted:
            shapes = {name: header.shape for name, header in self._base.headers.items()}
            self._converted[conversion.first] = conversion_of(self._module, conversion, shapes)
        return self._converted[conversion.first]

    def _put_rows(self, rows: _Rows, change: Change) -> None:
        assert change.low_rank is not None
        self._rows[rows.parameter][rows] = partial(_turned, change.low_rank) if rows.turned else change.low_rank


def _rows_of(modules: dict[str, nn.Module], path: str) -> _Rows | None:
    found = _EXPERT.fullmatch(path)
    if found is None or found["experts"] not in modules:
        return None
    for name, child in modules[found["experts"]].named_children():
        own = dict(child.named_parameters(recurse=False)) if in_a_row(child) else {}
        parameter = own.get(found["name"])
        inner = getattr(child, "ffn_hidden_size", 0)
        if parameter is not None and int(found["number"]) < len(parameter) // inner:
            place = f"{found['experts']}.{name}.{found['name']}"
            shape = torch.Size([inner, parameter.shape[1]])
            return _Rows(place, int(found["number"]) * inner, shape, found["name"] == [*own][-1])
    return None


def _turned(read: Callable[[], LowRank]) -> LowRank:
    one = read()
    return one._replace(left=one.right.mT, right=one.left.mT)


def _below_each_other(shape: torch.Size, rows: dict[_Rows, Callable[[], LowRank]]) -> LowRank:
    pieces = [
        Piece(0, one.first + torch.arange(one.shape[0]), str(one.first), torch.arange(one.shape[0])) for one in rows
    ]
    whole = Placement(tuple(pieces), (1, shape[0], shape[1]), transposed=False, stacked=False)
    return placed(whole, {str(one.first): read() for one, read in rows.items()})
