"""Start coefficients by least squares on the outputs of each layer; needs forward passes only.

    min over c of  Σₖ ‖Σⱼ cⱼ·Xₖτⱼᵀ − Xₖτₖᵀ‖² / sₖ + ρ·a·‖c − c⁰‖²        per group of rows

with Xₖ the layer's input on task k's rows, sₖ = ‖Xₖτₖᵀ‖² over the whole layer, so that all tasks have equal weight, and
a the mean of the system's diagonal, so that ρ has no unit. Only Gram matrices Gₖ = XₖᵀXₖ are needed:

    (A + ρ·a·I) (c − c⁰) = b − A c⁰,   Aⱼₗ = Σₖ Σᵣ τⱼ[r] Gₖ τₗ[r]ᵀ / sₖ,   bⱼ = Σₖ Σᵣ τⱼ[r] Gₖ τₖ[r]ᵀ / sₖ

Directions in which A is singular up to rounding (experts that change a layer's outputs alike) keep c⁰.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from adamerge.calibration.cache_keys import digest_of_experts, kept_of_rows, key_of
from adamerge.calibration.gram_matrices import forward_order, grams_of_experts, grams_of_merged
from adamerge.data.rows import Rows, first_rows
from adamerge.merging.coefficients import load_coefficients, save_coefficients
from adamerge.merging.factor_cores import gram_products
from adamerge.merging.factored_task_vectors import Factored
from adamerge.merging.merged_model import MergedModel, uniform
from adamerge.merging.task_vectors import TaskVectors
from adamerge.storage.digest import digest_of_json
from adamerge.storage.kept import SILENT, Keeper
from adamerge.transforms import TASK_ARITHMETIC
from adamerge.types import Coefficients, ConfigError, check_types

ROWS_AT_ONCE = 2**22
"""Elements of a layer's task vectors that are multiplied by a Gram matrix at once."""

SINGULAR = 1e-8
"""Eigenvalues of a group's system below this share of its largest count as zero: task vectors are differences of fp32
weights, so that much of them is rounding."""


@dataclass(frozen=True)
class ClosedForm:
    """Options of the closed-form start.

    Attributes:
        ridge: Strength ρ of the pull towards `towards`, at least 0.
        towards: Coefficient c⁰ that the solution is pulled to; null takes the value of `init: published`, or 0.3 (task
            arithmetic) without a configuration.
        inputs: Source of the layers' inputs: experts (each task's own expert; one pass), or merged (the merged model,
            layers solved in forward order; one pass per layer).
        rows: Calibration rows per task that are used.
    """

    ridge: float = 1.0
    towards: float | None = None
    inputs: Literal["experts", "merged"] = "experts"
    rows: int = 64

    def __post_init__(self) -> None:
        """Check that the numbers are in range."""
        check_types(self)
        if not 0 <= self.ridge < math.inf:
            raise ConfigError(f"init.ridge: expected a finite number of at least 0, found {self.ridge}.")
        if self.towards is not None and not math.isfinite(self.towards):
            raise ConfigError(f"init.towards: expected a finite number, found {self.towards}.")
        if self.rows < 1:
            raise ConfigError(f"init.rows: expected at least 1, found {self.rows}.")


class System:
    """Normal equations of every group, filled layer by layer.

    Args:
        groups: Number of groups, G.
        experts: Names of the experts, one per column.
        tasks: Names of the tasks that have rows.
    """

    def __init__(self, groups: int, experts: Sequence[str], tasks: Sequence[str]) -> None:
        self._own = [experts.index(task) for task in tasks]
        self._left = torch.zeros(groups, len(experts), len(experts), dtype=torch.float64)
        self._right = torch.zeros(groups, len(experts), dtype=torch.float64)

    def add(self, products: Iterable[Tensor], groups: Tensor) -> None:
        """Add one layer to the equations.

        Args:
            products: τⱼ[r] Gₖ τₗ[r]ᵀ for each task k that has rows, fp64, (R, K, K).
            groups: Group of the whole layer, (1,), or of each of its rows, (R,).
        """
        for k, found in zip(self._own, products, strict=True):
            index = groups.cpu().expand(len(found))
            scale = found[:, k, k].sum()  # sₖ
            if scale > 0:
                self._left.index_add_(0, index, found / scale)
                self._right.index_add_(0, index, found[:, :, k] / scale)

    def solve(self, ridge: float, towards: float) -> Coefficients:
        """Solve for the least-squares coefficients of all groups.

        A group that no layer was added to gets each expert's mean over the other groups, or `towards` if there are
        none. Directions in which a system is singular keep `towards`.

        Args:
            ridge: ρ.
            towards: c⁰.

        Returns:
            Coefficients, fp32, (G, K).
        """
        mean = self._left.diagonal(dim1=1, dim2=2).mean(1)  # a, (G,)
        pull = (ridge * mean)[:, None]
        left = self._left + torch.diag_embed(pull.expand_as(self._right))
        right = self._right - towards * self._left.sum(2)  # b − A c⁰
        found = torch.linalg.lstsq(left, right[..., None], rcond=SINGULAR, driver="gelsd").solution[..., 0]
        solution = towards + found
        known = mean > 0
        solution[~known] = solution[known].mean(0) if known.any() else towards
        return solution.float()


