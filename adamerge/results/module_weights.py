"""Weights of sentence-transformers modules (Dense, for example): merged, copied, averaged, or left to each task."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeAlias, cast

import torch
from torch import Tensor

from adamerge.experts.weight_files import open_files
from adamerge.merging.merged_model import MergedModel
from adamerge.merging.rounding import check_fits, dtype_on_disk
from adamerge.results.sentence_modules import PICKLE, Module, Modules, as_safe, same_place, weights_equal
from adamerge.storage.weights import Weights
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

    They are merged where all experts have the same module, and averaged where the base's is another or cannot be read.

    Args:
        module: A module of the merged checkpoint that has weights.
        base: The base's modules.
        experts: Those of the experts that share the merged checkpoint.

    Returns:
        A source per file; None if the experts' weights have nothing in common and the base has none.
    """
    own, theirs = _bases(module, base), {task: same_place(one, module) for task, one in experts.items()}
    all_here = {task: one for task, one in theirs.items() if one is not None}
    alike = len(all_here) == len(theirs) and all(_alike(module, one) for one in all_here.values())
    if alike and own is not None and _alike(module, own):
        return _blends(module, own, all_here)
    if own is not None and not (alike and _unread(own)):
        return dict(own.weights)
    first = next(iter(all_here.values()), module)
    if all(weights_equal(first, one) for one in all_here.values()):
        return dict(first.weights)
    return _blends(module, None, all_here) if alike else None


def why_not_merged(module: Module, base: Modules | None, experts: Mapping[str, Modules | None]) -> str:
    """Say why the merged checkpoint does not have a merge of a module's weights; empty if it has, or all are equal."""
    own = same_place(base, module)
    theirs = [one for one in (same_place(modules, module) for modules in experts.values()) if one is not None]
    if own is None or all(weights_equal(own, one) for one in theirs):
        return ""
    if any(_unread(one) for one in (own, *theirs)):
        return (
            "weights in pickles are not opened (allow_pickle: true opens them with weights_only=True; or save the "
            "model again with sentence-transformers, as safetensors)"
        )
    if _bases(module, base) is None:
        return "the base's has other settings"
    alike = len(theirs) == len(experts) and all(_alike(own, one) for one in theirs)
    return "" if alike else "the experts' differ from the base's in settings or shapes, or are not in all experts"


def _bases(module: Module, base: Modules | None) -> Module | None:
    """Find the base's module of the same place and settings."""
    found = same_place(base, module)
    return found if found and found.contents() == module.contents() else None


def _blends(module: Module, base: Module | None, experts: Mapping[str, Module]) -> dict[str, Source]:
    if base is not None and all(weights_equal(base, one) for one in experts.values()):
        return dict(base.weights)
    start = _by_name(base) if base else {}
    files = {task: _by_name(one) for task, one in experts.items()}
    return {name: Blend(start.get(name), {task: own[name] for task, own in files.items()}) for name in _by_name(module)}


def _by_name(module: Module) -> dict[str, Path]:
    """List files of weights by the name that they have, or would have, as safetensors."""
    return {as_safe(name): file for name, file in module.weights.items()}


def _alike(one: Module, other: Module) -> bool:
    """Return whether two modules have the same settings, and tensors of the same names and shapes."""
    return one.contents() == other.contents() and (
        weights_equal(one, other) or (_shapes(one) == _shapes(other) and _shapes(one) is not None)
    )


def _unread(module: Module) -> bool:
    """Return whether a module has weights in pickles that may not be opened."""
    return not module.unpickle and any(name.endswith(PICKLE) for name in module.weights)


def _shapes(module: Module) -> dict[str, dict[str, torch.Size]] | None:
    """Read the shapes of a module's tensors by file; None if a file is a pickle that may not be opened."""
    if _unread(module):
        return None
    headers = {name: _opened(file).headers for name, file in _by_name(module).items()}
    return {name: {key: header.shape for key, header in found.items()} for name, found in headers.items()}


def _opened(file: Path) -> Weights:
    found = open_files(file.parent, file.name)
    assert found is not None
    return found


class Blended(NamedTuple):
    """Merged weights of one file.

    Attributes:
        tensors: As they are written, by name.
        surviving: The share of what was merged in that rounding left; None where nothing was rounded or merged in.
    """

    tensors: dict[str, Tensor]
    surviving: float | None


def blended(name: str, blend: Blend, model: MergedModel, coefficients: Coefficients) -> Blended:
    """Merge one module's weights in fp64 and round once: base + Σₖ c̄ₖ · (expertₖ − base), or the experts' mean.

    c̄ₖ is the mean of an expert's coefficients over all merged numbers. The module has no group of its own, because
    coefficients are learned through the transformer alone, and no transform applies to it. Where the merge is centred
    on something else than the base, the module is centred on the experts' mean. It is rounded as merged parameters are.

    Args:
        name: The file that is written.
        blend: The files.
        model: Experts and task vectors.
        coefficients: (G, K).

    Raises:
        ConfigError: A number is too large for the dtype on disk.
    """
    opened = {task: _opened(file) for task, file in blend.experts.items()}
    base = _opened(blend.base) if blend.base else None
    every, centred = [*opened.values(), *([base] if base else [])], base is not None and _on_the_base(model)
    factors = dict(zip(model.vectors.experts, mean_coefficients(model, coefficients).tolist(), strict=True))
    found, products = dict[str, Tensor](), torch.zeros(2, dtype=torch.float64)
    for key, (_, dtype) in every[0].headers.items():
        if not dtype.is_floating_point:
            found[key] = every[-1][key]
            continue
        experts = {task: own[key].double() for task, own in opened.items()}
        mean = cast(Tensor, sum(experts.values()) / len(experts))
        centre = base[key].double() if base and centred else mean
        moved = cast(Tensor, sum(factors[task] * (own - centre) for task, own in experts.items()))
        merged = centre + moved if base else mean
        own = functools.reduce(torch.promote_types, (one.headers[key].dtype for one in every))
        found[key] = _rounded(model, f"{name}: {key}", merged, dtype_on_disk(own, model.rounding.heads))
        if base and found[key].element_size() < torch.float32.itemsize:
            products += torch.stack([((found[key].double() - centre) * moved).sum(), moved.square().sum()])
    return Blended(found, (products[0] / products[1]).item() if products[1] else None)


def _rounded(model: MergedModel, name: str, merged: Tensor, dtype: torch.dtype) -> Tensor:
    """Round as merged parameters are, and refuse what becomes infinite."""
    written = replace(model.rounding, dtypes={name: dtype})(name, merged)
    check_fits(name, merged, written)
    return written


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
        for own in map(_opened, blend.experts.values())
    ]
    unit = torch.stack([vector / vector.norm() for vector in flat])
    return (unit @ unit.T).min().item()
