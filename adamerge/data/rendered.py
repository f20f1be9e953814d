"""Chats rendered by the tokenizer's chat template: whole, as prompts, and divided where the last turn begins."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias, cast

from jinja2.exceptions import TemplateSyntaxError, UndefinedError
from transformers import PreTrainedTokenizerBase

from adamerge.data.read_files import first_line
from adamerge.data.tables import Table

Message: TypeAlias = Mapping[str, object]

ASSISTANT = "assistant"
"""Role of the messages that are answers."""


def texts_of(content: object) -> list[str]:
    """List the texts of a message's content: the text, or those of all its parts; none if it has something else.

    Example:
        >>> texts_of("good"), texts_of([{"type": "text", "text": "bad"}]), texts_of([{"type": "image"}])
        (['good'], ['bad'], [])
    """
    if not isinstance(content, list):
        return [content] if isinstance(content, str) else []
    texts = [part.get("text") if isinstance(part, dict) else None for part in cast(list[object], content)]
    return cast(list[str], texts) if all(isinstance(text, str) for text in texts) else []


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
        raise table.error(rejection("tokenizer", error, table.place(number - 1))) from error
    return cast(list[int], ids)


def rejection(owner: str, error: Exception, place: str) -> str:
    """Say what a chat template complains of: of itself, which no row can mend, or of a row.

    Args:
        owner: What has the template: tokenizer or processor.
        error: What was raised.
        place: Place of the row.
    """
    if isinstance(error, TemplateSyntaxError | UndefinedError):
        return (
            f"expected a chat template in Jinja, but that of the {owner} is damaged, or written for another release of "
            f"transformers ({first_line(error)}). Copy chat_template.jinja (or tokenizer_config.json) again from the "
            "fine-tuned model."
        )
    return (
        f"{place}: the {owner}'s chat template rejects the messages ({first_line(error)}). Correct or remove the row, "
        "or copy chat_template.jinja of the fine-tuned model again."
    )


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
