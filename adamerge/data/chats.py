"""Rows of chat messages: checked one by one, and rendered by the tokenizer's chat template."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias, cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from adamerge.data.tables import Table

Message: TypeAlias = Mapping[str, object]

ASSISTANT = "assistant"
"""Whose turns are answers."""


def read_chats(table: Table, tokenizer: PreTrainedTokenizerBase) -> list[list[Message]]:
    """Every row's messages, without keys that stand for nothing.

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
    """A chat without the assistant's turns at its end: what an answer is due to.

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
    """Token ids of a chat; with `answer_next` up to where the assistant's next turn begins.

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
    """Token ids of a chat, divided where the assistant's last turn begins.

    Templates may write a question otherwise once it is answered; what both ways have in common is what was asked.

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


def _problem(message: object) -> str | None:
    """What is wrong with a message, if anything is."""
    if not isinstance(message, dict):
        return f"is {message!r}"
    if not isinstance(message.get("role"), str) or not message["role"]:
        return "has no role"
    if isinstance(message.get("content"), str | list) or message.get("tool_calls"):
        return None
    return "has no content"
