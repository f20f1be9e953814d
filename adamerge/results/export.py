"""Export of the merged checkpoint: ordinary Hugging Face files, complete or absent."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import torch

from adamerge.experts.experts import Experts
from adamerge.merging.merged_model import MergedModel
from adamerge.results.backbone import as_on_disk, usual_dtype
from adamerge.results.read_back import compare_with_files
from adamerge.results.readable_config import make_readable
from adamerge.results.surviving import Surviving, SurvivingShare
from adamerge.results.unchanged import check_unchanged
from adamerge.results.whose_files import plan_of
from adamerge.results.write_backbone import key_of, layout_of, write_backbone
from adamerge.results.write_beside import write_beside, write_config, write_module_weights
from adamerge.results.write_checkpoint import checkpoints, rest_of_base, write_task
from adamerge.storage.regular_files import nearest
from adamerge.storage.resumable import resumable_folder
from adamerge.types import Coefficients, ConfigError

SHARD_BYTES = 50 * 10**9
"""Maximum size of one file, as in transformers: what is saved in place then has the same files, and none is left."""


Cards: TypeAlias = Callable[[Path, Surviving], None]
"""Writes model cards into an exported folder, which say what of the merge survived rounding."""


@dataclass(frozen=True)
class Exported:
    """The written files.

    Attributes:
        folder: The merged checkpoint; it loads as the base's own class.
        checkpoints: Folder of each task's model: the folder itself, or a subfolder if the task has a head or other
            files of its own.
        bytes: Size on disk; a file that is linked into several folders counts once.
        surviving: Share of what was merged in that rounding left.
        notes: What else there is to say, line by line.
        truncation: Relative truncation error by parameter, of an adapter whose rank was limited.
    """

    folder: Path
    checkpoints: dict[str, Path]
    bytes: int
    surviving: Surviving
    notes: tuple[str, ...] = ()
    truncation: Mapping[str, float] = field(default_factory=dict[str, float])


def export(
    model: MergedModel,
    coefficients: Coefficients,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
    links: bool = True,
    cards: Cards | None = None,
) -> Exported:
    """Merge in fp64, one parameter at a time, write the checkpoint, read it back and compare.

    merged[p] = centre[p] + Σₖ cₖ[group of p] · (expertₖ[p] − centre[p]).

    `folder` contains the base with its shared parameters merged; the base's own head is unchanged. A task with its own
    head, or whose tokenizer, templates or other files differ, gets a subfolder with its own files and the weights of
    its model. Every folder has one file of weights where `shard_bytes` allows it, so that `save_pretrained` in place
    leaves nothing of it. Files that hold the backbone alone are hard links (copies if links fail).

    An export of the same to the same folder that was interrupted goes on: its merged tensors are kept, if their bytes
    are still those that it noted.

    Args:
        model: The experts and their task vectors.
        coefficients: (G, K).
        folder: Output folder; must not exist.
        dtype: Dtype on disk; by default that of the model's rounding.
        shard_bytes: Maximum size of one file.
        links: Whether folders of tasks may share files by hard links; then a file that is edited in place changes in
            all of them.
        cards: Writes model cards into the folder before it appears.

    Returns:
        The written files.

    Raises:
        ConfigError: The folder exists, base and experts are not checkpoints on disk, or their files changed since they
            were opened.
        RuntimeError: The file read back differs from the merge; the folder is removed.
    """
    base = model.experts.checkpoint
    if base is None:
        raise ConfigError("export: expected checkpoints on disk, found modules in memory. Use export_modules instead.")
    check_free(folder)
    check_unchanged(model.experts)
    model = model.written_in(dtype)
    surviving, heads = SurvivingShare(model, coefficients), model.rounding.heads
    layout = layout_of(model, as_on_disk(rest_of_base(model.experts), heads), shard_bytes)
    with resumable_folder(folder, key_of(model, coefficients, layout)) as begun:
        part = begun.files
        backbone = write_backbone(model, coefficients, layout, begun, surviving)
        plan, usual = plan_of(model.experts), str(usual_dtype(model.experts, model.rounding.dtypes))
        usual = usual.removeprefix("torch.")
        write_config(base, {**plan.root.token_ids, **plan.settings}, part, usual)
        write_beside(plan.root, part)
        left = write_module_weights(plan.weights, model, coefficients, part)
        for task in plan.tasks:
            write_task(model.experts.tasks[task], base, part, backbone, plan, heads, usual, links=links)
        notes = (*backbone.notes, *_make_readable(model.experts, part))
        compare_with_files(model, backbone.checksums, part)
        check_unchanged(model.experts)
        size = sum({f.stat().st_ino: f.stat().st_size for f in part.rglob("*") if f.is_file()}.values())
        survived = replace(surviving.found(), modules=left)
        if cards:
            cards(part, survived)
    return Exported(folder, checkpoints(model.experts, folder), size, survived, notes)


def _make_readable(experts: Experts, folder: Path) -> tuple[str, ...]:
    """Complete the configuration files of all checkpoints of an export."""
    places = checkpoints(experts, folder)
    language = {place for task, place in places.items() if experts.tasks[task].kind.language_model}
    language |= {folder} if language else set[Path]()
    labels = {folder: "the merged checkpoint", **{place: task for task, place in places.items() if place != folder}}
    notes = [
        note for place, label in labels.items() for note in make_readable(place, label, generates=place in language)
    ]
    return tuple(notes)


def check_free(folder: Path) -> None:
    """Refuse an output folder that exists, or cannot be made below what exists.

    Raises:
        ConfigError: It exists, or lies below a file.
    """
    if os.path.lexists(folder):
        raise ConfigError(f"{folder}: exists already; choose another folder for the merged checkpoint.")
    above = nearest(folder.absolute())
    if not above.is_dir():
        raise ConfigError(f"{folder}: lies below {above}, which is no folder; choose another folder.")
