"""Rows whose answers are measured: prompts with right answers, and choices with their likelihoods."""

import reprlib
from collections.abc import Sequence
from typing import NamedTuple, cast, get_args

from adamerge.data.answers import normalised, words
from adamerge.data.rows import Rows
from adamerge.data.settings import Encoding, EvaluationSource, Normalisation
from adamerge.data.tables import Table
from adamerge.data.text_rows import Prompts, TextRows
from adamerge.experts.model_kind import ModelKind

GENERATED = ("exact_match", "rouge", "accuracy")
"""Metrics of a language model's answers and choices."""

NORMALISE = "normalise"
"""Column that says for each row what makes no difference between its answer and the right one."""


class Question(NamedTuple):
    """What one row's answer is compared with.

    Attributes:
        right: The right answer.
        normalise: What makes no difference between two answers.
        choices: The answers to choose from; empty if any may be given.
    """

    right: str
    normalise: tuple[str, ...]
    choices: tuple[str, ...] = ()

    @property
    def place(self) -> int | None:
        """Index of the right answer among the choices."""
        spelled = [normalised(choice, self.normalise) for choice in self.choices]
        right = normalised(self.right, self.normalise)
        return spelled.index(right) if right in spelled else None


class Questions(Prompts):
    """Prompts whose generated answers are measured.

    Args:
        prompts: The prompts; each is shown as its `Question`.
        source: What is measured.

    Attributes:
        source: As given.
    """

    def __init__(self, prompts: Prompts, source: EvaluationSource) -> None:
        vars(self).update(vars(prompts))
        self.source, self.metric = source, source.metric

    @property
    def asked(self) -> Sequence[Question]:
        """What each row's answer is compared with."""
        return cast(Sequence[Question], self.shown)


class Choices(TextRows):
    """Every choice of every question as a row of its own: the prompt, and the choice as its completion.

    Args:
        rows: Token ids of the rows.
        questions: Of each row, the index of its question.
        right: Of each row, whether it is its question's right choice.
    """

    def __init__(self, rows: TextRows, questions: Sequence[int], right: Sequence[bool]) -> None:
        vars(self).update(vars(rows))
        self.questions, self.right, self.metric = tuple(questions), tuple(right), "accuracy"


class Pairs(TextRows):
    """Both texts of every pair as rows of their own: all first texts, then all second ones.

    Args:
        rows: Token ids of the rows.
        scores: How alike each pair is.
    """

    def __init__(self, rows: TextRows, scores: Sequence[float]) -> None:
        vars(self).update(vars(rows))
        self.scores = tuple(scores)


class Spans(TextRows):
    """Rows in which a span of the text is the answer.

    Args:
        rows: Token ids of the rows.
        answers: Right answers of each row; one that is empty stands for no answer.
    """

    def __init__(self, rows: TextRows, answers: Sequence[tuple[str, ...]]) -> None:
        vars(self).update(vars(rows))
        self.answers = tuple(answers)


def count_questions(rows: Rows) -> int:
    """Count rows as their source has them: choices of one question, and texts of one pair, are one row."""
    if isinstance(rows, Pairs):
        return len(rows.scores)
    return len(set(rows.questions)) if isinstance(rows, Choices) else len(rows)


def measured_as(table: Table, kind: ModelKind, encoding: Encoding) -> EvaluationSource | None:
    """Return what is measured on a language model's rows by more than the perplexity; None for all other rows.

    Args:
        table: The rows.
        kind: The kind of their model.
        encoding: Whether they are measured.

    Raises:
        ConfigError: The metric needs what model or rows do not have.
    """
    source = table.source
    if not (encoding.labeled and isinstance(source, EvaluationSource)) or source.metric in (None, "perplexity"):
        return None
    if source.metric not in GENERATED:
        raise table.error(
            f"metric: expected perplexity, exact_match, rouge or accuracy, because {kind.architecture} is a language "
            f"model, found {source.metric}. Correct the key."
        )
    if kind.predicts == "masked token":
        raise table.error(
            f"metric: {source.metric} needs a model that predicts the next token, but {kind.architecture} predicts "
            "masked tokens from both sides. Leave out this task's evaluation; its calibration can be used."
        )
    if source.metric == "accuracy" and source.choices is None:
        raise table.error(
            f"metric: accuracy of the language model {kind.architecture} is that of its choice among given answers, "
            "but no choices are configured. Write choices: [yes, no], or the name of a column of lists; or take "
            "metric: exact_match, perplexity or rouge."
        )
    return source


