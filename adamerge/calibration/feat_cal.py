"""FeatCal: refit a finished merge, so that its layers give on its own features what the experts give on theirs.

    W = (Σₖ Wₖ Cₖᵀ/‖Sₖ‖ + r·anchor) (Σₖ Sₖ/‖Sₖ‖ + r·I)⁻¹,   Sₖ = E[x xᵀ],   Cₖ = E[x tᵀ],   t = a·xₖ + (1 − a)·x

per linear layer, with x its input in the merge whose earlier blocks are refitted, and xₖ its input in expert k, both on
task k's rows; anchor = ρ·merge + (1 − ρ)·base. Biases and layer norms are refitted alike. Everything else stays as the
merge has it. Directions that the rows hardly show go to the anchor.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from adamerge.calibration.calibrated_merge import CalibratedMerge, Drafts, check_rows
from adamerge.calibration.gram_matrices import batches_of, inputs_of, run_expert, split_by_room
from adamerge.calibration.merged_prefix import Part, parts_in_order, run_with, widths_of
from adamerge.data.rows import Rows
from adamerge.merging.execution import expert_of
from adamerge.merging.merged_model import MergedModel
from adamerge.storage.weights import Weights
from adamerge.transforms import TASK_ARITHMETIC, Transform
from adamerge.transforms.transform import require
from adamerge.types import ConfigError, check_types


@dataclass(frozen=True)
class FeatCal(CalibratedMerge):
    """Options of FeatCal.

    Attributes:
        after: The merge that is refitted; null takes the base + 0.3 · Σ task vectors.
        rows: Calibration rows per task that are used.
        ridge: Strength r of the pull to the anchor, above 0.
        anchor: ρ, the factor of the merge's own change in the anchor.
        teacher: a, the share of the expert's features in what its layers are asked, from 0 to 1.

    Reference:
        "FeatCal: Feature Calibration for Post-Merging Models" (arXiv 2605.13030), and its code (egangu/featcal), which
        gives all positions but the first little weight in the last block of CLIP; here all positions weigh the same.
    """

    after: CalibratedMerge | Transform | None = None
    rows: int = 256
    ridge: float = 0.05
    anchor: float = 2.0
    teacher: float = 0.3

    def __post_init__(self) -> None:
        """Check that the numbers are in range."""
        check_types(self)
        check_rows(self.rows)
        require(self.ridge > 0, "centre.ridge", "a number above 0", self.ridge)
        require(True, "centre.anchor", "a finite number", self.anchor)
        require(0 <= self.teacher <= 1, "centre.teacher", "a share from 0 to 1", self.teacher)

    @property
    @override
    def refits(self) -> CalibratedMerge | Transform | None:
        """The merge that is refitted."""
        return self.after

    @property
    @override
    def keeps_span(self) -> bool:
        """False: features of the merge and of the experts differ, so that the base's own outputs are refitted too."""
        return False

    @override
    @torch.no_grad()
    def fill(
        self, model: MergedModel, rows: Mapping[str, Rows], size: int, drafts: Drafts, start: Weights | None
    ) -> None:
        """Write the merge, and refit one part of it after another; see `CalibratedMerge.fill`."""
        base = model.experts.base
        for name, draft in drafts.items():
            merged = start[name] if start else base[name] + TASK_ARITHMETIC * model.vectors.stack(name).sum(0)
            draft.copy_(merged)
        for part in parts_in_order(model, rows):
            refitted = dict(self._refitted(model, rows, size, drafts, part))
            for name, value in refitted.items():
                drafts[name].copy_(value)

    def _refitted(
        self, model: MergedModel, rows: Mapping[str, Rows], size: int, drafts: Drafts, part: Part
    ) -> Iterator[tuple[str, Tensor]]:
        """Refit the layers of a part, all on the features of the merge whose earlier parts are refitted."""
        base, norms = model.experts.base, norms_of(model, part)

        def anchor(name: str) -> Tensor:
            start, merged = (value.to(model.vectors.device, torch.float64) for value in (base[name], drafts[name]))
            return start + self.anchor * (merged - start)

        widths = widths_of(model, part) | {name: norm.normalized_shape[-1] for name, norm in norms.items()}
        for names in split_by_room(widths, 2 * len(rows)):
            found = {task: self._features(model, task, own, size, drafts, names, norms) for task, own in rows.items()}
            for name in names:
                keys = [key for key in (name, f"{name.removesuffix('weight')}bias") if key in drafts]
                asked = [
                    Asked(own[name], *(model.experts.weights[task][key].to(own[name].second) for key in keys))
                    for task, own in found.items()
                    if name in own
                ]
                refit = refit_norm if name in norms else refit_linear
                yield from zip(keys, refit(asked, [anchor(key) for key in keys], self.ridge), strict=True)

    def _features(
        self,
        model: MergedModel,
        task: str,
        rows: Rows,
        size: int,
        drafts: Drafts,
        names: Sequence[str],
        norms: Mapping[str, nn.LayerNorm],
    ) -> dict[str, "Features"]:
        """Gather what layers get in the merge and in a task's expert, on the task's rows."""
        student, teacher = run_with(model, task, drafts.__getitem__), run_expert(expert_of(model, task))
        module, found = model.experts.tasks[task].own_module, dict[str, Features]()
        for batch in batches_of(model, task, rows, size):
            own, theirs = (inputs_of(run, module, batch, names) for run in (student, teacher))
            for name in own.keys() & theirs.keys():
                check_paired(task, name, own[name], theirs[name])
                x = normalised(own[name], norms[name]) if name in norms else own[name]
                t = x if name in norms else x + self.teacher * (theirs[name] - x)
                found[name] = found[name].with_more(x, t) if name in found else Features.of(x, t)
        return {name: features.mean() for name, features in found.items()}


