"""Read and encode the rows of every task; finds every problem with them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from adamerge.batch import Form
from adamerge.data.encode import encode, encode_tensors
from adamerge.data.in_memory import RowsLike, as_table, holds_tensors
from adamerge.data.modality import AnyProcessor, Encoded
from adamerge.data.processor_differences import digest_of_processor
from adamerge.data.processors import Own, Processors
from adamerge.data.questions import count_questions
from adamerge.data.rows import Rows
from adamerge.data.settings import Encoding
from adamerge.data.text_rows import Prompts
from adamerge.experts.experts import KEEP, Expert, Experts, loaded_from, name_of
from adamerge.experts.predicted import form_of
from adamerge.merging.forward_pass import try_layers
from adamerge.results.whose_files import from_disk, plan_of
from adamerge.runs.config import MergeConfig
from adamerge.runs.model_config import ModelConfig
from adamerge.runs.presets import PRESETS
from adamerge.runs.try_backward import try_backward
from adamerge.types import ConfigError

_Found = TypeVar("_Found")

_OTHER_METHOD = "use a method without rows, such as doge, ties or average."

_PREDICTS: Mapping[Form, str] = {
    "labels": "each label by itself",
    "numbers": "numbers",
    "vectors": "a vector of the row",
    "spans": "a span of the text",
}


@dataclass(frozen=True, eq=False)
class Data:
    """Rows of every task.

    Attributes:
        calibration: Rows per task, unlabeled unless the objective uses labels; tasks without calibration rows are
            absent.
        evaluation: Labeled rows per task; tasks without evaluation rows are absent.
        fingerprints: SHA-256 of the rows' content, per task and purpose (calibration, evaluation).
        processors: SHA-256 of the tokenizer or image processor that encoded the rows, per task.
        notes: Messages for the user.
        dropped: Number of rows that were read and are not used, per task and purpose.
        shared: Number of calibration rows that are evaluation rows too, per task.
    """

    calibration: Mapping[str, Rows]
    evaluation: Mapping[str, Rows]
    fingerprints: Mapping[str, Mapping[str, str]]
    processors: Mapping[str, str]
    notes: tuple[str, ...]
    dropped: Mapping[str, Mapping[str, int]] = field(default_factory=dict[str, Mapping[str, int]])
    shared: Mapping[str, int] = field(default_factory=dict[str, int])


def load_data(
    config: MergeConfig,
    experts: Experts,
    *,
    calibrate: bool = True,
    processors: Mapping[str, AnyProcessor] | None = None,
) -> Data:
    """Read and encode the rows of every task that has rows.

    An expert without calibration rows gets coefficients but adds no loss. If nothing is learned, no expert needs rows.

    Args:
        config: Paths and columns of the rows, and options of encoding.
        experts: Base and experts.
        calibrate: Whether to read calibration rows; evaluation rows are always read.
        processors: Tokenizer or image processor by task; by default the one saved with the expert, else the base's.

    Raises:
        ConfigError: No task has calibration rows, or rows cannot be used; lists every file, column and row.
    """
    notes: list[str] = _pool_note(config) if calibrate else []
    problems: list[str] = []
    calibration: dict[str, Encoded] = {}
    evaluation: dict[str, Encoded] = {}
    pool, used, both = Processors(experts, processors), dict[str, str](), dict[str, int]()
    for model in config.pools:
        try:
            expert = experts.models[model.name]
            processor, more = pool.of(model.name) if _needs_processor(model, expert) else Own(None)
            notes += more
            used |= {model.name: digest_of_processor(processor)} if processor is not None else {}
            if calibrate and model.calibration is not None:
                found = _calibration(model, model.calibration, expert, processor, config)
                calibration[model.name] = found
                notes += found.notes
            if model.evaluation is not None:
                encoding = _encoding(model, config, labeled=True)
                evaluation[model.name] = _encoded(model.evaluation, expert, processor, encoding, config.seed_everything)
                notes += evaluation[model.name].notes
                both[model.name] = _shared(model.name, calibration, evaluation)
                notes += _overlap_note(model.name, both[model.name])
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    return Data(
        {task: encoded.rows for task, encoded in calibration.items()},
        {task: encoded.rows for task, encoded in evaluation.items()},
        {model.name: _of_both(model.name, calibration, evaluation, _fingerprint) for model in config.pools},
        used,
        tuple(dict.fromkeys([*pool.notes, *notes, *export_notes(experts)])),
        {model.name: _of_both(model.name, calibration, evaluation, _dropped) for model in config.pools},
        both,
    )


def export_notes(experts: Experts) -> tuple[str, ...]:
    """Say what the exported checkpoint gets beside its weights, and what it does not."""
    return plan_of(experts).notes if from_disk(experts) else ()


def check_objective(config: MergeConfig, experts: Experts, data: Data) -> None:
    """Check, before learning, that objective and transforms suit what the experts predict, and their hidden states.

    Raises:
        ConfigError: An objective or Fisher information is meaningless for a task, a layer is out of range, or the
            models return no hidden states; or a model has no backward pass.
    """
    objective = config.objective
    unsuited = {f"objective {type(part).__name__}": part.unsuited for part in objective.parts if part.unsuited}
    if not config.trainer.max_steps:
        unsuited = {}
    if any(transform.fisher for transform in config.transforms.values()):
        unsuited["Fisher information"] = frozenset({"labels", "numbers", "vectors"})
    for task, rows in data.calibration.items() if unsuited else ():
        if task != KEEP:
            _check_form(experts.tasks[task], rows, unsuited)
    if objective.layers:
        for task, rows in data.calibration.items():
            tried = rows.answered([[0]] * len(rows)) if isinstance(rows, Prompts) else rows
            try_layers(experts.models[task].module, tried.batch([0]).inputs, objective.layers)
    if config.trainer.max_steps:
        try_backward(experts, data.calibration)


def _check_form(expert: Expert, rows: Rows, unsuited: Mapping[str, frozenset[Form]]) -> None:
    if expert.kind.language_model:
        return
    form = form_of(expert, rows.batch([0]).inputs)
    for what, forms in unsuited.items():
        if form in forms:
            raise ConfigError(
                f"{expert.name}: expected classes, for which alone {what} has a meaning, but "
                f"{expert.kind.architecture} predicts {_PREDICTS[form]}. Use the objective LogitAlignment (method: "
                "expert_merging or the default), which compares with the expert, leave out this task's calibration, or "
                "use a data-free method."
            )


def _needs_processor(model: ModelConfig, expert: Expert) -> bool:
    """Return whether any rows of a task are not tensors."""
    sources = (model.calibration, model.evaluation)
    return any(not holds_tensors(source, expert.kind.main_input) for source in sources if source is not None)


def _calibration(
    model: ModelConfig, source: RowsLike, expert: Expert, processor: AnyProcessor | None, config: MergeConfig
) -> Encoded:
    """Encode a sample of a task's calibration rows, unlabeled unless the objective uses labels."""
    labeled = config.objective.uses_labels and model.name != KEEP
    encoding = _encoding(model, config, labeled)
    if holds_tensors(source, expert.kind.main_input):
        return _encoded(source, expert, processor, encoding, config.seed_everything)
    table = as_table(source, model.name, seed=config.seed_everything, rows=config.data.rows)
    label, columns = table.source.label, table.columns
    if labeled and label not in columns and not expert.kind.language_model:
        raise table.error(
            f"the objective learns from labels, so expected a column {label!r} in the calibration rows, but the "
            f"columns are {', '.join(columns)}. Set the key calibration.label, or choose an objective without labels, "
            "such as Entropy."
        )
    found = _encoded(table, expert, processor, encoding, config.seed_everything)
    if label not in columns or labeled:
        return found
    note = f"{model.name}: the column {label!r} of the calibration rows is ignored."
    return found._replace(notes=(note, *found.notes))


