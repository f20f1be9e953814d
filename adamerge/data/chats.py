"""Rows of chat messages: checked one by one and rendered by the tokenizer's chat template."""

import reprlib
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, cast

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from typing_extensions import override

from adamerge.data.asked_chats import asked_chats
from adamerge.data.bounded import check_chats
from adamerge.data.contents import contents
from adamerge.data.input_columns import input_names
from adamerge.data.language_rows import Example, awaits_answers, check_measured, example_rows
from adamerge.data.modality import AnyProcessor, Encoded, Modality
from adamerge.data.odd_turns import odd_turns
from adamerge.data.questions import measured_as
from adamerge.data.rendered import Message, question, render, render_last_turn
from adamerge.data.settings import Encoding
from adamerge.data.sharegpt import as_messages, form_notes, unknown_speaker
from adamerge.data.tables import Table
from adamerge.data.text_inputs import refuse_columns
from adamerge.data.tokenize import TOKENIZER_FILES, check_padding, token_limit
from adamerge.data.tokens import cut_note, special_tokens, spelling_note
from adamerge.data.unprinted import joined_parts, unprinted_notes
from adamerge.experts.experts import Expert
from adamerge.experts.model_kind import ModelKind
from adamerge.types import quoted

MESSAGES = "messages"
"""Column of chat messages if the table has no column of texts and the configuration names none."""

CONVERSATIONS = "conversations"
"""The same where chats are in ShareGPT's form."""


class Chat(Modality):
    """Chat messages for decoder-only language models; the assistant's last turn is the completion."""

    main_input: ClassVar = "input_ids"
    loader: ClassVar = AutoTokenizer
    loads: ClassVar = "tokenizer"
    files: ClassVar = TOKENIZER_FILES

    @override
    def fits(self, kind: ModelKind, table: Table) -> bool:
        found = table.source.text not in table.columns and chat_column(table) in table.columns
        return kind.language_model and (bool(table.source.messages) or found)

    @override
    def columns(self, table: Table, encoding: Encoding) -> dict[str, str]:
        return {"messages": chat_column(table)}

    @override
    def encode(self, table: Table, expert: Expert, processor: AnyProcessor, encoding: Encoding) -> Encoded:
        tokenizer, kind = cast(PreTrainedTokenizerBase, processor), expert.kind
        table = replace(table, source=replace(table.source, messages=chat_column(table)))
        found = contents(table, self.columns(table, encoding))
        names = input_names(table, expert.module, [chat_column(table), table.source.label])
        refuse_columns(table, expert, names, "chats")
        check_padding(table.task, kind, tokenizer)
        limit = token_limit(kind, tokenizer, encoding.max_length)
        source = measured_as(table, kind, encoding)
        if awaits_answers(encoding) or source:
            _check_continues(table, kind)
            written = read_chats(table, tokenizer)
            chats = joined_parts(tokenizer, written)
            rows, said = asked_chats(table, expert, tokenizer, encoding, source, chats, limit)
            chats = [question(table, chat, i) for i, chat in enumerate(chats, 1)]
        else:
            check_measured(table, kind, encoding, completed=True)
            _check_continues(table, kind)
            written = read_chats(table, tokenizer)
            chats = joined_parts(tokenizer, written)
            examples, said = _examples(table, tokenizer, chats, encoding, limit)
            rows, notes = example_rows(table, expert, tokenizer, encoding, examples, limit)
            said += notes
        said += (
            *odd_turns(table, written, encoding, answered=awaits_answers(encoding)),
            *unprinted_notes(table, tokenizer, written, chats),
            *_spelling_note(table, tokenizer, chats),
        )
        return Encoded(rows, found, (*form_notes(table, chat_column(table)), *said))


def chat_column(table: Table) -> str:
    """Return the column of chats: the one that is named, or messages, or conversations if that is there instead."""
    usual = next((name for name in (MESSAGES, CONVERSATIONS) if name in table.columns), MESSAGES)
    return table.source.messages or usual


