"""Rows of language models: texts, or prompts with completions, and the positions that count."""

from collections.abc import Sequence
from typing import ClassVar, cast

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from typing_extensions import override

from adamerge.data.choice_rows import choice_rows, prompt_room
from adamerge.data.contents import contents
from adamerge.data.input_columns import InputColumn, input_names, unread_note
from adamerge.data.language_rows import Example, awaits_answers, check_measured, example_rows, prompt_rows
from adamerge.data.modality import AnyProcessor, Encoded, Modality
from adamerge.data.questions import Questions, measured_as, question_notes, questions_of, right_texts
from adamerge.data.rows import Rows
from adamerge.data.settings import Encoding, EvaluationSource
from adamerge.data.tables import Table
from adamerge.data.text_inputs import placed, read_columns, refuse_columns
from adamerge.data.tokenize import TOKENIZER_FILES, check_padding, token_limit
from adamerge.data.tokens import added_end, cut_note, tokens_of, without_end
from adamerge.data.turns import answer_end
from adamerge.experts.experts import Expert
from adamerge.experts.model_kind import ModelKind
from adamerge.types import Fact


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
        source = measured_as(table, kind, encoding)
        if awaits_answers(encoding) or (source and source.generates):
            refuse_columns(table, expert, names, "prompts")
            rows, notes = _prompts(table, expert, tokenizer, encoding, source, limit)
        elif source:
            refuse_columns(table, expert, names, "questions")
            rows, notes = _choices(table, expert, tokenizer, source, limit)
        else:
            check_measured(table, kind, encoding, completed=table.source.completion is not None)
            examples, said = _examples(table, kind, tokenizer, limit)
            inputs, read = _inputs(table, expert, tokenizer, limit, names)
            rows, notes = example_rows(table, expert, tokenizer, encoding, examples, limit, inputs)
            notes = (*said, *read, *unread_note(table, expert.module, list(used.values())), *notes)
        return Encoded(rows, found, notes)


def _prompts(
    table: Table,
    expert: Expert,
    tokenizer: PreTrainedTokenizerBase,
    encoding: Encoding,
    source: EvaluationSource | None,
    limit: int,
) -> tuple[Rows, tuple[str, ...]]:
    """Make prompts that await answers, to be learned from or to be measured as `source` says."""
    room = prompt_room(table, expert.kind, tokenizer, encoding, source, limit)
    texts = table.texts(table.source.text)
    open_ids, said = _open(table, expert.kind, tokenizer, room, texts)
    end, about = answer_end(table, expert, tokenizer)
    notes = (*said, *about)
    if source is None:
        rows, dropped = prompt_rows(table, expert, tokenizer, encoding, open_ids, texts, room, end)
        return rows, (*notes, *dropped, *_replaced(table))
    right = right_texts(table, expert.kind)
    asked = questions_of(table, source, right)
    rows, dropped = prompt_rows(table, expert, tokenizer, encoding, open_ids, asked, room, end)
    lengths = [len(ids) for ids in tokens_of(table, tokenizer, limit, right, add_special_tokens=False).ids]
    return Questions(rows, source), (*notes, *dropped, *question_notes(table, source, asked, lengths))


def _replaced(table: Table) -> tuple[Fact, ...]:
    """Say that completions are not read where answers are generated."""
    if table.source.completion is None:
        return ()
    place = f"{table.task}: {table.source.path}"
    return (Fact(f"{place}: {table.source.completion!r} is not read: answers are generated (data.pseudo_answers)."),)


def _open(
    table: Table, kind: ModelKind, tokenizer: PreTrainedTokenizerBase, room: int, texts: Sequence[str]
) -> tuple[list[list[int]], tuple[str, ...]]:
    """Tokenise prompts, without what the tokenizer puts after a text; also return notes for the user."""
    prompts = tokens_of(table, tokenizer, room, texts, what="prompts")
    after = [] if kind.encoder_decoder else added_end(tokenizer)
    said = (*prompts.all_notes(table, "prompts"), *_end_note(table, tokenizer, after, "not added to prompts"))
    return [without_end(ids, after) for ids in prompts.ids], said


def _choices(
    table: Table, expert: Expert, tokenizer: PreTrainedTokenizerBase, source: EvaluationSource, limit: int
) -> tuple[Rows, tuple[str, ...]]:
    """Make a row of every choice of every question, each ended as the tokenizer ends a text."""
    kind = expert.kind
    asked = questions_of(table, source, right_texts(table, kind))
    open_ids, said = _open(table, kind, tokenizer, limit, table.texts(table.source.text))
    target, after = kind.encoder_decoder, [] if kind.encoder_decoder else added_end(tokenizer)
    every = [choice for one in asked for choice in one.choices]
    ids = iter(tokens_of(table, tokenizer, limit, every, what="choices", add_special_tokens=target, target=target).ids)
    examples = [
        [Example(prompt, [*next(ids), *after]) for _ in one.choices]
        for prompt, one in zip(open_ids, asked, strict=True)
    ]
    rows, notes = choice_rows(table, expert, tokenizer, examples, asked, limit)
    return rows, (*said, *notes, *question_notes(table, source, asked, []))


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
