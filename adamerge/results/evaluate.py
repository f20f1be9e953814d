"""Metrics per task and their ratio to each expert's own (torchmetrics)."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias, cast

from transformers import GenerationConfig

from adamerge.calibration.pseudo_answers import answers_by, generation_of
from adamerge.data.questions import Pairs, Questions, Spans
from adamerge.data.rows import Rows
from adamerge.data.settings import PseudoAnswers
from adamerge.merging.execution import Answer, execution_of, expert_of
from adamerge.merging.merged_model import MergedModel, uniform
from adamerge.merging.work import Generate
from adamerge.results.measures import comparable, generated, measure_of
from adamerge.results.scorers import score_of_texts, scorer_of
from adamerge.types import Coefficients, ConfigError

MEAN = "mean"
"""Key of the mean over tasks; no task may have this name."""

Scores: TypeAlias = dict[str, float | None]
"""Score by task and of "mean"; None without anything to measure."""

SCALES = tuple(round(0.1 * step, 1) for step in range(1, 11))
"""Scales of task arithmetic that are tried."""


class Said(NamedTuple):
    """A generated answer.

    Attributes:
        text: The answer, without what ends it.
        ended: Whether it ended by itself.
    """

    text: str
    ended: bool


class Evaluation:
    """Evaluation on labeled rows of every task, each by its metric; percentages are 0 to 100.

    Args:
        model: All tasks' models.
        rows: Labeled rows by task.
        size: Rows per batch.
        tick: Called with the number of batches that were evaluated since the call before.

    Attributes:
        measures: What is measured, by task.
        notes: What the user should know of the experts' answers, once `experts` has run.
    """

    def __init__(
        self,
        model: MergedModel,
        rows: Mapping[str, Rows],
        size: int = 64,
        tick: Callable[[int], object] = lambda count: None,
    ) -> None:
        self._model, self._rows, self._size, self._tick = model, rows, size, tick
        self.measures = {task: measure_of(model.experts.tasks[task].kind, own) for task, own in rows.items()}
        self.notes: tuple[str, ...] = ()

    def merged(self, coefficients: Coefficients, own_head: bool = True) -> Scores:
        """Evaluate the model merged with these coefficients.

        Args:
            coefficients: (G, K).
            own_head: Whether to use each task's head and not the base's.

        Returns:
            Score by task, and their mean.
        """
        batches = {task: self._rows[task].batches(self._size) for task in self._outputs}
        with execution_of(self._model).at(coefficients) as merged:
            said = {task: self._said(task, merged.generator(task, own_head)) for task in generated(self._rows)}
            return self._scores(merged.outputs(batches, own_head=own_head), said)

    def experts(self) -> Scores:
        """Evaluate every expert on its own task."""
        said = {task: self._said(task, expert_of(self._model, task).generate) for task in generated(self._rows)}
        self.notes = tuple(note for task, answers in said.items() for note in self._unended(task, answers))
        return self._scores(self._answers_of_experts(), said)

    def base(self) -> Scores:
        """Evaluate the base with its own head; None for tasks without a fitting head."""
        fitting = {task: rows for task, rows in self._rows.items() if self._model.experts.head_of_base[task]}
        scores: Scores = dict.fromkeys([*self._rows, MEAN])
        if fitting:
            zero = uniform(self._model, 0.0)
            scores |= Evaluation(self._model, fitting, self._size, self._tick).merged(zero, own_head=False)
        return scores if len(fitting) == len(self._rows) else {**scores, MEAN: None}

    @property
    def _outputs(self) -> list[str]:
        """Tasks that are measured by outputs."""
        return [task for task in self._rows if task not in generated(self._rows)]

    def _answers_of_experts(self) -> Iterator[Answer]:
        for task in self._outputs:
            yield from expert_of(self._model, task).outputs(self._rows[task].batches(self._size))

    def _said(self, task: str, generate: Generate) -> list[Said]:
        """Generate greedy answers to one task's questions."""
        questions, expert = generated(self._rows)[task], self._model.experts.tasks[task]
        how = generation_of(expert, questions, PseudoAnswers(max_new_tokens=questions.source.max_new_tokens))
        tokens = answers_by(generate, self._model, questions, how, self._size)
        self._tick(batches_of(questions, self._size))
        return [said_of(questions, own, how) for own in tokens]

    def _unended(self, task: str, answers: Sequence[Said]) -> Iterator[str]:
        count, most = sum(not answer.ended for answer in answers), generated(self._rows)[task].source.max_new_tokens
        if count:
            yield (
                f"warning: {task}: {count} of {len(answers)} answers of the expert itself do not end within "
                f"max_new_tokens: {most}; raise it, so that its score is not too low."
            )

    def _scores(self, answers: Iterable[Answer], said: Mapping[str, Sequence[Said]]) -> Scores:
        scorers = {task: scorer_of(self._rows[task]) for task in self._outputs}
        for task, batch, outputs in answers:
            if batch.labels is None and not isinstance(self._rows[task], Pairs | Spans):
                raise ConfigError(
                    f"{task}: expected evaluation rows with labels, found none. Add labels, or leave out this task's "
                    "evaluation."
                )
            scorers[task].update(outputs, batch)
            self._tick(1)
        found = {task: scorer.value() for task, scorer in scorers.items()}
        for task, own in said.items():
            found[task] = score_of_texts(generated(self._rows)[task], [answer.text for answer in own])
        values = {task: found[task] * (100 if self.measures[task].percent else 1) for task in self._rows}
        return {**values, MEAN: mean(values) if comparable(self.measures.values()) else None}


