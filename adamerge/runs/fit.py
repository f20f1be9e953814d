"""The main job: open, check, learn, export, compare, report."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from adamerge.calibration.agreement import hold_out
from adamerge.calibration.closed_form import ClosedForm, kept_closed_form
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.learning.learn import Learned, divide
from adamerge.learning.settings import Learning, check_learning
from adamerge.learning.two_stages import learn_in_stages
from adamerge.merging.coefficients import COEFFICIENTS, save_coefficients
from adamerge.merging.merged_model import MergedModel
from adamerge.optim.selections import selection_table, sentence
from adamerge.results.compare import Comparison, compare
from adamerge.results.export import Exported, export
from adamerge.results.report import curve, heat_map, table
from adamerge.runs.build_model import answers_to, build_model, check_task_vectors, describe, open_experts
from adamerge.runs.config import MergeConfig
from adamerge.runs.load_rows import check_layers, load_data
from adamerge.runs.recipe import inputs, recipe, remember
from adamerge.runs.run_directory import check_run_dir, check_space
from adamerge.storage.atomic_files import write_text
from adamerge.types import ConfigError

CHECKPOINTS = "checkpoints"
TASK_VECTORS = "task_vectors"
TARGETS = "targets"
INPUTS = "inputs.json"
START = "start.safetensors"
FIRST_STAGE = "first_stage"


@dataclass(frozen=True, eq=False)
class Merge:
    """Result of a finished job.

    Attributes:
        run_dir: Where everything was written.
        learned: Coefficients and history.
        comparison: What was measured.
        exported: The merged checkpoint.
    """

    run_dir: Path
    learned: Learned
    comparison: Comparison
    exported: Exported


def fit(config: MergeConfig, resolved: str, *, resume: bool = False, console: Console | None = None) -> Merge | None:
    """Run a whole job.

    Args:
        config: What to merge, and how.
        resolved: The same as YAML, for the run directory.
        resume: Go on with the run that the directory holds.
        console: Where to report.

    Returns:
        What came of it; None if it was interrupted and can be resumed.

    Raises:
        ConfigError: Something in the configuration cannot be used; nothing is written.
        IncompatibleExpertsError: Base and experts do not belong together; nothing is written.
    """
    console = console or Console()
    run_dir = Path(config.run_dir).expanduser()
    check_run_dir(run_dir, resolved, resume)
    learning = learning_of(config, progress_bar=console.is_terminal)
    experts = open_experts(config)
    _tell(console, describe(experts))
    inspection = inspect_weights(experts)
    _tell(console, [f"warning: {line}" for line in inspection.warnings])
    check_task_vectors(config, experts, inspection.changed)
    data = load_data(config, experts)
    _tell(console, data.notes)
    check_layers(config.objective, experts, data)
    _tell(console, learning_notes(config))
    check_space(config, experts, run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    write_text(run_dir / "config.yaml", resolved)
    made_from = inputs(config, experts, data)
    remember(made_from, run_dir / INPUTS)

    rows = answers_to(config, experts, inspection.changed, data.calibration, run_dir)
    calibration = divide(rows, config.data, config.seed_everything)
    model = build_model(config, experts, inspection.changed, run_dir / TASK_VECTORS, calibration.learn, console)
    if isinstance(config.start, ClosedForm):
        init = kept_closed_form(model, calibration.learn, config.start, run_dir / START, config.data.micro_batch)
        learning = replace(learning, init=init)
    held_out = hold_out(model, calibration.watch, config.data.micro_batch)
    staged = learn_in_stages(
        model,
        config.objective,
        calibration,
        learning,
        config.chunks,
        run_dir / FIRST_STAGE,
        held_out=held_out,
        targets=run_dir / TARGETS,
        checkpoints=run_dir / CHECKPOINTS,
        resume=resume,
        tell=None if learning.trainer["enable_progress_bar"] else lambda line: _tell(console, [line]),
    )
    model, learned = staged.model, staged.learned
    if learned.interrupted:
        return None
    _write_learned(run_dir, model, learned, config.centre_name)
    merged = run_dir / "merged"
    if merged.exists():  # left by a run that was killed between export and recipe
        shutil.rmtree(merged)
    exported = export(model, learned.coefficients, merged, dtype=_dtype(config))
    comparison = compare(model, inspection.changed, data.evaluation, held_out, learned.coefficients, console)
    report(run_dir, comparison, learned, model, exported, console)
    redo = json.dumps(recipe(config, resolved, made_from, run_dir), indent=2, allow_nan=False)
    write_text(run_dir / "recipe.json", redo + "\n")
    _tell_places(console, run_dir, learned, exported)
    return Merge(run_dir, learned, comparison, exported)


def _write_learned(run_dir: Path, model: MergedModel, learned: Learned, centre: str) -> None:
    groups, names = model.grouping.groups, model.vectors.experts
    save_coefficients(run_dir / COEFFICIENTS, learned.coefficients, model.grouping, names, centre=centre)
    heat_map(learned.coefficients, groups, names, run_dir / "coefficients.png", centre=centre)
    curve(learned.history, learned.best_step, run_dir / "learning.png")


def _tell_places(console: Console, run_dir: Path, learned: Learned, exported: Exported) -> None:
    console.print(f"\nbest iterate: step {learned.best_step}" if learned.history else "")
    written = (COEFFICIENTS, "metrics.json", "recipe.json", "coefficients.png", "learning.png")
    _tell(console, [f"{name}: {run_dir / name}" for name in written if (run_dir / name).exists()])
    _tell(console, [f"{task}: {place}" for task, place in exported.checkpoints.items()])


def report(
    run_dir: Path, comparison: Comparison, learned: Learned, model: MergedModel, exported: Exported, console: Console
) -> None:
    """Write metrics.json and print the table."""
    sizes = {
        "groups": len(model.grouping),
        "experts": len(model.vectors.experts),
        "coefficients": learned.coefficients.numel(),
        "numbers_merged": sum(shape.numel() for shape in model.vectors.shapes.values()),
        "bytes_on_disk": exported.bytes,
    }
    found = learned.as_json(model.grouping.groups, model.vectors.experts)
    metrics = {**comparison.as_json(), "sizes": sizes, **found}
    write_text(run_dir / "metrics.json", json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    if learned.certificate:
        _tell(console, [sentence(learned.certificate, learned.converged)])
    if learned.selections:
        console.print(selection_table(learned.selections, learned.coefficients, model.vectors.experts))
    if comparison.measured:
        console.print(table(comparison.scores, comparison.relative(), comparison.unit))


def learning_of(config: MergeConfig, *, progress_bar: bool) -> Learning:
    """How coefficients are learned, as the configuration says.

    Raises:
        ConfigError: The optimiser, the scheduler, an option of the Trainer or the feasible set cannot be used.
    """
    options = {key: value for key, value in asdict(config.trainer).items() if value is not None}
    options.setdefault("enable_progress_bar", progress_bar)
    learning = Learning(
        optimizer=config.optimizer,
        scheduler=config.lr_scheduler,
        feasible=config.feasible,
        init=0.3 if isinstance(config.start, ClosedForm) else config.start,  # until there is a model to solve for
        batching=config.data,
        watching=config.watch,
        seed=config.seed_everything,
        task_weights={expert.name: expert.weight for expert in config.models},
        regulariser=config.regulariser if config.regulariser.strength else None,
        trainer=options,
    )
    if config.chunks is not None and config.grouping != "tensor":
        raise ConfigError(
            f"chunks: the first stage is tensor-wise; expected grouping: tensor, got {config.grouping}. "
            "Without a second stage (chunks: null) any grouping will do."
        )
    if config.columns != config.names and isinstance(config.start, ClosedForm):
        raise ConfigError(
            f"init: closed_form looks for each expert's own output, but {type(config.task_vectors).__name__} makes one "
            "task vector of all experts; start from a number, or leave out task_vectors."
        )
    if learning.steps == 0 and config.task_vectors is not None and config.start == 0:
        raise ConfigError(
            f"task_vectors: nothing is learned and the start is 0, so {type(config.task_vectors).__name__} would add "
            "nothing to the centre; set init to another number, or leave out task_vectors."
        )
    check_learning(learning, len(config.columns))
    return learning


def learning_notes(config: MergeConfig) -> list[str]:
    """What is allowed, but perhaps not meant: a start outside of the set, a second stage without steps."""
    notes: list[str] = []
    start, steps = config.start, config.trainer.max_steps
    if not isinstance(start, ClosedForm) and not config.feasible.contains(torch.full((1, len(config.columns)), start)):
        notes.append(f"note: the start, {start:g}, is outside of {config.feasible}; its nearest point is taken")
    if config.chunks is not None and 0 < steps <= config.chunks.first_steps:
        notes.append(
            f"warning: trainer.max_steps ({steps}) ends within the first stage (chunks.first_steps: "
            f"{config.chunks.first_steps}), so no chunk gets a coefficient of its own"
        )
    return notes


def _dtype(config: MergeConfig) -> torch.dtype | None:
    return getattr(torch, config.out_dtype) if config.out_dtype else None


def _tell(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
