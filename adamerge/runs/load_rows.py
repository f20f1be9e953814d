"""Every task's rows as the configuration names them, read and encoded; every problem with them is found here."""

from collections.abc import Mapping
from dataclasses import dataclass

from adamerge.data.encode import Encoded, Processor, check_vocabulary, encode, lend_padding, load_processor
from adamerge.data.language import Speech
from adamerge.data.rows import DataSource, Rows
from adamerge.data.tables import load_table
from adamerge.data.text import Prompts
from adamerge.experts.experts import Experts
from adamerge.experts.model_kind import speaks
from adamerge.merging.merged_model import try_layers
from adamerge.objectives import Objective
from adamerge.runs.config import MergeConfig, ModelConfig, source_of
from adamerge.types import ConfigError


@dataclass(frozen=True, eq=False)
class Data:
    """Every task's rows.

    Attributes:
        calibration: By task, unlabeled unless the objective uses labels; a task without calibration rows is absent.
        evaluation: Labeled, by task; a task without evaluation rows is absent.
        fingerprints: SHA-256 of the rows' content, by task and what they are for (calibration, evaluation).
        notes: What a user should know of them.
    """

    calibration: Mapping[str, Rows]
    evaluation: Mapping[str, Rows]
    fingerprints: Mapping[str, Mapping[str, str]]
    notes: tuple[str, ...]


def load_data(config: MergeConfig, experts: Experts, *, calibrate: bool = True) -> Data:
    """Read and encode the rows of every task that has some.

    An expert without calibration rows is a member of the pool: it gets coefficients, but no objective of its own.
    Where nothing is learned no expert needs any.

    Raises:
        ConfigError: There are no calibration rows at all, or rows cannot be used: with every file, column or row.
    """
    assert experts.checkpoint is not None
    first = next(iter(experts.tasks.values()))
    processor = load_processor(experts.checkpoint, first.module)
    notes: list[str] = list(lend_padding(processor, first.module))
    problems: list[str] = []
    calibration: dict[str, Encoded] = {}
    evaluation: dict[str, Encoded] = {}
    if calibrate:
        notes += _pool_note(config)
    for model in config.models:
        try:
            expert = experts.tasks[model.name].checkpoint
            if expert is not None:
                check_vocabulary(processor, experts.checkpoint, expert, model.name)
            if calibrate and model.calibration is not None:
                source, labeled = source_of(model.calibration), config.objective.uses_labels
                calibration[model.name] = _read(model, source, experts, processor, config, labeled, sample=True)
                notes += calibration[model.name].notes
            if model.evaluation is not None:
                source = source_of(model.evaluation)
                evaluation[model.name] = _read(model, source, experts, processor, config, labeled=True, sample=False)
                notes += [*evaluation[model.name].notes, *_overlap_note(model.name, calibration, evaluation)]
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    return Data(
        {task: encoded.rows for task, encoded in calibration.items()},
        {task: encoded.rows for task, encoded in evaluation.items()},
        {model.name: _fingerprints(model.name, calibration, evaluation) for model in config.models},
        tuple(notes),
    )


def check_layers(objective: Objective, experts: Experts, data: Data) -> None:
    """Refuse hidden states that the experts do not have, before anything is learned.

    Raises:
        ConfigError: A layer is out of range, or the models return no hidden states.
    """
    if objective.layers:
        for task, rows in data.calibration.items():
            tried = rows.answered([[0]] * len(rows)) if isinstance(rows, Prompts) else rows
            try_layers(experts.tasks[task].module, tried.batch([0]).inputs, objective.layers)


def _read(
    model: ModelConfig,
    source: DataSource,
    experts: Experts,
    processor: Processor,
    config: MergeConfig,
    labeled: bool,
    *,
    sample: bool,
) -> Encoded:
    table = load_table(source, model.name, config.seed_everything)
    notes: list[str] = []
    module, length = experts.tasks[model.name].module, config.data.max_length
    if sample:
        table = table.sample(config.data.rows, config.seed_everything)
        has_labels = source.label in table.data.column_names
        if has_labels and not labeled:
            notes.append(f"{model.name}: the column {source.label!r} of the calibration rows is ignored.")
        if labeled and not has_labels and not speaks(module):
            raise table.error(
                f"the objective learns from labels, so expected a column {source.label!r} in the calibration rows, but "
                f"the columns are {', '.join(table.data.column_names)}. Name it (key calibration.label), or choose an "
                "objective that needs none, such as Entropy."
            )
    classes = model.zero_shot.classes if model.zero_shot else None
    answers = None if labeled else config.data.pseudo_answers
    speech = Speech(config.data.positions, answers.max_new_tokens if answers else None)
    encoded = encode(table, module, processor, labeled=labeled, max_length=length, classes=classes, speech=speech)
    return encoded._replace(notes=(*notes, *encoded.notes))


def _pool_note(config: MergeConfig) -> list[str]:
    """Who has no calibration rows, where they are for something.

    Raises:
        ConfigError: Nobody has, or the transform of the task vectors looks at every expert's.
    """
    without = [model.name for model in config.models if model.calibration is None]
    if not without or not config.needs_rows:
        return []
    if any(transform.fisher for transform in config.transforms.values()):
        raise ConfigError(f"{', '.join(without)}: expected calibration rows (key calibration), but there are none.")
    if len(without) == len(config.models):
        raise ConfigError(
            f"{without[0]}: expected calibration rows (key calibration) of at least one task, but there are none. "
            "Name some, or take a method that needs none, such as doge, ties or average."
        )
    return [f"without calibration rows, so with coefficients alone: {', '.join(without)}"]


def _fingerprints(task: str, calibration: Mapping[str, Encoded], evaluation: Mapping[str, Encoded]) -> dict[str, str]:
    both = {"calibration": calibration, "evaluation": evaluation}
    return {purpose: tasks[task].contents.fingerprint for purpose, tasks in both.items() if task in tasks}


def _overlap_note(task: str, calibration: Mapping[str, Encoded], evaluation: Mapping[str, Encoded]) -> list[str]:
    if task not in calibration:
        return []
    both = calibration[task].contents.overlap(evaluation[task].contents)
    if not both:
        return []
    return [f"warning: {task}: {both} calibration rows stand in the evaluation rows too; its score flatters."]
