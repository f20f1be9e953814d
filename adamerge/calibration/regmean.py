"""RegMean: merge linear layers so that their outputs on each task's inputs are closest to its expert's outputs.

    W = W̄ + (Σₖ (Wₖ − W̄) G̃ₖ) (Σₖ G̃ₖ)⁺,   G̃ₖ = α·Gₖ + (1 − α)·diag(Gₖ),   Gₖ = XₖᵀXₖ / Nₖ

per linear layer, and the mean W̄ of the experts for all other parameters. Where Σₖ G̃ₖ is well conditioned this is the
published (Σₖ Wₖ G̃ₖ) (Σₖ G̃ₖ)⁻¹. Directions of the inputs that the rows hardly show (a layer sees fewer positions than it
is wide) would let it grow without bound; they keep the mean.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from adamerge.calibration.calibrated_merge import CalibratedMerge, Drafts, check_rows
from adamerge.calibration.gram_matrices import Grams, Run, grams_of, grams_of_experts, split_by_room
from adamerge.calibration.merged_prefix import Part, parts_in_order, prefix_weights, run_with, widths_of
from adamerge.data.rows import Rows
from adamerge.merging.merged_model import MergedModel
from adamerge.storage.weights import Weights
from adamerge.types import ConfigError, check_types

RIDGE = 1e-3
"""Share of the inputs' mean square that is added in a solve; directions of less variance keep the experts' mean. On the
eight text classifiers with 8 rows per task and α = 1, agreement is 81.5 % without it, 90 % with it (1e-4 to 1e-2
alike), and 88.1 % for the mean."""

SOLVES = 4
"""Solves with that ridge, each of the rest of the one before: well conditioned directions lose h⁴ instead of h."""


@dataclass(frozen=True)
class RegMean(CalibratedMerge):
    """Options of RegMean and RegMean++.

    Attributes:
        scale: Factor α of the off-diagonal part of each Gram matrix, from 0 to 1.
        rows: Calibration rows per task that are used.
        inputs: What the inputs of an expert's block of layers come from: the expert itself (RegMean, experts), or the
            blocks before it as they are merged (RegMean++, merged), which takes a pass to each block.

    Reference:
        Jin et al., Dataless Knowledge Fusion by Merging Weights of Language Models, 2023, equation 2 and section 3;
        for merged inputs arXiv 2508.03121 (RegMean++).
    """

    scale: float = 0.95
    rows: int = 256
    inputs: Literal["experts", "merged"] = "experts"

    def __post_init__(self) -> None:
        """Check that the numbers are in range."""
        check_types(self)
        if not 0 <= self.scale <= 1:
            raise ConfigError(f"centre.scale: expected a number from 0 to 1, found {self.scale}.")
        check_rows(self.rows)

    @override
    def fill(
        self, model: MergedModel, rows: Mapping[str, Rows], size: int, drafts: Drafts, start: Weights | None
    ) -> None:
        """Write the mean of the experts, and then the linear layers; see `CalibratedMerge.fill`."""
        weights = {task: model.experts.weights[task] for task in rows}
        for name, draft in drafts.items():
            draft.copy_(torch.stack([own[name].double() for own in weights.values()]).mean(0))
        merged = self.inputs == "merged"
        parts = grams_of_prefix(model, rows, size, drafts) if merged else grams_of_experts(model, rows, size)
        for grams in parts:
            for name, own in grams.items():
                matrices = [weight[name].to(own[0].device) for weight in weights.values()]
                drafts[name].copy_(regression_mean(matrices, own, self.scale))


def regression_mean(weights: list[Tensor], grams: list[Tensor], scale: float) -> Tensor:
    """Compute the matrix W that minimises Σₖ tr((W − Wₖ) G̃ₖ (W − Wₖ)ᵀ).

    Args:
        weights: Wₖ, (R, D) each.
        grams: Gₖ, (D, D) each.
        scale: α.

    Returns:
        W, (R, D), fp64.

    Example:
        >>> one, two = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> regression_mean([one, two], [torch.eye(2), torch.eye(2)], 1.0).tolist()
        [[0.5, 0.5]]
    """
    mean = torch.stack([weight.double() for weight in weights]).mean(0)  # W̄
    left = torch.zeros_like(grams[0], dtype=torch.float64)
    right = torch.zeros_like(mean)
    for weight, gram in zip(weights, grams, strict=True):
        shrunk = scale * gram.double() + (1 - scale) * gram.double().diagonal().diag()  # G̃ₖ
        left += shrunk
        right += (weight.double() - mean) @ shrunk
    return mean + damped_solve(left, right)


def damped_solve(left: Tensor, right: Tensor, ridge: float = RIDGE, solves: int = SOLVES) -> Tensor:
    """Solve X A = B, without the directions in which A is nearly singular, by iterated Tikhonov regularisation.

    X ← X + (B − X A)(A + h·I)⁻¹ from 0, h = ridge · (meanᵢ √Aᵢᵢ)², a mean that a few large channels do not decide. An
    eigenvalue λ of A is inverted as (1 − (h/(λ + h))^solves)/λ: as 1/λ where λ ≫ h, and bounded by solves/h.

    Args:
        left: A, (D, D), symmetric, positive semidefinite, fp64.
        right: B, (R, D), fp64.
        ridge: See above.
        solves: Number of solves; one factorisation serves all.

    Returns:
        X, (R, D); 0 for A = 0.

    Reference:
        Engl, Hanke, Neubauer, Regularization of Inverse Problems, 1996, section 5.1.

    Example:
        >>> A, B = torch.tensor([[2.0, 0.0], [0.0, 0.0]]).double(), torch.tensor([[1.0, 0.0]]).double()
        >>> damped_solve(A, B).round(decimals=6)
        tensor([[0.5000, 0.0000]], dtype=torch.float64)
    """
    found = torch.zeros_like(right)
    damping = ridge * left.diagonal().sqrt().mean().square()
    if damping == 0:
        return found
    factor = torch.linalg.cholesky(left + damping * torch.eye(len(left), dtype=left.dtype, device=left.device))
    for _ in range(solves):
        found = found + torch.cholesky_solve((right - found @ left).mT, factor).mT
    return found


def grams_of_prefix(model: MergedModel, rows: Mapping[str, Rows], size: int, merged: Drafts) -> Iterator[Grams]:
    """Compute the Gram matrices of every linear layer, each expert's block on what the merged blocks before pass on.

    Args:
        model: Runs the experts.
        rows: Calibration rows of the tasks that have rows.
        size: Rows per forward pass.
        merged: Parameters of the merge; the layers that were yielded are to be written before the next ones are asked
            for.

    Yields:
        The Gram matrices of one block, or of one part of a wide one.
    """
    parts = parts_in_order(model, rows)
    for number, part in enumerate(parts):
        runner = partial(_run_prefix, model, merged, parts[number:])
        for names in split_by_room(widths_of(model, part), len(rows)):
            yield grams_of(model, rows, names, size, runner)


def _run_prefix(model: MergedModel, merged: Drafts, rest: Sequence[Part], task: str) -> Run:
    return run_with(model, task, prefix_weights(model, task, merged, rest))
