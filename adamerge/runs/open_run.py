"""Open a finished run to export or measure its merged model, without learning again."""

import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from adamerge.calibration.agreement import HeldOut
from adamerge.experts.experts import Experts
from adamerge.learning.keep_best import criterion
from adamerge.learning.learn import divide, goals_of
from adamerge.merging.coefficients import Table, load_coefficients
from adamerge.merging.merged_model import MergedModel
from adamerge.merging.rounding import RoundingMode
from adamerge.results.adapter_agreement import agreement_lines
from adamerge.results.adapter_settings import AdapterExport, adapter_of
from adamerge.results.compare import compare
from adamerge.results.export_as import export_as
from adamerge.results.report import comparison_table
from adamerge.runs.begun_run import check_unedited
from adamerge.runs.build_model import answers_to, build_model
from adamerge.runs.cards import cards_of
from adamerge.runs.components import COMPONENT
from adamerge.runs.config import MergeConfig
from adamerge.runs.export_choice import as_exported
from adamerge.runs.exported_files import check_as_written
from adamerge.runs.finished import files_of_export
from adamerge.runs.held_out import held_out_of
from adamerge.runs.inputs import changed_rows, check_coefficients
from adamerge.runs.load_rows import Data, export_notes, load_data
from adamerge.runs.model_config import source_of
from adamerge.runs.precision import in_bf16
from adamerge.runs.read_yaml import read_yaml_file
from adamerge.runs.run_directory import RunDirectory, keeper_for, use_run
from adamerge.runs.settle_rows import settle_rows
from adamerge.runs.sources import told_where
from adamerge.runs.unchanged_sources import open_unchanged
from adamerge.storage.atomic_files import write_text
from adamerge.storage.kept import Keeper
from adamerge.storage.own_files import EVERY, own_json
from adamerge.storage.signals import told_when_written
from adamerge.types import ConfigError

_AGAIN = "measured_again"
"""Key of metrics.json with the note on a later measurement that is not of the run's own files."""


def export_again(
    config: MergeConfig,
    run: Path,
    out: Path,
    out_dtype: str | None,
    rounding: RoundingMode | None,
    console: Console,
    *,
    links: bool = True,
) -> None:
    """Write the merged checkpoint of a finished run to another folder.

    Args:
        config: Configuration of the run.
        run: Run directory.
        out: Folder to write; must not exist.
        out_dtype: dtype of the checkpoint; None takes the run's.
        rounding: How its numbers are rounded; None takes the run's.
        console: Prints the path per task.
        links: Whether folders of tasks may share files by hard links.

    Raises:
        ConfigError: The run is not finished, `out` exists, another process uses the run directory, or base, experts,
            tokenizers, processors or coefficients are not those of the run.
    """
    place, keeper = _finished(RunDirectory(run)), keeper_for(console, accept_unkeyed=True)
    with told_when_written(out), use_run(place, "adamerge export", console), _told_where(place):
        model, learned = _reopen(config, place, keeper, console)
        model = model.written_in(getattr(torch, out_dtype) if out_dtype else None, rounding)
        adapter = adapter_of(config.export)
        cards = cards_of(place.recipe, model.rounding.mode, changed=bool(out_dtype or rounding or adapter))
        size = config.shard_bytes
        done = export_as(adapter, model, learned.coefficients, out, shard_bytes=size, links=links, cards=cards)
        lines = [*export_notes(model.experts), *done.notes, *done.surviving.lines(model.rounding.mode)]
        if adapter and done.truncation:
            data = _rows(config, model)
            lines += _row_notes(config, data, _record(place))
            held_out = _held_out(config, model, place, keeper, data)
            lines += agreement_lines(model, learned.coefficients, held_out, done)
    for line in lines:
        _print(console, line)
    for task, folder in done.checkpoints.items():
        _print(console, f"{task}: {folder}")