def _encoded(
    source: RowsLike, expert: Expert, processor: AnyProcessor | None, encoding: Encoding, seed: int
) -> Encoded:
    if holds_tensors(source, expert.kind.main_input):
        return encode_tensors(source, expert, labeled=encoding.labeled)
    if processor is None:
        raise ConfigError(
            f"{expert.name}: expected rows of tensors, or a tokenizer or image processor to encode them, found "
            f"neither: base and expert are modules in memory{_loaded_from(expert)}. Pass processor=, for all tasks or "
            "by task, or rows of tensors."
        )
    return encode(as_table(source, expert.name, seed=seed), expert, processor, encoding)


def _loaded_from(expert: Expert) -> str:
    """Name the folder or hub id that an expert's module was loaded from, whose processor the user can load."""
    name = name_of(expert.own_module)
    problem = "is no folder here" if loaded_from(expert.own_module) is None else "has neither of them"
    return f", and {name}, which the expert was loaded from, {problem}" if name else ""


def _encoding(model: ModelConfig, config: MergeConfig, labeled: bool) -> Encoding:
    answers = None if labeled else config.data.pseudo_answers
    return Encoding(
        labeled,
        config.data.max_length,
        model.zero_shot.classes if model.zero_shot else None,
        config.data.positions,
        answers.max_new_tokens if answers else None,
    )


def _pool_note(config: MergeConfig) -> list[str]:
    """Note which experts have no calibration rows, if rows are needed.

    Raises:
        ConfigError: No expert has rows, or a transform needs the rows of every expert.
    """
    without = [model.name for model in config.models if model.calibration is None]
    if not without or not config.needs_rows:
        return []
    if any(transform.fisher for transform in config.transforms.values()):
        raise ConfigError(
            f"{', '.join(without)}: expected calibration rows (key calibration) of every task for Fisher information, "
            f"found none. Add them, or {_OTHER_METHOD}"
        )
    if len(without) == len(config.models):
        plain = PRESETS[config.method]["trainer.max_steps"] == 0 and config.trainer.max_steps
        way = f"remove trainer.max_steps, because {config.method} learns nothing by itself." if plain else _OTHER_METHOD
        raise ConfigError(
            f"{without[0]}: expected calibration rows (key calibration) of at least one task, found none. "
            f"Add them, or {way}"
        )
    return [f"without calibration rows (get coefficients but add no loss): {', '.join(without)}"]


def _of_both(
    task: str, calibration: Mapping[str, Encoded], evaluation: Mapping[str, Encoded], what: Callable[[Encoded], _Found]
) -> dict[str, _Found]:
    """Ask something of a task's rows of both purposes, as far as it has them."""
    both = {"calibration": calibration, "evaluation": evaluation}
    return {purpose: what(tasks[task]) for purpose, tasks in both.items() if task in tasks}


def _fingerprint(found: Encoded) -> str:
    return found.contents.fingerprint


def _dropped(found: Encoded) -> int:
    """Count the rows that were read and are not used; both texts of a pair may be rows of their own."""
    return max(0, found.contents.count - count_questions(found.rows))


def _shared(task: str, calibration: Mapping[str, Encoded], evaluation: Mapping[str, Encoded]) -> int:
    return calibration[task].contents.overlap(evaluation[task].contents) if task in calibration else 0


def _overlap_note(task: str, both: int) -> list[str]:
    if not both:
        return []
    return [
        f"warning: {task}: {both} calibration rows are evaluation rows too, so its score is too high; remove them from "
        "one of the two."
    ]
