"""ESM: the directions in which each expert moves the outputs of its layers on its own rows, made orthogonal.

    Eₖ diag(eₖ) Eₖᵀ = τₖ Gₖ τₖᵀ,   Gₖ = XₖᵀXₖ / Nₖ       principal directions of the change of outputs, the first ⌊R/K⌋
    Uₖ = Eₖ diag(gₖ),   Vₖ = aₖ diag(gₖ) Eₖᵀτₖ           gₖ from eₖ, aₖ from the size of τₖ among the tasks
    update = s̄(U) · U⊥ · s̄(V) · V⊥ b                     U⊥, V⊥ nearest orthogonal matrices of all tasks' side by side

per linear layer, b a scale of the inputs and s̄ the mean singular value. All other matrices are merged by TSV-M, vectors
by the mean. At the end every matrix is scaled by its size among the layers of its kind.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from adamerge.calibration.calibrated_merge import CalibratedMerge, Drafts, check_rows
from adamerge.calibration.gram_matrices import grams_of_experts
from adamerge.data.rows import Rows
from adamerge.merging.merged_model import MergedModel
from adamerge.storage.weights import Weights
from adamerge.transforms import TaskSingularVectors
from adamerge.transforms.mixtures import by_matrix
from adamerge.transforms.thin_svd import eigenpairs, thin_svd
from adamerge.transforms.transform import require
from adamerge.types import check_types

FLATTEN = 0.15
"""Power of the eigenvalues that scales directions, as published."""


@dataclass(frozen=True)
class Esm(CalibratedMerge):
    """Options of ESM, essential subspace merging.

    The authors' code draws its rows from the test files, and chooses the scale of the result by their labels; here
    rows are calibration rows, and `centre: auto` chooses a scale without labels.

    Attributes:
        rows: Calibration rows per task that are used.
        power: Power of the scales by size (of a task, an input and a layer, each relative to the mean), at least 0; 0
            leaves them out.

    Reference:
        The code of Essential Subspace Merging, kiddo127/ESM on GitHub.
    """

    rows: int = 32
    power: float = 2.0

    def __post_init__(self) -> None:
        """Check that the numbers are in range."""
        check_types(self)
        check_rows(self.rows)
        require(self.power >= 0, "centre.power", "a number of at least 0", self.power)

    @override
    def fill(
        self, model: MergedModel, rows: Mapping[str, Rows], size: int, drafts: Drafts, start: Weights | None
    ) -> None:
        """Write all updates, scale them by the layers of their kind, and add the base; see `CalibratedMerge.fill`."""
        chosen = [model.vectors.experts.index(task) for task in rows]
        solved: set[str] = set()
        for grams in grams_of_experts(model, rows, size):
            for name, own in grams.items():
                drafts[name].copy_(essential_update(model.vectors.stack(name)[chosen], own, self.power))
                solved.add(name)
        others = by_matrix(TaskSingularVectors(), model.experts.layouts).plan(lambda: iter(()))
        for name in drafts.keys() - solved:
            drafts[name].copy_(others(name, model.vectors.stack(name)[chosen]).sum(0))
        scales = scales_of_kinds({name: draft.double().norm().item() for name, draft in drafts.items()}, self.power)
        for name, draft in drafts.items():
            factor = scales[name] if draft.ndim > 1 else 1.0
            draft.copy_(model.experts.base[name].double() + factor * draft.double())


def essential_update(stack: Tensor, grams: list[Tensor], power: float) -> Tensor:
    """Merge one linear layer; see the head of this file.

    gₖ = (eₖ/mean eₖ)^0.15, divided by its mean; aₖ = (‖τₖ‖/mean ‖τ‖)^power; b = (column norms of V/their mean)^power.

    Args:
        stack: Task vectors τ, (K, R, D).
        grams: Gₖ, (D, D) each, fp64.
        power: See `Esm`.

    Returns:
        (R, D), fp64; zero for task vectors that move no output.

    Example:
        >>> stack = torch.tensor([[[2.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]]])
        >>> essential_update(stack, [torch.eye(2).double()] * 2, 2.0).round(decimals=4)
        tensor([[2., 0.],
                [0., 2.]], dtype=torch.float64)
    """
    directions, products = [], []
    norms = stack.double().flatten(1).norm(dim=1)
    for vector, gram, norm in zip(stack.double(), grams, norms, strict=True):
        values, vectors = eigenpairs(vector @ gram @ vector.T)
        most = max(1, stack.shape[1] // len(stack))
        values, vectors = values[:most], vectors[:, :most]
        flat = (values / values.mean()) ** FLATTEN
        flat = flat / flat.mean()
        directions.append(vectors * flat)
        products.append((norm / norms.mean()) ** power * flat[:, None] * (vectors.T @ vector))
    outputs, inputs = torch.cat(directions, 1), torch.cat(products, 0)  # (R, w), (w, D)
    sizes = inputs.norm(dim=0)
    return _flat_polar(outputs) @ _flat_polar(inputs * (sizes / sizes.mean()) ** power)


def scales_of_kinds(norms: Mapping[str, float], power: float) -> dict[str, float]:
    """Compute (norm/mean norm)^power of each layer, the mean over the layers whose names differ in numbers alone.

    Example:
        >>> scales_of_kinds({"layer.0.weight": 1.0, "layer.1.weight": 3.0, "out.weight": 5.0}, 2.0)
        {'layer.0.weight': 0.25, 'layer.1.weight': 2.25, 'out.weight': 1.0}
    """
    kinds: dict[str, list[float]] = {}
    for name, norm in norms.items():
        kinds.setdefault(_kind(name), []).append(norm)
    means = {kind: sum(own) / len(own) for kind, own in kinds.items()}
    return {name: (norm / means[_kind(name)]) ** power if norm else 1.0 for name, norm in norms.items()}


def _kind(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


def _flat_polar(matrix: Tensor) -> Tensor:
    """Return the nearest matrix with orthonormal rows or columns, times the mean of the nonzero singular values."""
    left, sigma, right = thin_svd(matrix)
    return sigma.mean() * left @ right.T if len(sigma) else torch.zeros_like(matrix)
