"""Export of a merge as one PEFT adapter over the base: plain LoRA, complete or absent."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from adamerge.experts.experts import Expert
from adamerge.merging.factor_algebra import Svd
from adamerge.merging.merged_model import MergedModel
from adamerge.merging.rounding import Rounding, check_fits, dtype_on_disk, rounding_of
from adamerge.results.adapter_beside import write_beside_adapters
from adamerge.results.adapter_factors import LowRankChange, NotLowRankError, low_rank_change
from adamerge.results.adapter_layout import PREFIX, Slot, adapter_options, nested, partners, slots_of
from adamerge.results.adapter_notes import notes_of
from adamerge.results.adapter_read_back import compare_with_adapter, peft_version
from adamerge.results.backbone import as_on_disk
from adamerge.results.export import Cards, Exported, check_free
from adamerge.results.surviving import SurvivingShare
from adamerge.results.unchanged import check_unchanged
from adamerge.results.write_checkpoint import checkpoints
from adamerge.storage.atomic_files import whole_folder, write_text
from adamerge.storage.write_safetensors import write_safetensors
from adamerge.types import Coefficients, ConfigError

FILE, CONFIG = "adapter_model.safetensors", "adapter_config.json"

SHOWN = 10
"""Number of modules that a refusal names."""


def export_adapter(
    model: MergedModel,
    coefficients: Coefficients,
    folder: Path,
    *,
    max_rank: int | None = None,
    cards: Cards | None = None,
) -> Exported:
    """Write what a merge changes as factors over the base, load the adapter and compare it with the merge.

    base + left @ right = merged, with the factors of all experts side by side, compressed without loss by QR and the
    SVD of a small matrix. The scale is 1 (lora_alpha = r), and all modules have one rank; factors of a lower rank are
    padded with zeros. If tasks have heads, each has a folder of its own: the same factors, its head in
    `modules_to_save`.

    Args:
        model: The experts and their task vectors.
        coefficients: (G, K).
        folder: Output folder; must not exist.
        max_rank: Largest rank; smaller singular values are cut off, and the error is measured. None keeps all.
        cards: Writes model cards into the folder before it appears.

    Returns:
        The written files, and what there is to say of them.

    Raises:
        ConfigError: The folder exists, files changed since they were opened, a number is too large for the dtype on
            disk, or a change has no factors; names the modules and the reasons.
        RuntimeError: The adapter that is loaded differs from the merge; the folder is removed.
    """
    if model.experts.checkpoint is None or any(one.checkpoint is None for one in model.experts.tasks.values()):
        raise ConfigError(
            "export: expected checkpoints on disk, which an adapter can name as its base, found modules in memory. "
            "Save them first, or export a checkpoint."
        )
    check_free(folder)
    check_unchanged(model.experts)
    found, slots = _changes(model, coefficients, max_rank)
    own = next(iter(model.experts.tasks.values())).own_module
    slots = nested(own, slots)
    rank = max((change.rank for change in found.values()), default=1)
    written = {name: round_factors(model.rounding, name, change) for name, change in found.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as part:
        places = checkpoints(model.experts, part)
        for task, place in places.items():
            if not (place / FILE).exists():  # tasks without a head share one
                _write(model, model.experts.tasks[task], place, _tensors(own, slots, written, rank), rank, slots)
        beside = write_beside_adapters(model, coefficients, part, places)
        share, dense = _compare(model, coefficients, found, written, places)
        check_unchanged(model.experts)
        weights = sum((place / FILE).stat().st_size for place in dict.fromkeys(places.values()))
        size = sum(file.stat().st_size for file in part.rglob("*") if file.is_file())
        if cards:
            cards(part, share.found())
    exported = Exported(folder, checkpoints(model.experts, folder), size, share.found())
    notes = notes_of(
        found, rank, max_rank, model.rounding, weights, peft_version(), dense.found(), list(slots.values())
    )
    if not any(change.norm for change in found.values()):
        notes = [*notes, "note: no expert has weight, so the adapter changes nothing: the merge is the base"]
    return replace(exported, notes=(*notes, *beside), truncation=_truncation(found))


def _changes(
    model: MergedModel, coefficients: Coefficients, max_rank: int | None
) -> tuple[dict[str, LowRankChange], dict[str, Slot]]:
    """Find the factors of every parameter that the merge changes, and their places."""
    own = next(iter(model.experts.tasks.values())).own_module
    found: dict[str, LowRankChange] = {}
    slots: dict[str, Slot] = {}
    problems: list[str] = []
    places = slots_of(own, model.vectors.shapes)
    for name in model.vectors.shapes:
        try:
            change = low_rank_change(model, coefficients, name, max_rank)
        except NotLowRankError as error:
            problems.append(f"{name}: {error}")
            continue
        slot = places[name] if change else None
        if isinstance(slot, str):
            problems.append(f"{name}: {slot}")
        elif change and slot:
            found[name], slots[name] = change, slot
    if problems:
        raise ConfigError(_refusal(problems))
    return (found, slots) if found else _nothing(model)


def _nothing(model: MergedModel) -> tuple[dict[str, LowRankChange], dict[str, Slot]]:
    """Find a place for factors of zeros, where no expert has weight: PEFT reads no adapter without any."""
    own = next(iter(model.experts.tasks.values())).own_module
    for name, slot in slots_of(own, model.vectors.shapes).items():
        if isinstance(slot, Slot) and slot.kind is not nn.Module:
            rows, shape = slot.shape[0], slot.shape
            svd = Svd(
                torch.zeros(rows, 1).double(), torch.zeros(1).double(), torch.zeros(shape.numel() // rows, 1).double()
            )
            return {name: LowRankChange((svd,), 0.0)}, {name: slot}
    raise ConfigError(
        "export: adapter: expected a merge that changes the base, found one in which no expert has weight, and no "
        "layer that LoRA has factors for. The merge is the base itself."
    )


def _refusal(problems: list[str]) -> str:
    more = [f"… and {len(problems) - SHOWN} more parameters"] if len(problems) > SHOWN else []
    reasons = "\n".join([*problems[:SHOWN], *more])
    return (
        "export: adapter: expected changes that are products of low-rank factors, for which PEFT has places, "
        f"found others:\n{reasons}\nExport a complete checkpoint (export: checkpoint; of a finished run "
        "adamerge export --run … --out … --adapter false), or merge adapters alone, plainly or by Isotropic, Wudi, "
        "Swudi, Aswudi, ActMat, DcMerge, TaskSingularVectors or RegMean."
    )


def round_factors(rounding: Rounding, name: str, change: LowRankChange) -> tuple[Tensor, Tensor]:
    """Round both factors to the dtype on disk, each with random numbers of its own if at random."""
    dtype = rounding.heads or torch.float32
    keys = {f"{name} {side}": factor for side, factor in zip(("left", "right"), change.factors(), strict=True)}
    left, right = (replace(rounding, dtypes={key: dtype})(key, factor) for key, factor in keys.items())
    for (key, exact), rounded in zip(keys.items(), (left, right), strict=True):
        check_fits(f"factor {key}", exact, rounded)
    return left, right


def _tensors(
    own: nn.Module, slots: Mapping[str, Slot], written: Mapping[str, tuple[Tensor, Tensor]], rank: int
) -> dict[str, Tensor]:
    """Lay all factors out by name in the file, padded with zeros to one rank."""
    tensors = partners(own, slots, rank)
    for name, (left, right) in written.items():
        missing = rank - right.shape[-2]
        padded = (
            torch.nn.functional.pad(left, (0, missing)),
            torch.nn.functional.pad(right, (0, 0, 0, missing)),
        )
        tensors |= slots[name].tensors(*padded)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _write(
    model: MergedModel,
    expert: Expert,
    folder: Path,
    factors: Mapping[str, Tensor],
    rank: int,
    slots: Mapping[str, Slot],
) -> None:
    """Write one folder: factors, head and options."""
    assert model.experts.checkpoint is not None
    folder.mkdir(exist_ok=True)
    head = {name: expert.weights[name] for name in expert.whole_head}
    tensors = {PREFIX + name: tensor for name, tensor in as_on_disk(head, model.rounding.heads).items()}
    write_safetensors(folder / FILE, {**factors, **tensors}, {"format": "pt"})
    options = adapter_options(model.experts.checkpoint, expert, rank, list(slots.values()))
    write_text(folder / CONFIG, json.dumps(options, indent=2) + "\n")


def _compare(
    model: MergedModel,
    coefficients: Coefficients,
    found: Mapping[str, LowRankChange],
    written: Mapping[str, tuple[Tensor, Tensor]],
    places: Mapping[str, Path],
) -> tuple[SurvivingShare, SurvivingShare]:
    """Compare what was written with the dense merge, and measure what rounding left of it.

    Returns:
        Surviving shares of the adapter, of what truncation left, and of a checkpoint in the dtype of base and experts.
    """
    base, heads = model.experts.base, model.rounding.heads
    own = model.written_in(heads or torch.float32)
    dense = model.written_in(heads) if heads else _dense(model)
    shares = SurvivingShare(own, coefficients), SurvivingShare(dense, coefficients)
    for name in model.vectors.shapes:
        merged = _merged(model, coefficients, name)
        change = base[name].double()
        if name in written:
            left, right = (factor.double() for factor in written[name])
            change = change + (left @ right).view(change.shape)
        gap, allowed = (change - merged).norm().item(), _tolerance(own.rounding, found.get(name))
        if not gap <= allowed + 1e-6 * merged.norm().item():
            raise RuntimeError(f"{name}: the factors differ from the merge by {gap:.2e}. Please report this.")
        kept = _truncated(base[name].double(), merged, found.get(name))
        pairs = [change, kept], [dense.rounding(name, merged), merged]
        groups = own.grouping.rows[name]
        for share, pair in zip(shares, pairs, strict=True):
            if share.counts(name):
                share.add(name, own.vectors.products_exactly(name, pair, len(groups) > 1), groups)
    if peft_version():
        for place in dict.fromkeys(places.values()):
            task = next(task for task, own_place in places.items() if own_place == place)
            expert = model.experts.tasks[task]
            assert model.experts.checkpoint is not None
            compare_with_adapter(
                expert,
                model.experts.checkpoint,
                place,
                lambda expert=expert: _expected(model, own.rounding, coefficients, expert, found),
            )
    return shares


def _truncated(base: Tensor, merged: Tensor, change: LowRankChange | None) -> Tensor:
    """Return what is rounded: the merge, or, where singular values were cut off, base + left @ right."""
    if change is None or not change.dropped:
        return merged
    left, right = change.factors()
    return base + (left @ right).view(base.shape)


def _dense(model: MergedModel) -> MergedModel:
    rounding = rounding_of(model.experts, mode=model.rounding.mode, seed=model.rounding.seed)
    return MergedModel(model.experts, model.vectors, model.grouping, rounding)


def _merged(model: MergedModel, coefficients: Coefficients, name: str) -> Tensor:
    return model.vectors.combine_exactly(name, coefficients, model.grouping.rows[name])


def _expected(
    model: MergedModel,
    rounding: Rounding,
    coefficients: Coefficients,
    expert: Expert,
    found: Mapping[str, LowRankChange],
) -> Iterator[tuple[str, Tensor, float]]:
    """List every parameter of a task's merged model and the norm by which the adapter's may differ."""
    for name in model.experts.backbone:
        merged = _merged(model, coefficients, name) if name in model.vectors.shapes else model.experts.base[name]
        yield name, merged, _tolerance(rounding, found.get(name))
    for name in expert.whole_head:
        value = expert.weights[name]
        yield name, value.to(dtype_on_disk(value.dtype, model.rounding.heads)), 0.0


def _tolerance(rounding: Rounding, change: LowRankChange | None) -> float:
    """Bound the norm of what truncation cut off and of what rounding of both factors changed."""
    if change is None:
        return 0.0
    step = torch.finfo(rounding.heads or torch.float32).eps
    return change.dropped + 2 * step * change.kept


def _truncation(found: Mapping[str, LowRankChange]) -> dict[str, float]:
    """List the relative truncation error by parameter, of those that were truncated."""
    return {name: change.dropped / change.norm for name, change in found.items() if change.dropped}
