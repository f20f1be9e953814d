"""The Python entry point: experts, and a merge of them."""

import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TypeAlias, cast

from rich.console import Console

from adamerge.arguments import (
    check_console,
    check_item,
    check_model,
    check_models,
    check_processor,
    check_tasks,
    found,
    holds_keys,
    is_path,
    path_of,
    with_known_keywords,
)
from adamerge.data.in_memory import RowsLike
from adamerge.data.modality import AnyProcessor
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.experts.summary import describe
from adamerge.experts.zero_shot import ZeroShot
from adamerge.in_memory import IN_MEMORY, ROWS, InMemory, Model, by_task, open_all, with_processors
from adamerge.learning.trainer import process_count
from adamerge.result import Result
from adamerge.results.unchanged import contents_of
from adamerge.runs.build_model import check_start, check_task_vectors
from adamerge.runs.config import MergeConfig
from adamerge.runs.fit import Finished, fit
from adamerge.runs.learn_merge import device_line, learn_merge, print_lines
from adamerge.runs.learning_settings import learning_of
from adamerge.runs.load_rows import check_objective, load_data
from adamerge.runs.notes import notes_of
from adamerge.runs.opened import Opened
from adamerge.runs.read_config import merge_config
from adamerge.runs.run_directory import RunDirectory
from adamerge.runs.save_config import resolved
from adamerge.runs.settle_rows import settled
from adamerge.storage.file_names import last_part
from adamerge.storage.kept import Keeper
from adamerge.types import ConfigError, Fact


@with_known_keywords
@dataclass(frozen=True, eq=False)
class Expert:
    """One expert: its weights, its rows, and the name of its task.

    Args:
        model: Directory or hub id (`id` or `id@revision`) of the fine-tuned checkpoint, or of a LoRA adapter of the
            base; or a module, or a state dict.
        task: Name of the task; by default the last part of the path. Required for a model in memory.
        calibration: Unlabeled rows: a path, a mapping of path and column names, a list of texts, a `datasets.Dataset`
            or a PyTorch dataset of tensors. Without any the expert gets coefficients but adds no loss.
        evaluation: Labeled rows, if the result is to be measured; the same types.
        loss_weight: Factor of this task's objective.
        zero_shot: Class names and templates instead of a head, for CLIP-like models.
        parameters: The expert's start coefficient in mergekit's words: {"weight": 0.4}.
        adapter: Directory or hub id of a LoRA adapter of `model`, which is then a complete checkpoint.

    Example:
        >>> Expert("models/news", calibration="news.jsonl").name
        'news'
        >>> import torch
        >>> Expert(torch.nn.Linear(2, 2), task="line").name
        'line'
    """

    model: Model
    task: str | None = None
    calibration: RowsLike | None = None
    evaluation: RowsLike | None = None
    loss_weight: float = 1.0
    zero_shot: ZeroShot | Mapping[str, object] | None = None
    parameters: Mapping[str, object] | None = None
    adapter: str | Path | None = None

    def __post_init__(self) -> None:
        """Refuse a model or a task of another kind."""
        check_model(self.model, "model")
        if self.adapter is not None and not (is_path(self.adapter) and is_path(self.model)):
            raise ConfigError(
                "Expert: expected a path or hub id of an adapter, and of the model below it, found "
                f"{found(self.adapter)} and {found(self.model)}. Save them first."
            )
        if not isinstance(self.task, str | None) or self.task == "":
            raise ConfigError(f"Expert: expected the name of a task (a text) or None, found {found(self.task)}.")

    @property
    def name(self) -> str:
        """Name of the task."""
        if self.task is None and not is_path(self.model):
            raise ConfigError(
                f"Expert: a {type(self.model).__name__} in memory has no name of its own; expected a task, found none. "
                "Write Expert(model, task='news'), or Merge(base, {'news': model})."
            )
        return self.task or last_part(str(self.adapter or self.model))

    @property
    def written(self) -> dict[str, object]:
        """Keys of the YAML that differ from their defaults."""
        values = [(field.name, getattr(self, field.name), field.default) for field in fields(self)]
        return {key: value for key, value, default in values if value is not default}


