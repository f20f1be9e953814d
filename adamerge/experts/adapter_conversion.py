"""Changes of tensors that transformers fuses or splits on loading: adapters name the parts of an older version.

An adapter of transformers 4 has factors for each expert of a mixture (w1, w2, w3), where the module of today holds all
experts in one tensor. The parts' factors are laid into factors of the whole, each with its own scale, where
transformers' rule puts rows in place. Under other rules, and with DoRA, every part is computed by itself, and put in
place by the rule.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from adamerge.experts.adapter_formulas import applied
from adamerge.experts.adapter_placement import Placement, placed, placements
from adamerge.experts.conversion import Conversion, Written, places, written
from adamerge.experts.low_rank import Change, LowRank
from adamerge.storage.weights import Weights


@dataclass(frozen=True, eq=False)
class Converted:
    """Tensors of a module that are made from others, and the changes of these others.

    Attributes:
        sizes: Shape of each of the module's tensors that belong together, by name.
        file: What `save_pretrained` writes for them.
        conversion: Computes them from it.
        shapes: Shape of each tensor that is written, by name.
        changes: Change per name.
    """

    sizes: Mapping[str, torch.Size]
    file: Written
    conversion: Conversion
    shapes: Mapping[str, torch.Size]
    changes: dict[str, Change] = field(default_factory=dict[str, Change])

    def part(self, path: str) -> str | None:
        """Find the written tensor that an adapter's path means; the path may lack a prefix, or have one more."""
        name = f"{path}.weight"
        return next((n for n in self.shapes if n == name or n.endswith(f".{name}") or name.endswith(f".{n}")), None)

    def changes_of(self, base: Weights) -> Iterator[tuple[str, Change]]:
        """Yield the change of every tensor that has a changed part.

        Args:
            base: The base's tensors under the names of the module.
        """
        factors = {part: one.low_rank for part, one in self.changes.items() if one.low_rank is not None}
        for name in self.sizes:
            place = self._placements.get(name) if len(factors) == len(self.changes) else None
            if place is None:
                yield name, Change(dense=partial(self.expert_of, name, base), kind=self._kind())
            elif (own := place.of(factors)).pieces:
                yield name, Change(low_rank=partial(_read, own, factors))

    @cached_property
    def _placements(self) -> dict[str, Placement]:
        return placements(self.conversion, self.shapes, self.sizes)

    def _kind(self) -> str:
        kinds = sorted({one.kind for one in self.changes.values() if one.kind})
        return f"{' and '.join(kinds) or 'factors'} of parts that transformers converts when it loads"

    def expert_of(self, name: str, weights: Weights, base: Tensor) -> Tensor:
        """Compute a tensor of the expert: split into what is written, changed part by part, and put together again."""
        tensors = {own: base if own == name else weights[own].to(base.dtype) for own in self.sizes}
        parts = self.file.apply(tensors)
        for part, change in self.changes.items():
            parts[part] = applied(change, parts[part])
        return self.conversion.apply(parts.__getitem__)[name]


def conversion_of(module: nn.Module, conversion: Conversion, shapes: Mapping[str, torch.Size]) -> Converted:
    """Find all parts of the tensors that a conversion makes.

    Args:
        module: The module.
        conversion: As found for some of its parts.
        shapes: Shape of the module's tensors by name.
    """
    file = next(one for one in written(module, list(_persistent(module, shapes))) if conversion.first in one.names)
    meta = {name: torch.empty(shapes[name], device="meta") for name in file.names}
    parts = file.apply(meta)
    found = places(module, parts).made[conversion.first]
    sizes = {name: shapes[name] for name in file.names}
    return Converted(sizes, file, found, {name: tensor.shape for name, tensor in parts.items()})


def _read(placement: Placement, factors: Mapping[str, Callable[[], LowRank]]) -> LowRank:
    return placed(placement, {piece.part: factors[piece.part]() for piece in placement.pieces})


def _persistent(module: nn.Module, shapes: Mapping[str, torch.Size]) -> Sequence[str]:
    return [name for name in module.state_dict() if name in shapes]
