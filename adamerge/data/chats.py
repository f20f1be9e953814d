"""Rows of chat messages: checked one by one and rendered by the tokenizer's chat template."""

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, TypeAlias, cast

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from typing_extensions import override

from adamerge.data.contents import contents
from adamerge.data.input_columns import input_names
from adamerge.data.language import Example, example_rows, prompt_rows
from adamerge.data.language_checks import awaits_answers, check_measured, prompt_limit
from adamerge.data.modality import AnyProcessor, Encoded, Modality
from adamerge.data.read_files import first_line
from adamerge.data.settings import Encoding
from adamerge.data.sharegpt import as_messages, is_sharegpt, unknown_speaker
from adamerge.data.tables import Table
from adamerge.data.text_inputs import refuse_columns
from adamerge.data.tokenize import TOKENIZER_FILES, check_padding, token_limit
from adamerge.data.tokens import cut_note, special_tokens, spelling_note
from adamerge.data.turns import answer_end
from adamerge.experts.experts import Expert
from adamerge.experts.model_kind import ModelKind
from adamerge.types import Fact, quoted

Message: TypeAlias = Mapping[str, object]

ASSISTANT = "assistant"
"""Role of the messages that are answers."""

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
        if awaits_answers(encoding):
            room = prompt_limit(table, kind, encoding, limit)
            _check_continues(table, kind)
            shown = [question(table, chat, i) for i, chat in enumerate(read_chats(table, tokenizer), 1)]
            prompts = [render(table, tokenizer, chat, i, answer_next=True) for i, chat in enumerate(shown, 1)]
            end, said = answer_end(table, expert, tokenizer, shown[0])
            rows, notes = prompt_rows(table, expert, tokenizer, encoding, prompts, shown, room, end)
            said += _spelling_note(table, tokenizer, shown)
        else:
            check_measured(table, kind, encoding, completed=True)
            _check_continues(table, kind)
            chats = read_chats(table, tokenizer)
            examples, said = _examples(table, tokenizer, chats, encoding, limit)
            rows, notes = example_rows(table, expert, tokenizer, encoding, examples, limit)
            said += _spelling_note(table, tokenizer, chats)
        return Encoded(rows, found, (*_form_note(table), *said, *notes))


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
        ConfigError: The tokenizer has no chat template, or a row has no messages or an invalid one; names the row.
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
    return chats


def question(table: Table, chat: Sequence[Message], number: int) -> Sequence[Message]:
    """Remove the assistant's turns from the end of a chat; the rest is a prompt awaiting an answer.

    Args:
        table: Names task and file in the error.
        chat: The messages of one row.
        number: Number of the row, from 1, for the error.

    Returns:
        The messages up to the last one that is not the assistant's.

    Raises:
        ConfigError: All messages are the assistant's; names the row.
    """
    end = len(chat)
    while end and chat[end - 1]["role"] == ASSISTANT:
        end -= 1
    if not end:
        raise table.error(
            f"{table.place(number - 1)} has no prompt: expected at least one message before the answer, but all "
            f"messages have the role {ASSISTANT!r}. Correct or remove the row."
        )
    return chat[:end]


def render(
    table: Table,
    tokenizer: PreTrainedTokenizerBase,
    chat: Sequence[Message],
    number: int,
    *,
    answer_next: bool = False,
) -> list[int]:
    """Render a chat as token ids.

    Args:
        table: Names task and file in the error.
        tokenizer: Has a chat template.
        chat: The messages of one row.
        number: Number of the row, from 1, for the error.
        answer_next: Whether to append the tokens that begin the assistant's next turn.

    Returns:
        The token ids.

    Raises:
        ConfigError: The template rejects the messages; names the row.
    """
    messages = cast(list[dict[str, str]], list(chat))
    try:
        ids = tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=False, add_generation_prompt=answer_next
        )
    except Exception as error:  # templates are programs of others
        raise table.error(
            f"{table.place(number - 1)}: the tokenizer's chat template rejects the messages ({first_line(error)}). "
            "Correct or remove the row."
        ) from error
    return cast(list[int], ids)


def render_last_turn(
    table: Table, tokenizer: PreTrainedTokenizerBase, chat: Sequence[Message], number: int
) -> tuple[list[int], list[int]]:
    """Render a chat as token ids and divide them where the assistant's last turn begins.

    A template may render a prompt differently when an answer follows; the prompt is the common start of both
    renderings.

    Args:
        table: Names task and file in the error.
        tokenizer: Has a chat template.
        chat: The messages of one row.
        number: Number of the row, from 1, for the error.

    Returns:
        The token ids of the prompt and those of the last turn.

    Raises:
        ConfigError: The last message is not the assistant's, or the template rejects the messages; names the row.
    """
    if chat[-1]["role"] != ASSISTANT:
        raise table.error(
            f"{table.place(number - 1)} ends with a message of {chat[-1]['role']!r}: with data.positions: completion "
            f"the last message must have the role {ASSISTANT!r}. Correct the row, set data.positions: all, or let the "
            "experts generate the answers (data.pseudo_answers)."
        )
    whole = render(table, tokenizer, chat, number)
    prompt = render(table, tokenizer, chat[:-1], number, answer_next=True) if len(chat) > 1 else []
    common = next((i for i, (one, two) in enumerate(zip(whole, prompt, strict=False)) if one != two), len(prompt))
    return whole[:common], whole[common:]


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


def _form_note(table: Table) -> tuple[str, ...]:
    """Note how many chats are in ShareGPT's form."""
    chats = table.values(cast(str, table.source.messages))
    count = sum(isinstance(chat, list) and is_sharegpt(cast(list[object], chat)) for chat in chats)
    if not count:
        return ()
    place = f"{table.task}: {table.source.path}"
    return (
        Fact(
            f"{place}: {count} of {len(chats)} chats are in ShareGPT's form (from, value); human is read as user, gpt "
            "as assistant."
        ),
    )


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
