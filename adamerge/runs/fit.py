"""Run a merge: open, check, learn, export, compare, report."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from adamerge.learning.keep_best import criterion
from adamerge.learning.learned import Learned
from adamerge.learning.processes import Processes
from adamerge.learning.settings import check_devices
from adamerge.merging.coefficients import save_coefficients
from adamerge.merging.device import advice_where_full
from adamerge.merging.merged_model import MergedModel
from adamerge.optim.selections import selection_table, sentence
from adamerge.results.adapter_agreement import agreement_lines
from adamerge.results.adapter_settings import adapter_of
from adamerge.results.compare import Comparison, compare
from adamerge.results.export import Exported
from adamerge.results.export_as import export_as
from adamerge.results.no_labels import held_out_table, verdict
from adamerge.results.report import comparison_table, curve, heat_map
from adamerge.runs.begun_run import check_run_dir
from adamerge.runs.cards import as_json, card_facts, licence_warning, write_cards
from adamerge.runs.check_place import check_place
from adamerge.runs.config import MergeConfig
from adamerge.runs.exported_files import hash_export
from adamerge.runs.finished import check_unfinished, drop_former, files_of_export, put_aside
from adamerge.runs.flat_settings import flat_settings
from adamerge.runs.harness import write_script
from adamerge.runs.inputs import check_inputs, inputs, remember
from adamerge.runs.learn_merge import learn_merge, open_inputs, print_lines
from adamerge.runs.learning_settings import learning_of
from adamerge.runs.recipe import key_of_run, recipe
from adamerge.runs.report_runs import write_report
from adamerge.runs.run_directory import RunDirectory, keeper_for, use_run
from adamerge.runs.run_facts import Clock, rows_of, run_facts
from adamerge.runs.sources import BY_OPTIONS, told_where
from adamerge.runs.unchanged_sources import told_what_changed
from adamerge.storage.atomic_files import write_text
from adamerge.storage.exclusive import LOCK
from adamerge.storage.file_names import at_home
from adamerge.storage.kept import Keeper
from adamerge.types import ConfigError, IncompatibleExpertsError


@dataclass(frozen=True, eq=False)
class Finished:
    """Result of a finished run.

    Attributes:
        run_dir: Run directory.
        learned: Coefficients and history.
        comparison: Scores of the merged model and of what it is compared with.
        exported: Merged checkpoints.
    """

    run_dir: Path
    learned: Learned
    comparison: Comparison
    exported: Exported


def fit(
    config: MergeConfig, resolved: str, *, resume: bool = False, console: Console | None = None, links: bool = True
) -> Finished | None:
    """Run a merge from opening the experts to the report.

    Args:
        config: Configuration.
        resolved: The same configuration as YAML, for the run directory.
        resume: Resume the run in the run directory.
        console: Prints the report.
        links: Whether folders of tasks may share exported files by hard links.

    Returns:
        The result; None if the run was interrupted and can be resumed.

    Raises:
        SystemExit: This is not the first of several processes, and has done its part: nothing but learning.
        ConfigError: Something in the configuration cannot be used, or another process uses the run directory; nothing
            is written.
        RunFinishedError: The run to resume is finished.
        IncompatibleExpertsError: Base and experts are not compatible; nothing is written.
    """
    console = console or Console(emoji=False)
    run = RunDirectory(at_home(config.run_dir))
    check_devices(asdict(config.trainer))
    processes = Processes(asdict(config.trainer))
    if not processes.first:
        _take_part(config, run, processes, resume=resume)
        raise SystemExit(0)
    with processes.led():
        check_place(run.path, config)
        if not (run.path / LOCK).exists():  # a directory that is refused is not touched
            check_run_dir(run, resolved, resume, allow_code=config.allow_code)
        with use_run(run, "adamerge fit", console):
            check_run_dir(run, resolved, resume, allow_code=config.allow_code)
            if not resume:
                return _fit(config, resolved, run, processes, console, resume=False, links=links)
            check_unfinished(run, resolved, lambda line: print_lines(console, [line]))
            with told_where(flat_settings(resolved), run.config, BY_OPTIONS):
                return _fit(config, resolved, run, processes, console, resume=True, links=links)


def _take_part(config: MergeConfig, run: RunDirectory, processes: Processes, *, resume: bool) -> None:
    """Learn with the first process, from what it has prepared in the run directory; nothing is written or printed.

    Raises:
        ConfigError: What the first process prepared is not found here, or not made of the same files.
    """
    if not processes.join():
        return
    quiet = Console(quiet=True)
    try:
        learning, opened = learning_of(config, progress_bar=False), open_inputs(config, None, quiet)
        keeper = Keeper(accept_unkeyed=resume, only_reads=True)
        learn_merge(config, opened, learning, run, {}, keeper, quiet, resume=resume, processes=processes)
    except (ConfigError, IncompatibleExpertsError) as error:
        raise ConfigError(f"{processes.name}: {error}") from error


def _fit(
    config: MergeConfig,
    resolved: str,
    run: RunDirectory,
    processes: Processes,
    console: Console,
    *,
    resume: bool,
    links: bool,
) -> Finished | None:
    learning, clock = learning_of(config, progress_bar=console.is_terminal), Clock()
    with told_what_changed(config, run.inputs):
        opened = open_inputs(config, run, console)
    made_from = inputs(config, opened.experts, opened.data)
    if run.inputs.exists():  # before the places of others are written
        check_inputs(made_from, run.inputs)
    write_text(run.config, resolved)
    remember(made_from, run.inputs)
    clock.lap("open and check")
    keeper = keeper_for(console, accept_unkeyed=resume)
    staged, held_out, guarded = learn_merge(
        config,
        opened,
        learning,
        run,
        key_of_run(made_from, resolved),
        keeper,
        console,
        resume=resume,
        processes=processes,
    )
    model, learned = staged.model, staged.learned
    if learned.interrupted:
        return None
    clock.lap("learn")
    known = files_of_export(run)
    run.recipe.unlink(missing_ok=True)  # of the same run, when it was shorter
    _write_learned(run, model, learned, config)
    former = put_aside(run.merged)
    kind, shards = adapter_of(config.export), config.shard_bytes
    exported = export_as(kind, model, learned.coefficients, run.merged, shard_bytes=shards, links=links)
    print_lines(console, filter(None, [drop_former(former, run.merged, known)]))
    print_lines(console, [*exported.notes, *exported.surviving.lines(config.rounding)])
    print_lines(console, agreement_lines(model, learned.coefficients, held_out, exported))
    clock.lap("export")
    rows = opened.data.evaluation
    with advice_where_full(model.vectors.device):
        by, coefficients = criterion(config.watch.monitor), learned.coefficients
        comparison = compare(model, opened.changed, rows, held_out, coefficients, console, run.merged, by, guarded)
    clock.lap("measure")
    facts = run_facts(opened, staged, held_out, clock)
    report(run, comparison, learned, model, exported, facts, console)
    made = recipe(config, resolved, made_from, run, exported.surviving.as_json())
    made |= {"guard": dict(learned.guard)} if learned.guard else {}
    counts = rows_of(opened.data, held_out)
    card = card_facts(config, opened.experts, learned, comparison, exported.surviving, counts)
    write_cards(card, exported.folder)
    write_script(config, run, opened.experts)
    print_lines(console, filter(None, [licence_warning(card)]))
    redo = {**made, "warnings": list(learned.warnings), "card": as_json(card), "files": hash_export(exported.folder)}
    write_text(run.recipe, json.dumps(redo, indent=2, allow_nan=False) + "\n")
    write_report([run.path], run.report)
    _print_places(console, run, learned, exported, config.watch.monitor)
    return Finished(run.path, learned, comparison, exported)


def _write_learned(run: RunDirectory, model: MergedModel, learned: Learned, config: MergeConfig) -> None:
    centre, plain = learned.centre, learned.plain
    groups, names = model.grouping.groups, model.vectors.experts
    save_coefficients(run.coefficients, learned.coefficients, model.grouping, names, centre=centre, plain=plain)
    heat_map(learned.coefficients, groups, names, run.heat_map, centre=centre)
    curve(learned.history, learned.best_step, run.curve, config.watch.monitor)


def _print_places(console: Console, run: RunDirectory, learned: Learned, exported: Exported, monitor: str) -> None:
    console.print(f"\nbest iterate: step {learned.best_step} (by {monitor})" if learned.history else "")
    print_lines(console, [f"{file.name}: {file}" for file in run.results if file.exists()])
    print_lines(console, [f"{task}: {place}" for task, place in exported.checkpoints.items()])


def report(
    run: RunDirectory,
    comparison: Comparison,
    learned: Learned,
    model: MergedModel,
    exported: Exported,
    facts: Mapping[str, object],
    console: Console,
) -> None:
    """Write metrics.json, and print certificate, selected experts and the table of scores."""
    sizes = {
        "groups": len(model.grouping),
        "experts": len(model.vectors.experts),
        "coefficients": learned.coefficients.numel(),
        "numbers_merged": sum(shape.numel() for shape in model.vectors.shapes.values()),
        "bytes_on_disk": exported.bytes,
    }
    found = learned.as_json(model.grouping.groups, model.vectors.experts)
    metrics = {
        **comparison.as_json(),
        "sizes": sizes,
        "surviving_share": exported.surviving.as_json(),
        **found,
        "run": facts,
        **({"truncation": dict(exported.truncation)} if exported.truncation else {}),
    }
    write_text(run.metrics, json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    print_lines(console, learned.warnings)
    if learned.certificate:
        print_lines(console, [sentence(learned.certificate, learned.converged)])
    if learned.selections:
        console.print(selection_table(learned.selections, learned.coefficients, model.vectors.experts))
    if comparison.measured:
        console.print(comparison_table(comparison))
    elif comparison.judged:
        console.print(held_out_table(comparison.judged, comparison.by))
        print_lines(console, [verdict(comparison.judged, comparison.by, comparison.flattered)])
