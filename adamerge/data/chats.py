"""Rows of chat messages: checked one by one, and rendered by the tokenizer's chat template."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, TypeAlias, cast

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from typing_extensions import override

from adamerge.data.contents import contents
from adamerge.data.language import (
    Example,
    awaits_answers,
    check_measured,
    example_rows,
    prompt_limit,
    prompt_rows,
)
from adamerge.data.modality import Encoded, Modality, Processor
from adamerge.data.settings import Encoding
from adamerge.data.tables import Table
from adamerge.data.tokenize import check_padding, token_limit
from adamerge.experts.experts import Expert
from adamerge.experts.model_kind import ModelKind

Message: TypeAlias = Mapping[str, object]

ASSISTANT = "assistant"
"""Whose turns are answers."""

MESSAGES = "messages"
"""The column that is taken where there is no column of texts and none is named."""


class Chat(Modality):
    """Chat messages, for language models that continue them; the assistant's last turn is the completion."""

    main_input: ClassVar = "input_ids"
    loader: ClassVar = AutoTokenizer
    loads: ClassVar = "tokenizer"

    @override
    def fits(self, kind: ModelKind, table: Table) -> bool:
        columns = table.data.column_names
        found = table.source.text not in columns and MESSAGES in columns
        return kind.language_model and (bool(table.source.messages) or found)

    @override
    def columns(self, table: Table, encoding: Encoding) -> dict[str, str]:
        return {"messages": table.source.messages or MESSAGES}

    @override
    def encode(self, table: Table, expert: Expert, processor: Processor, encoding: Encoding) -> Encoded:
        tokenizer, kind = cast(PreTrainedTokenizerBase, processor), expert.kind
        table = replace(table, source=replace(table.source, messages=table.source.messages or MESSAGES))
        found = contents(table, self.columns(table, encoding))
        check_padding(table.task, kind, tokenizer)
        limit = token_limit(kind, tokenizer, encoding.max_length)
        if awaits_answers(encoding):
            room = prompt_limit(table, kind, encoding, limit)
            _check_continues(table, kind)
            shown = [question(table, chat, i) for i, chat in enumerate(read_chats(table, tokenizer), 1)]
            prompts = [render(table, tokenizer, chat, i, answer_next=True) for i, chat in enumerate(shown, 1)]
            rows, notes = prompt_rows(table, expert, tokenizer, encoding, prompts, shown, room)
        else:
            check_measured(table, kind, encoding, completed=True)
            _check_continues(table, kind)
            examples = _examples(table, tokenizer, encoding, limit)
            rows, notes = example_rows(table, expert, tokenizer, encoding, examples, limit)
        return Encoded(rows, found, notes)


def read_chats(table: Table, tokenizer: PreTrainedTokenizerBase) -> list[list[Message]]:
    """Read every row's messages, without keys whose value is None.

    Raises:
        ConfigError: The tokenizer has no chat template, or a row has no messages or malformed ones; names the row.
    """
    column = cast(str, table.source.messages)
    if not tokenizer.chat_template:
        raise table.error(
            "the rows are chat messages, but the base's tokenizer has no chat template. Copy chat_template.jinja (or "
            "the tokenizer_config.json that holds it) from the model that was fine-tuned, or give texts (key text)."
        )
    chats: list[list[Message]] = []
    for number, messages in enumerate(table.values(column), 1):
        if not isinstance(messages, list) or not messages:
            raise table.error(
                f"row {number} has no messages in {column!r}; expected a list such as "
                '[{"role": "user", "content": "..."}].'
            )
        for place, message in enumerate(messages, 1):
            problem = _problem(message)
            if problem:
                raise table.error(
                    f"row {number}: message {place} of {column!r} {problem}; expected a message such as "
                    '{"role": "user", "content": "..."}.'
                )
        chats.append([{key: value for key, value in message.items() if value is not None} for message in messages])
    return chats


def question(table: Table, chat: Sequence[Message], number: int) -> Sequence[Message]:
    """Take off the assistant's turns at the end of a chat: the rest awaits an answer.

    Raises:
        ConfigError: Nothing is left.
    """
    end = len(chat)
    while end and chat[end - 1]["role"] == ASSISTANT:
        end -= 1
    if not end:
        raise table.error(f"row {number} asks nothing: all its messages are the assistant's.")
    return chat[:end]


def render(
    table: Table,
    tokenizer: PreTrainedTokenizerBase,
    chat: Sequence[Message],
    number: int,
    *,
    answer_next: bool = False,
) -> list[int]:
    """Render a chat as token ids; with `answer_next` up to where the assistant's next turn begins.

    Raises:
        ConfigError: The template refuses the messages; names the row.
    """
    messages = cast(list[dict[str, str]], list(chat))
    try:
        ids = tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=False, add_generation_prompt=answer_next
        )
    except (TemplateError, ValueError, TypeError) as error:
        raise table.error(f"row {number}: the tokenizer's chat template refuses the messages ({error}).") from error
    return cast(list[int], ids)


def render_last_turn(
    table: Table, tokenizer: PreTrainedTokenizerBase, chat: Sequence[Message], number: int
) -> tuple[list[int], list[int]]:
    """Render a chat as token ids, divided where the assistant's last turn begins.

    Templates may write a question differently once it is answered; the prompt is what both renderings share.

    Raises:
        ConfigError: The last message is not the assistant's, or the template refuses the messages; names the row.
    """
    if chat[-1]["role"] != ASSISTANT:
        raise table.error(
            f"row {number} ends with a message of {chat[-1]['role']!r}. Where the completion alone counts "
            "(data.positions), the last must be the assistant's; or let the experts answer (data.pseudo_answers)."
        )
    whole = render(table, tokenizer, chat, number)
    asked = render(table, tokenizer, chat[:-1], number, answer_next=True) if len(chat) > 1 else []
    common = next((i for i, (one, two) in enumerate(zip(whole, asked, strict=False)) if one != two), len(asked))
    return whole[:common], whole[common:]


def _examples(table: Table, tokenizer: PreTrainedTokenizerBase, encoding: Encoding, limit: int) -> list[Example]:
    rows: list[Example] = []
    for number, chat in enumerate(read_chats(table, tokenizer), 1):
        if encoding.positions == "completion":
            prompt, turn = render_last_turn(table, tokenizer, chat, number)
        else:
            prompt, turn = render(table, tokenizer, chat, number), []
        rows.append(Example(prompt[:limit], turn[: max(limit - len(prompt), 0)]))
    return rows


def _check_continues(table: Table, kind: ModelKind) -> None:
    """Refuse chats for a model whose prompt goes into an encoder."""
    if kind.encoder_decoder:
        raise table.error(
            f"chat messages (key messages) are for models that continue them, but {kind.architecture} has an encoder "
            "for the prompt: give it a column text and a column completion."
        )


def _problem(message: object) -> str | None:
    """Say what is wrong with a message, if anything is."""
    if not isinstance(message, dict):
        return f"is {message!r}"
    if not isinstance(message.get("role"), str) or not message["role"]:
        return "has no role"
    if isinstance(message.get("content"), str | list) or message.get("tool_calls"):
        return None
    return "has no content"