def _products(stack: Tensor, gram: Tensor) -> Tensor:
    """Compute τⱼ[r] G τₗ[r]ᵀ for every row and pair of experts, fp64 on the CPU, (R, K, K)."""
    count, rows, width = stack.shape
    products = torch.empty(rows, count, count, dtype=torch.float64)
    step = max(1, ROWS_AT_ONCE // (count * width))
    for start in range(0, rows, step):
        part = stack[:, start : start + step].double()  # (K, r, D)
        products[start : start + step] = torch.einsum("jrd,lrd->rjl", part @ gram, part)
    return products


def closed_form(model: MergedModel, rows: Mapping[str, Rows], settings: ClosedForm, size: int) -> Coefficients:
    """Compute the coefficients that bring each layer's output closest to the experts' outputs.

    Groups without a linear layer's weight (biases, norms, embeddings) get the mean over the other groups.

    Args:
        model: Experts, task vectors and grouping.
        rows: Calibration rows of the tasks that have rows; the first `settings.rows` of each are used.
        settings: Ridge, c⁰ and source of the layers' inputs.
        size: Rows per forward pass.

    Returns:
        Coefficients, fp32, (G, K).
    """
    rows = first_rows(rows, settings.rows)
    towards = TASK_ARITHMETIC if settings.towards is None else settings.towards
    system = System(len(model.grouping), model.vectors.experts, tuple(rows))
    if settings.inputs == "experts":
        for grams in grams_of_experts(model, rows, size):
            _add(system, model, grams)
        return system.solve(settings.ridge, towards)
    coefficients = uniform(model, towards)
    for names in forward_order(model, rows):
        _add(system, model, grams_of_merged(model, rows, names, coefficients, size))
        coefficients = system.solve(settings.ridge, towards)
    return coefficients


def kept_closed_form(
    model: MergedModel,
    rows: Mapping[str, Rows],
    settings: ClosedForm,
    file: Path,
    size: int,
    keeper: Keeper = SILENT,
) -> Coefficients:
    """Read the closed-form coefficients from a file, or compute them and write the file.

    Args:
        model: As for `closed_form`.
        rows: As for `closed_form`; empty if they are not available: then the stored result is read without comparing
            its rows.
        settings: As for `closed_form`.
        file: File of the stored coefficients.
        size: Rows per forward pass.
        keeper: Stores the coefficients under their cache key.

    Returns:
        Coefficients, fp32, (G, K).

    Raises:
        ConfigError: There are no rows, and no stored result has the same key.
    """
    vectors, grouping = model.vectors, model.grouping
    governed = {name: index.tolist() for name, index in grouping.rows.items()}
    experts = digest_of_json([digest_of_experts(model.experts), vectors.digest()])
    key = key_of(experts, first_rows(rows, settings.rows), [asdict(settings), list(grouping.groups), governed], size)

    def make(path: Path) -> None:
        save_coefficients(path, closed_form(model, rows, settings, size), grouping, vectors.experts)

    return kept_of_rows(keeper, file, key, make, load_coefficients).coefficients


def _add(system: System, model: MergedModel, grams: Mapping[str, Sequence[Tensor]]) -> None:
    for name, own in grams.items():
        system.add(row_products(model.vectors, name, own), model.grouping.rows[name])


def row_products(vectors: TaskVectors, name: str, grams: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield τⱼ[r] G τₗ[r]ᵀ for each Gram matrix; of adapters from their factors, never dense."""
    factors = vectors.factors(name) if isinstance(vectors, Factored) else None
    if factors is not None:
        rows, count = vectors.shapes[name][0], len(vectors.experts)
        yield from (gram_products(factors, rows, count, gram) for gram in grams)
        return
    stack = vectors.stack(name)
    yield from (_products(stack, gram) for gram in grams)
