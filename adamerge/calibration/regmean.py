"""RegMean: the merge whose linear layers answer each task's inputs as nearly as possible like its expert's.

    W = (Σₖ Wₖ G̃ₖ) (Σₖ G̃ₖ)⁻¹,   G̃ₖ = α·Gₖ + (1 − α)·diag(Gₖ),   Gₖ = XₖᵀXₖ / Nₖ

for each linear layer, and the mean of the experts for everything else.
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
        scale: α, what the off-diagonal part of each Gram matrix is multiplied by, from 0 up to 1.
        rows: Calibration rows of a task that are used.

    Reference:
        Jin et al., Dataless Knowledge Fusion by Merging Weights of Language Models, 2023, equation 2 and section 3.
    """

    scale: float = 0.95
    rows: int = 256

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 <= self.scale <= 1:
            raise ConfigError(f"centre.scale: expected a number from 0 to 1, got {self.scale}.")
        if self.rows < 1:
            raise ConfigError(f"centre.rows: expected at least 1, got {self.rows}.")


def regression_mean(weights: list[Tensor], grams: list[Tensor], scale: float) -> Tensor:
    """Closed-form minimiser W of Σₖ tr((W − Wₖ) G̃ₖ (W − Wₖ)ᵀ).

    Args:
        weights: Wₖ, (R, D) each.
        grams: Gₖ, (D, D) each.
        scale: α.

    Returns:
        (R, D), fp64.

    Example:
        >>> one, two = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> regression_mean([one, two], [torch.eye(2), torch.eye(2)], 1.0).tolist()
        [[0.5, 0.5]]
    """
    shrunk = [scale * gram.double() + (1 - scale) * gram.double().diagonal().diag() for gram in grams]
    right = torch.stack([weight.double() @ gram for weight, gram in zip(weights, shrunk, strict=True)]).sum(0)
    left = torch.stack(shrunk).sum(0)
    # Inputs that no row ever switches on leave the system singular; a hair of the mean keeps those columns' means.
    hair = 1e-9 * left.diagonal().mean().clamp_min(1e-30)
    left = left + hair * torch.eye(len(left), dtype=left.dtype, device=left.device)
    right = right + hair * torch.stack([weight.double() for weight in weights]).mean(0)
    return torch.linalg.solve(left, right, left=False)


def kept_regmean(
    model: MergedModel,
    rows: Mapping[str, Rows],
    settings: RegMean,
    file: Path,
    size: int = 32,
    keeper: Keeper | None = None,
) -> Weights:
    """The RegMean merge that a file holds already, or a new one that is written to it, a part of the layers at a time.

    Args:
        model: Experts and the parameters to merge; every expert takes part whose task has rows.
        rows: Calibration rows by task; the first `settings.rows` of each are used. Empty where they are not at hand:
            then what is kept is read, whatever they were.
        settings: Options.
        file: Where the merge is kept.
        size: Rows per forward pass.
        keeper: Keeps it.

    Returns:
        The merged parameters, mapped from the file.

    Raises:
        ConfigError: There are no rows, and nothing is kept that fits.
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