def evaluate_again(config: MergeConfig, run: Path, console: Console) -> None:
    """Measure a finished run on its evaluation rows, print the table and update metrics.json.

    Args:
        config: Configuration of the run.
        run: Run directory.
        console: Prints the table.

    Raises:
        ConfigError: The run is not finished, has no evaluation rows, is used by another process, or base, experts,
            tokenizers, processors, coefficients or the files of merged/ are not those of the run.
    """
    place = _finished(RunDirectory(run))
    with use_run(place, "adamerge evaluate", console), _told_where(place):
        _evaluate(config, place, keeper_for(console, accept_unkeyed=True), console)


def _told_where(run: RunDirectory) -> AbstractContextManager[None]:
    return told_where(read_yaml_file(run.config).content, run.config, "Write into the file where it is now.")


def _evaluate(config: MergeConfig, place: RunDirectory, keeper: Keeper, console: Console) -> None:
    kept = read_metrics(place.metrics)
    _check_merged(place)
    model, learned = _reopen(config, place, keeper, console)
    data = _rows(config, model)
    if not data.evaluation:
        raise ConfigError(
            f"{place.config}: expected evaluation rows of at least one model, found none; set the key evaluation of a "
            "model."
        )
    names = tuple(model.vectors.shapes)
    held_out = _held_out(config, model, place, keeper, data)
    written = place.merged if place.merged.exists() else None
    by = criterion(config.watch.monitor)
    comparison = compare(model, names, data.evaluation, held_out, learned.coefficients, console, written, by)
    notes = [*_notes(place), *_row_notes(config, data, _record(place))]
    for line in notes:
        _print(console, line)
    console.print(comparison_table(comparison))
    found = {**kept, **comparison.as_json(), _AGAIN: notes}
    found = {key: value for key, value in found.items() if key != _AGAIN or value}
    write_text(place.metrics, json.dumps(found, indent=2, allow_nan=False) + "\n")


def _check_merged(run: RunDirectory) -> None:
    """Refuse a merged/ that is not the run's: its scores would be written as those of what was learned.

    Raises:
        ConfigError: Its files are not those that the recipe names.
    """
    known = files_of_export(run)
    if known and run.merged.exists():
        check_as_written(
            known,
            run.merged,
            "Restore them, or move the folder away: then the merge is measured in memory. The run's is written again "
            f"by adamerge export {run.path} FOLDER.",
        )


def read_metrics(file: Path) -> dict[str, object]:
    """Read what a run measured, before anything is measured again."""
    way = "Delete it: evaluate then writes the scores alone, without the history of learning."
    return own_json(file, "the measurements of a run", way, {EVERY: object}) if os.path.lexists(file) else {}


def chosen(
    config: MergeConfig, adapter: bool | None, max_rank: int | None, max_shard_size: int | str | None = None
) -> MergeConfig:
    """Change what a finished run is exported as.

    Args:
        config: Configuration of the run.
        adapter: Whether to write an adapter; None keeps what the run has.
        max_rank: Largest rank of the adapter; None keeps what the run has.
        max_shard_size: Largest size of one file of a complete checkpoint; None keeps what the run has.

    Raises:
        ConfigError: A rank is given for a checkpoint, or a size of files for an adapter.
    """
    kind = {None: config.export, True: "adapter", False: "checkpoint"}[adapter]
    kept = adapter_of(config.export)
    if adapter_of(kind) is None:
        if max_rank is not None:
            raise ConfigError("max_rank: expected an adapter, found a complete checkpoint. Add --adapter.")
        size = config.max_shard_size if max_shard_size is None else max_shard_size
        return replace(config, export="checkpoint", max_shard_size=size)
    if max_shard_size is not None:
        raise ConfigError(
            "max_shard_size: expected a complete checkpoint, found an adapter, which is one file. Remove it, or add "
            "--adapter false."
        )
    written = AdapterExport(max_rank) if max_rank is not None else kept or AdapterExport()
    return replace(config, export=written, max_shard_size=None)