def read_chats(table: Table, tokenizer: PreTrainedTokenizerBase) -> list[list[Message]]:
    """Read the messages of every row, without keys whose value is None.

    Args:
        table: The rows; its source names the column of messages.
        tokenizer: Must have a chat template.

    Returns:
        The messages of each row.

    Raises:
        ConfigError: The tokenizer has no chat template, or one without bounds, or a row has no messages or an invalid
            one; names the row.
    """
    column = cast(str, table.source.messages)
    if not tokenizer.chat_template:
        raise table.error(
            "rows of chat messages need a chat template, but neither the expert's tokenizer nor the base's has one. "
            "Copy chat_template.jinja (or the tokenizer_config.json that contains it) from the fine-tuned model, or "
            "use rows of texts (key text)."
        )
    chats: list[list[Message]] = []
    for number, messages in enumerate(table.values(column), 1):
        if not isinstance(messages, list) or not messages:
            raise table.error(
                f"{table.place(number - 1)} has no messages in {column!r}: expected a list such as "
                f'[{{"role": "user", "content": "..."}}], found {reprlib.repr(messages)}. Correct or remove the row.'
            )
        messages = as_messages(cast(list[object], messages))
        for place, message in enumerate(messages, 1):
            problem = _problem(message)
            if problem:
                raise table.error(
                    f"{table.place(number - 1)}: message {place} of {column!r} {problem}: expected a message such as "
                    '{"role": "user", "content": "..."}. Correct or remove the row.'
                )
        chats.append([_without_empty(cast(Message, message)) for message in messages])
    check_chats(table, tokenizer, chats)
    return chats


def _examples(
    table: Table,
    tokenizer: PreTrainedTokenizerBase,
    chats: Sequence[Sequence[Message]],
    encoding: Encoding,
    limit: int,
) -> tuple[list[Example], tuple[str, ...]]:
    """Render the chats and cut them at `limit` tokens; also return a note of how many were cut."""
    rows: list[Example] = []
    for number, chat in enumerate(chats, 1):
        if encoding.positions == "completion":
            rows.append(Example(*render_last_turn(table, tokenizer, chat, number)))
        else:
            rows.append(Example(render(table, tokenizer, chat, number), []))
    long = [i for i, (prompt, turn) in enumerate(rows) if len(prompt) + len(turn) > limit]
    cut = [Example(prompt[:limit], turn[: max(limit - len(prompt), 0)]) for prompt, turn in rows]
    return cut, cut_note(table, "chats", long, len(rows), limit)


def _spelling_note(
    table: Table, tokenizer: PreTrainedTokenizerBase, chats: Sequence[Sequence[Message]]
) -> tuple[str, ...]:
    """Note how many chats have a message that spells a special token, which the template does not tell from its own."""
    words = special_tokens(tokenizer).values()
    texts = [" ".join(str(message.get("content")) for message in chat) for chat in chats]
    spelled = [i for i, text in enumerate(texts) if any(word in text for word in words)]
    return spelling_note(table, "chats", spelled, len(chats))


def _check_continues(table: Table, kind: ModelKind) -> None:
    """Reject chats for an encoder-decoder, whose prompt is the input of the encoder."""
    if kind.encoder_decoder:
        raise table.error(
            f"chat messages (key messages) need a decoder-only model, but {kind.architecture} has an encoder for the "
            "prompt. Use a column of texts (key text) and a column of completions (key completion)."
        )


def _without_empty(message: Message) -> Message:
    return {key: value for key, value in message.items() if value is not None}


def _problem(message: object) -> str | None:
    """Describe what is wrong with a message, or return None."""
    if speaker := unknown_speaker(message):
        return speaker
    if not isinstance(message, dict):
        return f"is {quoted(message)}"
    if not isinstance(message.get("role"), str) or not message["role"]:
        return "has no role"
    if isinstance(message.get("content"), str | list) or message.get("tool_calls"):
        return None
    return "has no content"