def batches_of(rows: Rows, size: int) -> int:
    """Count the batches of some rows that an evaluation counts."""
    return sum(1 for _ in rows.divided(size))


def said_of(questions: Questions, tokens: Sequence[int], how: GenerationConfig) -> Said:
    """Return a generated answer as a text, without what ends it.

    Args:
        questions: Have the tokenizer.
        tokens: Up to and including what ends the answer.
        how: Names the tokens that end an answer.
    """
    text = str(questions.tokenizer.decode(list(tokens), skip_special_tokens=True))
    stops = cast(list[int] | None, how.eos_token_id) or []
    before, found, _ = text.partition(questions.end.text) if questions.end.text else (text, "", "")
    return Said(before, bool(found) or tokens[-1] in stops)


def mean(values: Mapping[str, float]) -> float:
    """Compute the mean over tasks.

    Example:
        >>> mean({"a": 1.0, "b": 3.0})
        2.0
    """
    return sum(values.values()) / len(values)


def relative(scores: Scores, experts: Scores, higher_is_better: bool | Mapping[str, bool]) -> Scores:
    """Compute scores in % of the expert's own, higher is better: 100·s/e, or 100·e/s if lower scores are better.

    Args:
        scores: s by task.
        experts: e, each expert's score on its own task.
        higher_is_better: True for accuracy, false for perplexity; by task where they differ.

    Returns:
        Percentage by task; None if one of the two is missing, or what is divided by is not above 0. The mean of scores
        that have none is that of the percentages.

    Example:
        >>> relative({"a": 45.0, "b": None}, {"a": 90.0, "b": 80.0}, higher_is_better=True)
        {'a': 50.0, 'b': None}
        >>> relative({"a": 45.0, "mean": None}, {"a": 90.0, "mean": None}, {"a": False})
        {'a': 200.0, 'mean': 200.0}
    """
    tasks = [task for task in scores if task != MEAN]
    higher = dict.fromkeys(tasks, higher_is_better) if isinstance(higher_is_better, bool) else dict(higher_is_better)
    ratios = {task: _ratio(scores[task], experts.get(task), higher[task]) for task in tasks}
    if MEAN not in scores:
        return ratios
    if scores[MEAN] is None and experts.get(MEAN) is None:
        known = [one for one in ratios.values() if one is not None]
        return {**ratios, MEAN: sum(known) / len(known) if known and len(known) == len(tasks) else None}
    return {**ratios, MEAN: _ratio(scores[MEAN], experts.get(MEAN), all(higher.values()))}


def _ratio(value: float | None, own: float | None, higher: bool) -> float | None:
    if value is None or own is None or (own if higher else value) <= 0:
        return None
    return 100 * (value / own if higher else own / value)
