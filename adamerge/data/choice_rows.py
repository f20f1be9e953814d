"""Every choice of every question as a row, and how long a prompt may be whose answer is measured."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from adamerge.data.language_rows import Example, example_rows, prompt_limit
from adamerge.data.questions import Choices, Question
from adamerge.data.settings import Encoding, EvaluationSource
from adamerge.data.tables import Table
from adamerge.data.text_rows import TextRows
from adamerge.data.tokenize import token_limit
from adamerge.experts.experts import Expert
from adamerge.experts.model_kind import ModelKind


def choice_rows(
    table: Table,
    expert: Expert,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Sequence[Example]],
    asked: Sequence[Question],
    limit: int,
) -> tuple[Choices, tuple[str, ...]]:
    """Make a row of every choice; questions of which a choice does not fit are dropped whole, and counted.

    Args:
        table: The rows as they were read.
        expert: The task's expert.
        tokenizer: Pads the rows.
        examples: Of every question, a row of each choice.
        asked: The questions.
        limit: Maximum number of tokens per row.

    Returns:
        The rows, and notes for the user.

    Raises:
        ConfigError: No question is left.
    """
    kept = [i for i, own in enumerate(examples) if all(_fits(one, expert.kind, limit) for one in own)]
    if not kept:
        raise table.error(
            f"no question fits with all its choices within {limit} tokens. Raise data.max_length or use other rows."
        )
    flat = [(place, choice, one) for place, i in enumerate(kept) for choice, one in enumerate(examples[i])]
    encoding = Encoding(labeled=True, positions="completion")
    rows, notes = example_rows(table, expert, tokenizer, encoding, [one for *_, one in flat], limit)
    assert isinstance(rows, TextRows)
    assert len(rows) == len(flat)  # `_fits` leaves nothing to drop
    right = [asked[kept[place]].place == choice for place, choice, _ in flat]
    dropped = len(examples) - len(kept)
    lost = f"{table.task}: {table.source.path}: {dropped} of {len(examples)} questions are dropped"
    notes += (f"{lost}: longer than {limit} tokens with a choice (data.max_length), or empty.",) if dropped else ()
    return Choices(rows, [place for place, *_ in flat], right), notes


def _fits(one: Example, kind: ModelKind, limit: int) -> bool:
    whole = max(len(one.prompt), len(one.completion)) if kind.encoder_decoder else len(one.prompt) + len(one.completion)
    return bool(one.prompt and one.completion) and whole <= limit


def prompt_room(
    table: Table,
    kind: ModelKind,
    tokenizer: PreTrainedTokenizerBase,
    encoding: Encoding,
    source: EvaluationSource | None,
    limit: int,
) -> int:
    """Compute the maximum number of tokens of a prompt that is to be answered.

    Args:
        table: Names task and file in the error.
        kind: The kind of the model.
        tokenizer: Has a maximum length.
        encoding: Maximum number of tokens of an answer to learn from.
        source: What is measured, of which the answer may be longer than data.max_length; None for rows to learn from.
        limit: Maximum number of tokens per row.
    """
    if source is None:
        return prompt_limit(table, kind, encoding.answer_tokens or 0, limit, "data.pseudo_answers.max_new_tokens")
    most = token_limit(kind, tokenizer, None)
    return min(limit, prompt_limit(table, kind, source.max_new_tokens, most, "max_new_tokens of the evaluation"))