def check_metric(table: Table, kind: ModelKind, encoding: Encoding, known: Sequence[str], what: str) -> None:
    """Refuse a metric that does not suit rows.

    Args:
        table: The rows.
        kind: The kind of their model.
        encoding: Whether they are measured.
        known: The metrics that suit; the first is the default.
        what: What the model does, in the message.

    Raises:
        ConfigError: Names the metrics that suit.
    """
    source = table.source
    if not (encoding.labeled and isinstance(source, EvaluationSource)):
        return
    if source.metric not in (None, *known):
        raise table.error(
            f"metric: expected {' or '.join(known)}, because {kind.architecture} {what}, found {source.metric}. "
            "Correct the key, or leave it out."
        )
    if source.choices is not None:
        raise table.error(f"choices are for language models, but {kind.architecture} {what}. Remove the key.")


def right_texts(table: Table, kind: ModelKind) -> list[str]:
    """Read the right answers of rows of texts.

    Raises:
        ConfigError: No column of completions is configured.
    """
    if not table.source.completion:
        raise table.error(
            f"expected a column of right answers (key completion of the evaluation), with which those of "
            f"{kind.architecture} are compared, but none is configured. Name it, or use chat messages (key messages)."
        )
    return table.texts(table.source.completion)


def questions_of(table: Table, source: EvaluationSource, right: Sequence[str]) -> list[Question]:
    """Read what each row's answer is compared with.

    Args:
        table: The rows.
        source: What is measured.
        right: The right answers.

    Raises:
        ConfigError: A row has an unknown normalisation, no choices, or a right answer that is none of them; names it.
    """
    normalise, choices = _normalise(table, source), _choices(table, source)
    found = [Question(*row) for row in zip(right, normalise, choices, strict=True)]
    for row, one in enumerate(found):
        if source.choices is not None and one.place is None:
            raise table.error(
                f"{table.place(row)}: expected one of the choices {reprlib.repr(list(one.choices))} as the right "
                f"answer, found {reprlib.repr(one.right)}. Correct the row, or add the choice."
            )
    return found


def _normalise(table: Table, source: EvaluationSource) -> list[tuple[str, ...]]:
    if NORMALISE not in table.columns:
        return [tuple(source.normalise)] * len(table)
    return [_names(table, row, value) for row, value in enumerate(table.values(NORMALISE))]


def _names(table: Table, row: int, value: object) -> tuple[str, ...]:
    """Read one row's normalisation: a list, or a text with spaces or commas between the names."""
    names = value.replace(",", " ").split() if isinstance(value, str) else value
    known = get_args(Normalisation)
    if not isinstance(names, list) or not all(name in known for name in names):
        raise table.error(
            f"{table.place(row)}: expected some of {', '.join(known)} in the column {NORMALISE!r}, found "
            f"{reprlib.repr(value)}. Correct the row, or rename the column if it means something else."
        )
    return tuple(cast(list[str], names))


def _choices(table: Table, source: EvaluationSource) -> list[tuple[str, ...]]:
    if not isinstance(source.choices, str):
        return [tuple(source.choices or ())] * len(table)
    table.require([source.choices])
    found: list[tuple[str, ...]] = []
    for row, value in enumerate(table.values(source.choices)):
        texts = cast(list[object], value) if isinstance(value, list) else []
        if len(texts) < 2 or not all(isinstance(one, str) and one for one in texts):
            raise table.error(
                f"{table.place(row)}: expected a list of at least two texts in the column {source.choices!r}, found "
                f"{reprlib.repr(value)}. Correct or remove the row."
            )
        found.append(tuple(cast(list[str], texts)))
    return found


def question_notes(
    table: Table, source: EvaluationSource, asked: Sequence[Question], lengths: Sequence[int]
) -> list[str]:
    """Say what rows change in how they are measured, and which right answers cannot be reached.

    Args:
        table: The rows.
        source: What is measured.
        asked: The questions.
        lengths: Number of tokens of each right answer.
    """
    notes: list[str] = []
    if NORMALISE in table.columns:
        notes.append(
            f"{table.task}: the column {NORMALISE!r} says for each row what makes no difference to its answer."
        )
    long = [row for row, length in enumerate(lengths) if length > source.max_new_tokens]
    if long:
        notes.append(
            f"warning: {table.task}: {len(long)} of {len(asked)} right answers are longer than max_new_tokens: "
            f"{source.max_new_tokens}, so no generated answer can equal them; first: {table.place(long[0])}. Raise it."
        )
    left = words if source.metric == "rouge" else str
    empty = [row for row, one in enumerate(asked) if not left(normalised(one.right, one.normalise))]
    if empty:
        why = "have no word, so they score 0" if source.metric == "rouge" else "are empty once normalised"
        notes.append(
            f"warning: {table.task}: {len(empty)} of {len(asked)} right answers {why}; first: {table.place(empty[0])}."
        )
    return notes
