"""RegMean: merge linear layers so that their outputs on each task's inputs are closest to its expert's outputs.

    W = (Σₖ Wₖ G̃ₖ) (Σₖ G̃ₖ)⁻¹,   G̃ₖ = α·Gₖ + (1 − α)·diag(Gₖ),   Gₖ = XₖᵀXₖ / Nₖ

per linear layer, and the mean of the experts for all other parameters.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from adamerge.calibration.cache_keys import digest_of_experts, key_of
from adamerge.calibration.gram_matrices import grams_of_experts, linear_layers
from adamerge.data.rows import Rows, first_rows
from adamerge.merging.merged_model import MergedModel
from adamerge.storage.atomic_files import SafetensorsWriter
from adamerge.storage.kept import Keeper
from adamerge.storage.weights import Header, MappedFiles, Weights
from adamerge.types import ConfigError


@dataclass(frozen=True)
class RegMean:
    """Options of RegMean.

    Attributes:
        scale: Factor α of the off-diagonal part of each Gram matrix, from 0 to 1.
        rows: Calibration rows per task that are used.

    Reference:
        Jin et al., Dataless Knowledge Fusion by Merging Weights of Language Models, 2023, equation 2 and section 3.
    """

    scale: float = 0.95
    rows: int = 256

    def __post_init__(self) -> None:
        """Check that the numbers are in range."""
        if not 0 <= self.scale <= 1:
            raise ConfigError(f"centre.scale: expected a number from 0 to 1, found {self.scale}.")
        if self.rows < 1:
            raise ConfigError(f"centre.rows: expected at least 1, found {self.rows}.")


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
    shrunk = [scale * gram.double() + (1 - scale) * gram.double().diagonal().diag() for gram in grams]
    right = torch.stack([weight.double() @ gram for weight, gram in zip(weights, shrunk, strict=True)]).sum(0)
    left = torch.stack(shrunk).sum(0)
    # Inputs that are zero on all rows make the system singular; a small ridge gives those columns the experts' mean.
    ridge = 1e-9 * left.diagonal().mean().clamp_min(1e-30)
    left = left + ridge * torch.eye(len(left), dtype=left.dtype, device=left.device)
    right = right + ridge * torch.stack([weight.double() for weight in weights]).mean(0)
    return torch.linalg.solve(left, right, left=False)


def kept_regmean(
    model: MergedModel,
    rows: Mapping[str, Rows],
    settings: RegMean,
    file: Path,
    size: int = 32,
    keeper: Keeper | None = None,
) -> Weights:
    """Read the RegMean merge from a file, or compute it, some layers at a time, and write the file.

    Args:
        model: Experts and the parameters to merge; experts whose tasks have rows are merged.
        rows: Calibration rows per task; the first `settings.rows` of each are used. Empty if they are not available:
            then the stored merge is read without comparing its rows.
        settings: Options.
        file: File of the stored merge.
        size: Rows per forward pass.
        keeper: Stores the merge under its cache key.

    Returns:
        The merged parameters, mapped from the file.

    Raises:
        ConfigError: There are no rows, and no stored merge has the same key.
    """
    rows = first_rows(rows, settings.rows)
    what = [asdict(settings), list(model.vectors.shapes), str(model.vectors.dtype)]
    key = key_of(digest_of_experts(model.experts), rows, what, size)
    make = partial(_write, model, rows, settings, size) if rows else None
    return (keeper or Keeper())(file, key, make, lambda path: MappedFiles([path]))


def _write(model: MergedModel, rows: Mapping[str, Rows], settings: RegMean, size: int, file: Path) -> None:
    vectors = model.vectors
    headers = {name: Header(shape, vectors.dtype) for name, shape in vectors.shapes.items()}
    with SafetensorsWriter(file, headers, {"format": "pt"}) as writer:
        for name, tensor in _merged(model, rows, settings, size):
            writer.write(name, tensor.to(vectors.dtype))


def _merged(model: MergedModel, rows: Mapping[str, Rows], settings: RegMean, size: int) -> Iterator[tuple[str, Tensor]]:
    weights = {task: model.experts.weights[task] for task in rows}
    layers = linear_layers(model)
    for name in model.vectors.shapes:
        if name not in layers:
            yield name, torch.stack([own[name].double() for own in weights.values()]).mean(0)
    for grams in grams_of_experts(model, rows, size):
        for name, own in grams.items():
            matrices = [weight[name].to(own[0].device) for weight in weights.values()]
            yield name, regression_mean(matrices, own, settings.scale)