def _rows(config: MergeConfig, model: MergedModel) -> Data:
    return settle_rows(load_data(config, model.experts), model.experts, config.data, model)


def _held_out(config: MergeConfig, model: MergedModel, run: RunDirectory, keeper: Keeper, data: Data) -> HeldOut:
    """Divide the rows as the run did, and find the experts' predictions on those that were held out."""
    rows = answers_to(config, model.experts, tuple(model.vectors.shapes), data.calibration, run.answers, keeper)
    parts = replace(divide(rows, config.data, config.seed_everything), learn={})
    kept = run.targets if run.targets.exists() else None
    size, bf16 = config.data.micro_batch, in_bf16(config)
    return held_out_of(config, model, parts, goals_of(model, config.objective, parts, size, kept, keeper, bf16=bf16))


def _row_notes(config: MergeConfig, data: Data, record: Path) -> Iterator[str]:
    """Say which rows are not those of the run, and what is measured on them.

    Args:
        config: Configuration of the run.
        data: Rows as they are now.
        record: File of the run's inputs.
    """
    pools = {model.name: model for model in config.pools}
    for task, purpose in changed_rows(record, data):
        source = getattr(pools[task], purpose)
        rows = f"note: {task}: the {purpose} rows are not those of the run ({source_of(source).path}): "
        if purpose == "evaluation":
            yield f"{rows}its scores are those on the rows as they are now."
        else:
            yield (
                f"{rows}the coefficients were learned from the former ones. Agreement and divergence are those on rows "
                "held out of the ones as they are now, some of which the run may have learned from."
            )


def _notes(run: RunDirectory) -> Iterator[str]:
    """Say what was measured, where it is not what the run measured."""
    if not run.merged.exists():
        yield f"note: there is no {run.merged}, so the merge was measured in memory, rounded as it would be written."
    elif not files_of_export(run):
        yield f"note: {run.recipe.name} has no hashes of {run.merged}: whether it is as the run wrote it is unknown."


def _record(run: RunDirectory) -> Path:
    """Return the file that holds the hashes of the run's inputs."""
    return run.inputs if run.inputs.exists() else run.recipe


def _print(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _finished(run: RunDirectory) -> RunDirectory:
    """Refuse a run that has not learned its coefficients, before anything is touched."""
    if not run.coefficients.exists():
        raise ConfigError(
            f"{run.path}: this run is not finished (no {run.coefficients.name} in it). Resume it with: "
            f"adamerge fit --config {run.config} --ckpt_path last"
        )
    return run


def _reopen(config: MergeConfig, run: RunDirectory, keeper: Keeper, console: Console) -> tuple[MergedModel, Table]:
    check_unedited(run)
    if note := check_coefficients(run):
        _print(console, note)
    learned, experts = load_coefficients(run.coefficients), open_unchanged(config, _record(run))
    config = as_exported(config, learned)
    _check_table(learned, config, experts, run)
    model = build_model(config, experts, tuple(learned.grouping.rows), run, keeper=keeper)
    return model.regrouped(learned.grouping), learned


def _check_table(table: Table, config: MergeConfig, experts: Experts, run: RunDirectory) -> None:
    """Check that coefficients are of these experts and of parameters that can be merged."""
    other = [name for name in table.grouping.rows if name not in experts.shared]
    if config.grouping != COMPONENT:
        rows = {name: len(own) for name, own in table.grouping.rows.items() if name not in other}
        other += [name for name, length in rows.items() if length not in (1, *experts.base.shape(name)[:1])]
    if other or table.experts != config.columns:
        found = f"parameters such as {other[0]}" if other else f"the experts {', '.join(table.experts)}"
        raise ConfigError(
            f"{run.coefficients}: expected coefficients of {', '.join(config.columns)} and of parameters that they "
            f"share, found {found}. Restore the file, or learn again in another run_dir."
        )
