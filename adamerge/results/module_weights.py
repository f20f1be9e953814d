"""Weights of sentence-transformers modules (Dense, for example): merged, copied, averaged, or left to each task."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

import torch
from torch import Tensor

from adamerge.merging.merged_model import MergedModel
from adamerge.merging.rounding import check_fits, dtype_on_disk, round_to_nearest
from adamerge.results.sentence_modules import Module, Modules, same_place, weights_equal
from adamerge.storage.weights import MappedFiles
from adamerge.types import Coefficients


@dataclass(frozen=True)
class Blend:
    """Files of one module's weights that are merged.

    Attributes:
        base: The base's; None if it has no such module, and the result is the experts' mean.
        experts: The experts' by task.
    """

    base: Path | None
    experts: Mapping[str, Path]


Source: TypeAlias = Path | Blend
"""A file that is copied, or files that are merged."""


def sources(module: Module, base: Modules | None, experts: Mapping[str, Modules | None]) -> dict[str, Source] | None:
    """Decide where the merged checkpoint's weights of a module come from.

    Args:
        module: A module of the merged checkpoint that has weights.
        base: The base's modules.
        experts: Those of the experts that share the merged checkpoint.

    Returns:
        A source per file; None if the experts' weights have nothing in common and the base has none.
    """
    own, theirs = same_place(base, module), {task: same_place(one, module) for task, one in experts.items()}
    all_here = {task: one for task, one in theirs.items() if one is not None}
    alike = len(all_here) == len(theirs) and all(_alike(module, one) for one in all_here.values())
    if alike and own is not None and _alike(module, own):
        return _blends(module, own, all_here)
    if own is not None:
        return dict(own.weights)
    first = next(iter(all_here.values()), module)
    if all(weights_equal(first, one) for one in all_here.values()):
        return dict(first.weights)
    return _blends(module, None, all_here) if alike else None


def _blends(module: Module, base: Module | None, experts: Mapping[str, Module]) -> dict[str, Source]:
    if base is not None and all(weights_equal(base, one) for one in experts.values()):
        return dict(base.weights)
    return {
        name: Blend(base.weights[name] if base else None, {task: one.weights[name] for task, one in experts.items()})
        for name in module.weights
    }


def _alike(one: Module, other: Module) -> bool:
    """Return whether two modules have the same settings, and tensors of the same names and shapes."""
    return one.contents() == other.contents() and (
        weights_equal(one, other) or (_shapes(one) == _shapes(other) and _shapes(one) is not None)
    )


def _shapes(module: Module) -> dict[str, dict[str, torch.Size]] | None:
    """Shapes of a module's tensors by file; None if a file is a pickle, which is not opened."""
    if not all(name.endswith(".safetensors") for name in module.weights):
        return None
    headers = {name: MappedFiles([file]).headers for name, file in module.weights.items()}
    return {name: {key: header.shape for key, header in found.items()} for name, found in headers.items()}


def blended(blend: Blend, model: MergedModel, coefficients: Coefficients) -> dict[str, Tensor]:
    """Merge one module's weights in fp64 and round once: base + Σₖ c̄ₖ · (expertₖ − base), or the experts' mean.

    c̄ₖ is the mean of an expert's coefficients over all merged numbers. The module has no group of its own, because
    coefficients are learned through the transformer alone, and no transform applies to it. Where the merge is centred
    on something else than the base, the module is centred on the experts' mean.

    Args:
        blend: The files.
        model: Experts and task vectors.
        coefficients: (G, K).

    Raises:
        ConfigError: A number is too large for the dtype on disk.
    """
    opened = {task: MappedFiles([file]) for task, file in blend.experts.items()}
    base = MappedFiles([blend.base]) if blend.base else None
    factors = dict(zip(model.vectors.experts, mean_coefficients(model, coefficients).tolist(), strict=True))
    found: dict[str, Tensor] = {}
    for name, (_, dtype) in next(iter(opened.values())).headers.items():
        experts = {task: own[name] for task, own in opened.items()}
        first = base[name] if base else next(iter(experts.values()))
        if not dtype.is_floating_point:
            found[name] = first
            continue
        mean = cast(Tensor, sum(own.double() for own in experts.values()) / len(experts))
        centre = first.double() if base and _on_the_base(model) else mean
        change = sum((factors[task] * (own.double() - centre) for task, own in experts.items()), torch.zeros(()))
        merged = centre + change if base else mean
        found[name] = round_to_nearest(merged, dtype_on_disk(first.dtype, model.rounding.heads))
        check_fits(f"{next(iter(blend.experts.values())).parent.name}: {name}", merged, found[name])
    return found


def mean_coefficients(model: MergedModel, coefficients: Coefficients) -> Tensor:
    """Average each expert's coefficients over all merged numbers: (K,), fp64."""
    rows, sizes = model.grouping.rows, {name: shape.numel() for name, shape in model.vectors.shapes.items()}
    table = coefficients.detach().cpu().double()
    sums = [sizes[name] * table[rows[name].cpu()].mean(0) for name in sizes]
    return torch.stack(sums).sum(0) / sum(sizes.values())


def _on_the_base(model: MergedModel) -> bool:
    """Return whether task vectors are added to the base itself."""
    name = next(iter(model.vectors.shapes))
    return torch.equal(model.vectors.centre(name).cpu().double(), model.experts.base[name].double())


def likeness(blend: Blend) -> float:
    """Return the least cosine between two experts' weights, which is near 0 if they were initialised apart."""
    flat = [
        torch.cat([own[name].double().flatten() for name in own.headers])
        for own in (MappedFiles([file]) for file in blend.experts.values())
    ]
    unit = torch.stack([vector / vector.norm() for vector in flat])
    return (unit @ unit.T).min().item()
