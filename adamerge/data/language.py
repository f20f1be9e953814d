"""Rows of language models: texts, or prompts with completions, and the positions that count."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple, cast

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from typing_extensions import override

from adamerge.data.contents import contents
from adamerge.data.input_columns import InputColumn, input_names, unread_note
from adamerge.data.language_checks import awaits_answers, check_measured, prompt_limit
from adamerge.data.modality import AnyProcessor, Encoded, Modality
from adamerge.data.rows import Rows
from adamerge.data.settings import Encoding
from adamerge.data.tables import Table
from adamerge.data.text_inputs import of_rows, placed, read_columns, refuse_columns
from adamerge.data.text_rows import Prompts, TextRows
from adamerge.data.tokenize import TOKENIZER_FILES, check_padding, token_limit
from adamerge.data.tokens import added_end, check_ids, cut_note, decoder_start, tokens_of, without_end
from adamerge.data.turns import AnswerEnd, answer_end
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


class Language(Modality):
    """Texts, or prompts with completions, for language models.

    Prompt and completion are tokenised separately and joined. The completion of an encoder-decoder gets the special
    tokens that its tokenizer adds to a text; of a decoder-only model, those before a text stand before the prompt, and
    those after it after the completion.
    """

    main_input: ClassVar = "input_ids"
    loader: ClassVar = AutoTokenizer
    loads: ClassVar = "tokenizer"
    files: ClassVar = TOKENIZER_FILES

    @override
    def fits(self, kind: ModelKind, table: Table) -> bool:
        return kind.language_model

    @override
    def columns(self, table: Table, encoding: Encoding) -> dict[str, str]:
        source = table.source
        completed = source.completion and not awaits_answers(encoding)
        return {"text": source.text, **({"completion": source.completion} if completed and source.completion else {})}

    @override
    def encode(self, table: Table, expert: Expert, processor: AnyProcessor, encoding: Encoding) -> Encoded:
        tokenizer, kind = cast(PreTrainedTokenizerBase, processor), expert.kind
        used = self.columns(table, encoding)
        names = input_names(table, expert.module, [*used.values(), table.source.label])
        found = contents(table, {**used, **{name: name for name in names}})
        check_padding(table.task, kind, tokenizer)
        limit = token_limit(kind, tokenizer, encoding.max_length)
        if awaits_answers(encoding):
            room = prompt_limit(table, kind, encoding, limit)
            shown = table.texts(table.source.text)
            refuse_columns(table, expert, names, "prompts")
            prompts = tokens_of(table, tokenizer, room, shown, what="prompts")
            said = prompts.all_notes(table, "prompts")
            after = [] if kind.encoder_decoder else added_end(tokenizer)
            said += _end_note(table, tokenizer, after, "not added to prompts")
            end, about = answer_end(table, expert, tokenizer)
            open_ids = [without_end(ids, after) for ids in prompts.ids]
            rows, notes = prompt_rows(table, expert, tokenizer, encoding, open_ids, shown, room, end)
            said += about
        else:
            check_measured(table, kind, encoding, completed=table.source.completion is not None)
            examples, said = _examples(table, kind, tokenizer, limit)
            inputs, read = _inputs(table, expert, tokenizer, limit, names)
            rows, notes = example_rows(table, expert, tokenizer, encoding, examples, limit, inputs)
            said += (*read, *unread_note(table, expert.module, list(used.values())))
        return Encoded(rows, found, (*said, *notes))


def prompt_rows(
    table: Table,
    expert: Expert,
    tokenizer: PreTrainedTokenizerBase,
    encoding: Encoding,
    prompts: Sequence[list[int]],
    shown: Sequence[object],
    room: int,
    end: AnswerEnd,
) -> tuple[Rows, tuple[str, ...]]:
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


def _inputs(
    table: Table, expert: Expert, tokenizer: PreTrainedTokenizerBase, limit: int, names: Sequence[str]
) -> tuple[dict[str, InputColumn], list[str]]:
    """Read columns of rows of texts that are inputs of the model; also return how."""
    if not names:
        return {}, []
    if table.source.completion and not expert.kind.encoder_decoder:
        refuse_columns(table, expert, names, "texts with completions")
    texts = table.texts(table.source.text)
    encoded = placed(table, tokenizer, names, limit, texts)
    return read_columns(table, expert, tokenizer, names, texts, encoded)


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


def _examples(
    table: Table, kind: ModelKind, tokenizer: PreTrainedTokenizerBase, limit: int
) -> tuple[list[Example], tuple[str, ...]]:
    """Tokenise the texts and their completions; also return notes for the user."""
    what = "prompts" if table.source.completion else "texts"
    prompts = tokens_of(table, tokenizer, limit, table.texts(table.source.text), what=what)
    notes = prompts.all_notes(table, what)
    if not table.source.completion:
        return [Example(prompt, []) for prompt in prompts.ids], notes
    texts = table.texts(table.source.completion)
    target, what = kind.encoder_decoder, "completions"
    tokens = tokens_of(table, tokenizer, limit, texts, what=what, add_special_tokens=target, target=target)
    notes += tokens.all_notes(table, what)
    pairs = list(zip(prompts.ids, tokens.ids, texts, strict=True))
    if kind.encoder_decoder:
        return [Example(prompt, ids if text else []) for prompt, ids, text in pairs], notes
    after = added_end(tokenizer)
    notes += _end_note(table, tokenizer, after, "moved from the prompt to the end of the completion")
    rows = [(without_end(prompt, after), [*ids, *after] if text else []) for prompt, ids, text in pairs]
    long = [i for i, (prompt, ids) in enumerate(rows) if len(prompt) + len(ids) > limit]
    notes += cut_note(table, "prompts with their completions", long, len(rows), limit)
    whole = [len(prompt) < limit for prompt in prompts.ids]  # a prompt that was cut has no completion
    left = [limit - len(prompt) if fits else 0 for (prompt, _), fits in zip(rows, whole, strict=True)]
    return [Example(prompt, ids[:room]) for (prompt, ids), room in zip(rows, left, strict=True)], notes


def _end_note(table: Table, tokenizer: PreTrainedTokenizerBase, after: Sequence[int], what: str) -> tuple[str, ...]:
    """Note that the tokenizer's end of a text is not where it would end the prompt."""
    if not after:
        return ()
    words = " ".join(map(str, tokenizer.convert_ids_to_tokens(list(after))))
    return (f"{table.task}: the tokenizer ends a text with {words}, which is {what}.",)


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
