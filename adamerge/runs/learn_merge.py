"""Open what a run is made from, and learn its coefficients."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from rich.console import Console

from adamerge.calibration.agreement import HeldOut
from adamerge.calibration.closed_form import ClosedForm, kept_closed_form
from adamerge.data.augment import augmented
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.experts.summary import describe
from adamerge.learning.course import Staged
from adamerge.learning.learn import divide, goals_of
from adamerge.learning.loggers import with_loggers
from adamerge.learning.processes import Processes
from adamerge.learning.settings import Learning
from adamerge.learning.stages import learn_in_stages
from adamerge.merging.device import advice_where_full, describe_device, device_of
from adamerge.results.guard import Guarded
from adamerge.runs.build_model import (
    answers_to,
    build_model,
    check_start,
    check_task_vectors,
    open_experts,
    without_keep,
)
from adamerge.runs.choose_memory import execution_ahead, fitting
from adamerge.runs.config import MergeConfig
from adamerge.runs.disk_space import check_space
from adamerge.runs.divided import divided
from adamerge.runs.export_choice import guard_merge, take
from adamerge.runs.held_out import held_out_of
from adamerge.runs.load_rows import check_objective, load_data
from adamerge.runs.notes import notes_of
from adamerge.runs.opened import Opened
from adamerge.runs.precision import precision_of
from adamerge.runs.run_directory import RunDirectory
from adamerge.runs.settle_rows import settled
from adamerge.runs.start import start_in_words, start_of
from adamerge.runs.warm_start import named_centre, without_other_centre
from adamerge.storage.kept import Keeper, Key


def open_inputs(config: MergeConfig, run: RunDirectory | None, console: Console) -> Opened:
    """Open experts and rows, and check everything that can be checked before anything is written to the run's disk."""
    experts = open_experts(config)
    lines = [*describe(experts), device_line(config)]
    print_lines(console, lines)
    inspection = inspect_weights(experts)
    warnings = [f"warning: {line}" for line in inspection.warnings]
    print_lines(console, warnings)
    check_task_vectors(config, experts, inspection.changed)
    check_start(config, inspection.changed)
    data = load_data(config, experts)
    device = device_of(config.trainer.accelerator)
    fitting(execution_ahead(config, experts, inspection.changed, data.calibration, device))  # trials take memory too
    check_objective(config, experts, data)
    data = settled(config, experts, inspection.changed, data)
    notes = notes_of(config, experts, inspection.changed, data)
    print_lines(console, notes)
    lines = [*lines, *warnings, *notes]
    if run is not None:
        check_space(config, experts, run)
    return Opened(experts, inspection.changed, data, inspection.products, tuple(lines))


def device_line(config: MergeConfig, device: torch.device | None = None) -> str:
    """Say where a configuration computes, by default on the device that it names, and in which precision."""
    own = device or device_of(config.trainer.accelerator)
    return f"device: {describe_device(own)}; precision: {precision_of(config)}"


def learn_merge(
    config: MergeConfig,
    opened: Opened,
    learning: Learning,
    run: RunDirectory,
    key: Key,
    keeper: Keeper,
    console: Console,
    *,
    resume: bool,
    processes: Processes | None = None,
) -> tuple[Staged, HeldOut, Guarded | None]:
    """Compute what is needed from the experts once, and learn the coefficients.

    Args:
        config: Configuration.
        opened: Base, experts and rows.
        learning: Options of learning.
        run: Stores intermediate results.
        key: Cache key of the run.
        keeper: Stores intermediate results under their cache keys.
        console: Prints progress.
        resume: Resume from the run's last checkpoint.
        processes: Those that learn together, if there are several.

    Returns:
        Model and coefficients to export, the held-out rows with the experts' predictions, and what the guard found.

    Raises:
        ConfigError: The device's memory is exhausted.
    """
    experts, changed, data = opened.experts, opened.changed, opened.data
    with advice_where_full(device_of(config.trainer.accelerator)):
        rows = answers_to(config, experts, changed, data.calibration, run.answers, keeper)
        calibration = divide(rows, config.data, config.seed_everything)
        if config.keep and not config.keep.weight:  # measured alone
            calibration = replace(calibration, learn=without_keep(calibration.learn))
        model = build_model(config, experts, changed, run, calibration.learn, console, keeper, calibration.watch)
        size = config.data.micro_batch
        started, lines = without_other_centre(config, run.race)
        if isinstance(config.start, ClosedForm):
            init = kept_closed_form(model, without_keep(calibration.learn), config.start, run.start, size, keeper)
            learning = replace(learning, init=init)
        else:
            print_lines(console, lines)
            learning = replace(learning, init=start_of(started, model.grouping))
        learn = augmented(calibration.learn, config.data.augmentation, config.seed_everything)
        calibration = replace(calibration, learn=learn)
        needed = calibration if learning.steps else replace(calibration, learn={})
        goals = goals_of(model, config.objective, needed, size, run.targets, keeper, bf16=learning.bf16)
        held_out = held_out_of(config, model, calibration, goals)
        learning = replace(learning, trainer=with_loggers(learning.trainer, run.logs))
        if processes is not None and processes.first:
            processes.join()
        staged = learn_in_stages(
            divided(config, model) if learning.steps else model,
            config.objective,
            calibration,
            learning,
            config.chunks,
            run.first_stage,
            made_of=key if processes is None else processes.told(key),
            held_out=held_out,
            targets=goals,
            checkpoints=run.checkpoints,
            resume=resume,
            tell=None if learning.trainer["enable_progress_bar"] else lambda line: print_lines(console, [line]),
            announce=lambda line: print_lines(console, [line]),
            keeper=keeper,
        )
        if processes is not None:
            processes.leave()
        learned = replace(staged.learned, centre=named_centre(config, run.race), start=start_in_words(started))
        staged = replace(staged, learned=learned, model=staged.model.executed_by(None))
        helps = processes is not None and not processes.first
        if helps or not (learning.steps and config.watch.guard and held_out) or staged.learned.interrupted:
            return staged, held_out, None
        guarded = guard_merge(config, staged, changed, held_out)
        print_lines(console, guarded.lines())
        return take(staged, guarded), held_out, guarded


def print_lines(console: Console, lines: Iterable[str]) -> None:
    """Print each text as a line of its own, as it is."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