class Features(NamedTuple):
    """Moments of a layer's inputs x in the merge, and of what they should be, t.

    Attributes:
        positions: their number, a scalar.
        second: x xᵀ, (D, D).
        cross: x tᵀ, (D, D).
        given: x, (D,).
        wanted: t, (D,).
    """

    positions: Tensor
    second: Tensor
    cross: Tensor
    given: Tensor
    wanted: Tensor

    @classmethod
    def of(cls, x: Tensor, t: Tensor) -> "Features":
        """Sum up positions: x, t (N, D)."""
        return cls(x.new_tensor(len(x)), x.T @ x, x.T @ t, x.sum(0), t.sum(0))

    def with_more(self, x: Tensor, t: Tensor) -> "Features":
        """Add positions."""
        return Features(*map(torch.add, self, Features.of(x, t)))

    def mean(self) -> "Features":
        """Divide the sums by the number of positions."""
        return Features(self.positions, *(total / self.positions.clamp(min=1) for total in self[1:]))


class Asked(NamedTuple):
    """What one expert asks of a layer.

    Attributes:
        features: Means over its rows.
        weight: Its weight.
        bias: Its bias, if the layer has one.
    """

    features: Features
    weight: Tensor
    bias: Tensor | None = None


def refit_linear(asked: Sequence[Asked], anchors: Sequence[Tensor], ridge: float) -> list[Tensor]:
    """Refit weight and bias of a linear layer; see the head of this file.

    b = (Σₖ (bₖ + Wₖ E[t] − W E[x])/‖Sₖ‖ + r·anchor) / (Σₖ 1/‖Sₖ‖ + r).

    Args:
        asked: By each expert whose rows reach the layer with features that are not all zero.
        anchors: Of the weight (R, D), and of the bias (R,) if there is one.
        ridge: r.

    Example:
        >>> x = torch.eye(2).double()
        >>> one = Asked(Features.of(x, x), torch.tensor([[3.0, 0.0]]).double())
        >>> [weight] = refit_linear([one], [torch.zeros(1, 2).double()], 1e-9)
        >>> weight.round(decimals=4)
        tensor([[3., 0.]], dtype=torch.float64)
    """
    asked = [one for one in asked if one.features.second.any()]
    sizes = [one.features.second.norm() for one in asked]
    left = ridge * torch.eye(anchors[0].shape[1], dtype=anchors[0].dtype, device=anchors[0].device)
    right = ridge * anchors[0]
    for one, size in zip(asked, sizes, strict=True):
        left = left + one.features.second / size
        right = right + one.weight @ one.features.cross.T / size
    weight = torch.cholesky_solve(right.T, torch.linalg.cholesky(left)).T
    if len(anchors) == 1:
        return [weight]
    rest, total = ridge * anchors[1], anchors[1].new_tensor(ridge)
    for one, size in zip(asked, sizes, strict=True):
        assert one.bias is not None  # of the same module
        features = one.features
        rest = rest + (one.bias + one.weight @ features.wanted - weight @ features.given) / size
        total = total + 1 / size
    return [weight, rest / total]


def refit_norm(asked: Sequence[Asked], anchors: Sequence[Tensor], ridge: float) -> list[Tensor]:
    """Refit weight γ and bias β of a layer norm, by feature: min Σₖ E[(γz + β − γₖz − βₖ)²] + r ‖(γ, β) − anchor‖².

    Args:
        asked: By each expert; its features x are z, the input with mean 0 and variance 1.
        anchors: Of the weight, and of the bias if there is one, (D,).
        ridge: r.
    """
    count = len(anchors)
    left = ridge * torch.eye(count, dtype=anchors[0].dtype, device=anchors[0].device).expand(len(anchors[0]), -1, -1)
    right = ridge * torch.stack([*anchors], 1)  # (D, 1 or 2)
    for one in asked:
        features = one.features
        energy, mean = features.second.diagonal(), features.given
        rows = [torch.stack([energy, mean], 1), torch.stack([mean, torch.ones_like(mean)], 1)]
        moments = torch.stack(rows, 1)[:, :count, :count]  # (D, 1 or 2, 1 or 2)
        own = [one.weight] if one.bias is None else [one.weight, one.bias]
        left, right = left + moments, right + (moments @ torch.stack(own, 1)[..., None])[..., 0]
    return [*torch.linalg.solve(left, right).T]


def norms_of(model: MergedModel, part: Part) -> dict[str, nn.LayerNorm]:
    """List the layer norms of a part over one dimension, by the names of their weights."""
    module = next(iter(model.experts.tasks.values())).own_module
    found = {f"{path}.weight": norm for path, norm in module.named_modules() if isinstance(norm, nn.LayerNorm)}
    return {
        name: norm
        for name, norm in found.items()
        if name in model.vectors.shapes and part.holds(name) and len(norm.normalized_shape) == 1
    }


def normalised(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Give the inputs of a layer norm the mean 0 and the variance 1: (N, D)."""
    return functional.layer_norm(x, norm.normalized_shape, eps=norm.eps)


def check_paired(task: str, name: str, own: Tensor, theirs: Tensor) -> None:
    """Refuse a layer that gets other positions in the merge than in the expert.

    Raises:
        ConfigError: It does, as the experts of a mixture, among which a router chooses.
    """
    if own.shape != theirs.shape:
        raise ConfigError(
            f"{task}: {name}: expected as many inputs in the merge as in the expert, found {len(own)} and "
            f"{len(theirs)}, as where a router chooses among layers; FeatCal compares them one by one. Choose another "
            "centre (RegMean, Wudi)."
        )
