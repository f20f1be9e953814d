"""Changes of tensors that transformers fuses or splits on loading: adapters name the parts of an older version.

An adapter of transformers 4 has factors for each expert of a mixture (w1, w2, w3), where the module of today holds all
experts in one tensor. Every part is computed by itself, with its own scale, and transformers' rules put it in place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from adamerge.experts.adapter_formulas import applied
from adamerge.experts.conversion import Conversion, Written, places, written
from adamerge.experts.low_rank import Change
from adamerge.storage.weights import Weights


@dataclass(frozen=True, eq=False)
class Converted:
    """Tensors of a module that are made from others, and the changes of these others.

    Attributes:
        names: Names of the module's tensors that belong together.
        file: What `save_pretrained` writes for them.
        conversion: Computes them from it.
        shapes: Shape of each tensor that is written, by name.
        changes: Change per name.
    """

    names: tuple[str, ...]
    file: Written
    conversion: Conversion
    shapes: Mapping[str, torch.Size]
    changes: dict[str, Change] = field(default_factory=dict[str, Change])

    def part(self, path: str) -> str | None:
        """Find the written tensor that an adapter's path means; the path may lack a prefix, or have one more."""
        name = f"{path}.weight"
        return next((n for n in self.shapes if n == name or n.endswith(f".{name}") or name.endswith(f".{n}")), None)

    def expert_of(self, name: str, weights: Weights, base: Tensor) -> Tensor:
        """Compute a tensor of the expert: split into what is written, changed part by part, and put together again."""
        tensors = {own: base if own == name else weights[own].to(base.dtype) for own in self.names}
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
    return Converted(file.names, file, found, {name: tensor.shape for name, tensor in parts.items()})


def _persistent(module: nn.Module, shapes: Mapping[str, torch.Size]) -> Sequence[str]:
    return [name for name in module.state_dict() if name in shapes]
