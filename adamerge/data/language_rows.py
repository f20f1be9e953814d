"""Token ids of a language model's rows → rows to learn from, to answer or to measure."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from adamerge.data.input_columns import InputColumn
from adamerge.data.rows import Rows
from adamerge.data.settings import Encoding
from adamerge.data.tables import Table
from adamerge.data.text_inputs import of_rows
from adamerge.data.text_rows import Prompts, TextRows
from adamerge.data.tokens import check_ids, decoder_start
from adamerge.data.turns import AnswerEnd
from adamerge.experts.experts import Expert
from adamerge.experts.model_kind import ModelKind, classes_by_token


class Example(NamedTuple):
    """One row of a language model as token ids.

    Attributes:
        prompt: The given tokens; the whole text if there is no completion.
        completion: The tokens that follow it, or the decoder's output.
    """

    prompt: list[int]
    completion: list[int]


def awaits_answers(encoding: Encoding) -> bool:
    """Return whether the expert answers the rows before learning; labels are never replaced by answers."""
    return encoding.answer_tokens is not None and not encoding.labeled


def prompt_limit(table: Table, kind: ModelKind, answer: int, limit: int, key: str) -> int:
    """Compute the maximum number of tokens per prompt: a decoder-only model also needs room for the answer.

    Args:
        table: Names task and file in the error.
        kind: The kind of the model.
        answer: Maximum number of tokens per answer.
        limit: Maximum number of tokens per row.
        key: The setting that `answer` is from.

    Returns:
        The maximum, at least 1.

    Raises:
        ConfigError: The model cannot generate, or no room is left.
    """
    if kind.predicts == "masked token":
        raise table.error(
            f"data.pseudo_answers needs a model that generates, but {kind.architecture} cannot generate. Remove "
            "data.pseudo_answers, or leave out this task's calibration."
        )
    room = limit if kind.encoder_decoder else limit - answer
    if room < 1:
        raise table.error(
            f"answers of {answer} tokens ({key}) leave no room for a prompt in rows of {limit} tokens "
            "(data.max_length). Lower max_new_tokens, or raise max_length if the model allows it."
        )
    return room


def prompt_rows(
    table: Table,
    expert: Expert,
    tokenizer: PreTrainedTokenizerBase,
    encoding: Encoding,
    prompts: Sequence[list[int]],
    shown: Sequence[object],
    room: int,
    end: AnswerEnd,
) -> tuple[Prompts, tuple[str, ...]]:
    """Make rows of prompts awaiting answers; drop prompts without tokens or with more than `room` and note the count.

    Args:
        table: The rows as they were read.
        expert: The task's expert.
        tokenizer: Pads the prompts.
        encoding: Which positions count.
        prompts: Token ids of each prompt.
        shown: The same in readable form: a text, or chat messages.
        room: Maximum number of tokens per prompt.
        end: What ends an answer.

    Returns:
        The rows, and notes for the user.

    Raises:
        ConfigError: No prompt is left, or the model cannot be used.
    """
    kept = [i for i, prompt in enumerate(prompts) if 0 < len(prompt) <= room]
    if not kept:
        raise table.error(
            f"no row has a prompt of 1 to {room} tokens, so there is nothing to answer. Raise data.max_length or use "
            "shorter prompts."
        )
    check_ids(table, expert, tokenizer, prompts)
    rows = Prompts(
        [prompts[i] for i in kept],
        [shown[i] for i in kept],
        tokenizer,
        start=decoder_start(table, expert),
        completion_only=encoding.positions == "completion",
        end=end,
    )
    _try(table, expert, rows.answered([[0]] * len(rows)))
    return rows, _dropped(table, len(prompts) - len(kept), len(prompts), room)


def check_measured(table: Table, kind: ModelKind, encoding: Encoding, *, completed: bool) -> None:
    """Reject rows without a position that counts, or whose perplexity is meaningless.

    Args:
        table: The rows.
        kind: The kind of their model.
        encoding: Which positions count, and whether perplexity is measured.
        completed: Whether the rows have completions.

    Raises:
        ConfigError: Names what to use instead.
    """
    if encoding.labeled and kind.predicts == "masked token":
        raise table.error(
            f"{kind.architecture} predicts masked tokens from both sides; perplexity of the next token, the metric of "
            "language models, is meaningless for it. Leave out this task's evaluation; its calibration can be used."
        )
    if encoding.labeled and kind.encoder_decoder and not table.source.completion:
        raise table.error(
            f"expected a column of completions (key completion of the evaluation), because the perplexity of "
            f"{kind.architecture} is measured on them, but none is configured. Name it, or leave out this task's "
            "evaluation."
        )
    if encoding.positions == "completion" and not completed:
        raise table.error(
            "expected a column of completions, because only completions count (data.positions: completion), but none "
            "is configured. Name it (key completion), use chat messages (key messages), or let the experts generate "
            "the answers (data.pseudo_answers)."
        )


def example_rows(
    table: Table,
    expert: Expert,
    tokenizer: PreTrainedTokenizerBase,
    encoding: Encoding,
    examples: Sequence[Example],
    limit: int,
    inputs: Mapping[str, InputColumn] | None = None,
) -> tuple[Rows, tuple[str, ...]]:
    """Make rows for learning or evaluation; drop rows in which no position counts and note the number dropped.

    Args:
        table: The rows as they were read.
        expert: The task's expert.
        tokenizer: Pads the rows.
        encoding: Which positions count.
        examples: The rows as token ids.
        limit: Maximum number of tokens per row.
        inputs: Other inputs of the model by argument.

    Returns:
        The rows, and notes for the user.

    Raises:
        ConfigError: No row is left, or the model cannot be used.
    """
    kept = [i for i, row in enumerate(examples) if _counted(row, expert.kind, encoding) > 0]
    if not kept:
        what = "perplexity cannot be measured" if encoding.labeled else "nothing can be learned from them"
        raise table.error(
            f"no row has a token to predict within {limit} tokens, so {what}. Raise data.max_length or use other rows."
        )
    check_ids(table, expert, tokenizer, ([*row.prompt, *row.completion] for row in examples))
    chosen = [examples[i] for i in kept]
    rows = _joined(chosen, decoder_start(table, expert), tokenizer, encoding, of_rows(inputs or {}, kept))
    _try(table, expert, rows)
    return rows, _dropped(table, len(examples) - len(kept), len(examples), limit)


def _joined(
    kept: Sequence[Example],
    start: int | None,
    tokenizer: PreTrainedTokenizerBase,
    encoding: Encoding,
    inputs: Mapping[str, InputColumn],
) -> TextRows:
    """Join each prompt and its completion into one sequence, or into the inputs of an encoder and a decoder."""
    if start is not None:
        targets = [[start, *row.completion] for row in kept]
        prompts = [row.prompt for row in kept]
        return TextRows(prompts, tokenizer, per_token=True, targets=targets, inputs=inputs)
    counted = [len(row.prompt) for row in kept] if encoding.positions == "completion" else None
    whole = [[*row.prompt, *row.completion] for row in kept]
    return TextRows(whole, tokenizer, per_token=True, counted=counted, inputs=inputs)


def _counted(row: Example, kind: ModelKind, encoding: Encoding) -> int:
    """Compute the number of positions that count in a row; with labels, only positions whose next token is known."""
    only_completion = encoding.positions == "completion"
    if kind.encoder_decoder:
        return len(row.completion) if encoding.labeled or only_completion else max(len(row.completion), 1)
    if only_completion:
        return len(row.completion) if row.prompt else len(row.completion) - 1
    return len(row.prompt) + len(row.completion) - int(encoding.labeled)


def _try(table: Table, expert: Expert, rows: TextRows) -> None:
    """Run the model once on the longest row."""
    longest = rows.by_length(range(len(rows)))[:1]
    classes_by_token(expert.module, expert.kind, rows.batch(longest).inputs, table.task)


def _dropped(table: Table, count: int, total: int, limit: int) -> tuple[str, ...]:
    if not count:
        return ()
    return (
        f"{table.task}: {table.source.path}: {count} of {total} rows are dropped: none of their positions counts "
        f"within {limit} tokens (see data.max_length and data.positions).",
    )
