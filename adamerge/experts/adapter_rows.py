"""Rows of embeddings that an adapter has trained, in place of the base's."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from adamerge.experts.adapter_config import AdapterConfig
from adamerge.experts.adapter_formulas import with_rows
from adamerge.experts.adapter_keys import Parts
from adamerge.experts.adapter_places import AdapterPlaces
from adamerge.experts.low_rank import Change
from adamerge.storage.weights import Weights


class TokenRows:
    """Reads trained rows.

    Args:
        config: The adapter's options.
        places: Where its tensors belong.
        base: The base's tensors under the names of the module.
        tensors: The adapter's tensors.

    Attributes:
        without_bias: Linear layers whose rows were trained, and whose bias PEFT leaves out meanwhile.
    """

    def __init__(self, config: AdapterConfig, places: AdapterPlaces, base: Weights, tensors: Weights) -> None:
        self._config, self._places, self._base, self._tensors = config, places, base, tensors
        self.without_bias: list[str] = []

    def changes(self, parts: Parts, path: str, weight: str | None) -> Iterator[tuple[str, Change]]:
        """Yield the change of an embedding.

        Args:
            parts: Its tensors in the adapter.
            path: Path of its module.
            weight: Name of its matrix, if it has one.
        """
        rows, key = self._config.rows_of(parts.module), parts.names["token rows"]
        values = self._tensors[key]
        if weight is None or weight not in self._base:
            self._places.lacking(key, weight or f"{parts.module}.weight")
        elif rows is None or len(rows) != len(values):
            what = f"has {len(values)} rows, expected those of trainable_token_indices ({rows and len(rows)})"
            self._places.problem(key, what, "Save the adapter again")
        elif problem := _misfit(values, max(rows, default=0), self._base.shape(weight)):
            self._places.problem(key, f"{problem}, but {weight} is {tuple(self._base.shape(weight))}")
        else:
            sides = sorted(self._places.sides_of_rows(weight, path))
            self.without_bias += [side.removesuffix(".weight") for side in sides if self._has_bias(side)]
            yield weight, Change(dense=partial(with_rows, torch.tensor(rows), values), kind="trained token rows")

    def _has_bias(self, side: str) -> bool:
        bias = self._places.parameter(side.replace(".weight", ".bias"))
        return bias is not None and bias in self._base and bool(self._base[bias].any())


def _misfit(values: Tensor, last: int, shape: torch.Size) -> str | None:
    fits = values.shape[1:] == shape[1:] and last < shape[0]
    return None if fits else f"has {tuple(values.shape)} numbers for rows up to {last}"