_KEYS = tuple(field.name for field in fields(Expert))

Pool: TypeAlias = Sequence[Expert | Mapping[str, object] | str | Path] | Mapping[str, Expert | Model]
"""Experts in a list, or by the name of their task."""


class Merge:
    """A base, experts fine-tuned from it, and how to merge them.

    Args:
        base_model: Directory or hub id of the base; or a module, or a state dict.
        models: The experts in a list, or by the name of their task.
        processor: Tokenizer or image processor for rows that are not tensors, one for all or a dict by task; by
            default the one saved with each expert, else the base's. The export of experts on disk gets it in the
            place of theirs.
        allow_code: Import classes outside torch, Lightning and adamerge that settings name by import path, which runs
            their code. Classes and objects of Python need no permission.
        settings: Any key of the YAML: method="frank_wolfe", trainer={"max_steps": 20}, objective=Entropy(). As in a
            file, what is not written is decided by the method. Classes are given as objects or by name.

    Attributes:
        config: All settings, as `adamerge fit` would use them.

    Raises:
        ConfigError: Every unknown key, wrong type and wrong value, in one message.

    Example:
        >>> Merge("models/base", ["models/news", "models/mail"], method="ties").config.method
        'ties'
        >>> Merge("models/base", ["models/news"], trainer={"max_step": 20})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        adamerge.types.ConfigError: ...Did you mean max_steps?
    """

    def __init__(
        self,
        base_model: Model,
        models: Pool,
        *,
        processor: AnyProcessor | Mapping[str, AnyProcessor] | None = None,
        allow_code: bool = False,
        **settings: object,
    ) -> None:
        check_model(base_model, "base_model")
        for one in processor.values() if isinstance(processor, Mapping) else (processor,):
            check_processor(one)
        self._memory, self._processor = InMemory(), processor
        base, notes = self._memory.take_model(base_model), list[str]()
        keys = {"base_model": base, "models": [self._written(model) for model in _listed(models)]}
        keys |= self._memory.take_kept(settings)
        self.config: MergeConfig = merge_config(keys, notes.append, allow_code=allow_code, use="learn")
        check_tasks(processor, self.config.with_rows)
        for note in notes:
            warnings.warn(note, stacklevel=2)

    def learn(self, *, console: Console | None = None) -> Result:
        """Learn coefficients; nothing is written but temporary files, which live as long as the result.

        Args:
            console: Where to report what `adamerge fit` reports. By default nothing is printed, and what a user should
                know of the data and the models (rows dropped, a suspicious expert) is given by `warnings.warn`.

        Raises:
            ConfigError: Something in the settings or the rows cannot be used.
            IncompatibleExpertsError: Base and experts do not belong together.
            KeyboardInterrupt: Ctrl-C; the step under way is finished first.
        """
        check_console(console)
        self._check_alone()
        out = console or Console(quiet=True)
        learning = learning_of(self.config, progress_bar=console is not None and console.is_terminal)
        opened, description, notes = self._open()
        print_lines(out, description)
        print_lines(out, notes) if console else _warn(note for note in notes if not isinstance(note, Fact))
        contents = contents_of(opened.experts)
        folder = Path(tempfile.mkdtemp(prefix="adamerge-"))
        removed = weakref.finalize(opened.experts, shutil.rmtree, folder, ignore_errors=True)
        try:
            staged, held_out, guarded = learn_merge(
                self.config, opened, learning, RunDirectory(folder), {}, Keeper(), out, resume=False
            )
        except BaseException:
            removed()
            raise
        if staged.learned.interrupted:
            raise KeyboardInterrupt
        print_lines(out, staged.learned.warnings) if console else _warn(staged.learned.warnings)
        if guarded and not console:  # a console has been told
            _warn(line for line in guarded.lines() if line.startswith("warning: "))
        return Result(staged, held_out, opened, self.config, contents)

    def fit(self, run_dir: str | Path, *, resume: bool = False, console: Console | None = None) -> Finished:
        """Do what `adamerge fit` does: learn, export, compare and report, all into a run directory.

        Args:
            run_dir: Where to; must not exist, unless a run is resumed.
            resume: Continue the run that the directory holds.
            console: Where to report; by default standard output.

        Raises:
            ConfigError: Something in the settings or the rows cannot be used, or has no path to be found again at.
            IncompatibleExpertsError: Base and experts do not belong together.
            KeyboardInterrupt: Ctrl-C; call again with resume=True to continue.
        """
        check_console(console)
        self._check_alone()
        words = [*self._memory.words, *(["processor"] if self._processor is not None else [])]
        if words:
            raise ConfigError(
                f"{', '.join(words)}: a run directory can be resumed and exported again, so expected paths or hub ids, "
                "found objects in memory. Save them first (a processor beside its expert), or use learn()."
            )
        config = replace(self.config, run_dir=str(path_of(run_dir, "run_dir")))
        done = fit(config, resolved(config), resume=resume, console=console)
        if done is None:
            raise KeyboardInterrupt
        return done

    def _check_alone(self) -> None:
        """Refuse several devices: to start their processes, the whole script would run again in each."""
        if process_count(asdict(self.config.trainer)) > 1:
            raise ConfigError(
                "trainer.devices: expected 1 in Python, found several devices or machines. Use the command adamerge "
                "fit, alone or under torchrun."
            )

    def _open(self) -> tuple[Opened, list[str], list[str]]:
        """Open models and rows, and check them; say what is merged, and what a user should know of them."""
        config = self._memory.put_back(self.config)
        experts, unsaved = with_processors(open_all(config, self._memory), by_task(self._processor, config.with_rows))
        inspection = inspect_weights(experts)
        check_task_vectors(config, experts, inspection.changed)
        check_start(config, inspection.changed)
        data = load_data(config, experts, processors=by_task(self._processor, config.with_rows))
        check_objective(config, experts, data)
        data = settled(config, experts, inspection.changed, data)
        notes = [
            *experts.notes,
            *experts.warnings,
            *inspection.warnings,
            *notes_of(config, experts, inspection.changed, data),
            *unsaved,
        ]
        description = [line for line in describe(experts) if not line.startswith(("warning: ", "note: "))]
        return Opened(experts, inspection.changed, data), [*description, device_line(config)], notes

    def _written(self, expert: Expert | Mapping[str, object]) -> dict[str, object]:
        """Return an expert's keys as a configuration holds them; what has no path is put aside."""
        keys = expert.written if isinstance(expert, Expert) else dict(expert)
        if "model" not in keys:  # the configuration reports it
            return keys
        adapter = keys.get("adapter")
        task = Expert(keys["model"], task=keys.get("task"), adapter=adapter).name  # pyright: ignore[reportArgumentType]
        model = self._memory.take_model(keys["model"], task)  # pyright: ignore[reportArgumentType]
        rows = {key: self._memory.take_rows(keys[key], task, key) for key in ROWS if key in keys}  # pyright: ignore
        beside = {"adapter": str(adapter)} if adapter is not None else {}
        return {**keys, **rows, **beside, "model": model, **({"task": task} if model == IN_MEMORY else {})}


def _listed(models: object) -> list[Expert | Mapping[str, object]]:
    """List experts, each with its name where they were given by name."""
    check_models(models)
    if isinstance(models, Mapping):
        return [_named(task, expert) for task, expert in models.items()]
    return [_one(expert, f"item {i}") for i, expert in enumerate(cast(Iterable[object], models))]


def _named(task: str, expert: object) -> Expert | Mapping[str, object]:
    if isinstance(expert, Expert):
        return replace(expert, task=task)
    if holds_keys(expert, _KEYS):
        return {**expert, "task": task}
    check_model(expert, f"model of {task}")
    return Expert(cast(Model, expert), task=task)


def _one(expert: object, position: str) -> Expert | Mapping[str, object]:
    if isinstance(expert, Expert):
        return expert
    check_item(expert, position, _KEYS)
    return expert if isinstance(expert, Mapping) else Expert(cast(Model, expert))


def _warn(lines: Iterable[str]) -> None:
    for line in lines:
        warnings.warn(line.removeprefix("warning: ").removeprefix("note: "), stacklevel=3)
