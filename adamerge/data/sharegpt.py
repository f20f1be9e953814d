"""Chats in ShareGPT's form, `{"from": "human", "value": "…"}`, as messages with role and content."""

from collections.abc import Mapping, Sequence
from typing import cast

ROLES = {"human": "user", "user": "user", "prompter": "user", "system": "system"} | dict.fromkeys(
    ("gpt", "assistant", "chatgpt", "model", "bot", "bing", "bard"), "assistant"
)
"""Role of a message by its speaker, in lower case."""


def is_sharegpt(messages: Sequence[object]) -> bool:
    """Return whether messages name their speaker by `from`, and have no roles.

    Example:
        >>> is_sharegpt([{"from": "human", "value": "hello"}]), is_sharegpt([{"role": "user", "content": "hello"}])
        (True, False)
    """
    return bool(messages) and all(_is_sharegpt(message) for message in messages)


def _is_sharegpt(message: object) -> bool:
    if not isinstance(message, Mapping):
        return False
    present = {key for key, value in message.items() if value is not None}  # datasets adds keys of other rows as None
    return {"from", "value"} <= present and "role" not in present


def as_messages(messages: Sequence[object]) -> list[object]:
    """Return messages with role and content; those of an unknown speaker are left as they are.

    Example:
        >>> as_messages([{"from": "gpt", "value": "hello"}])
        [{'role': 'assistant', 'content': 'hello'}]
    """
    if not is_sharegpt(messages):
        return list(messages)
    return [_message(cast(Mapping[str, object], message)) for message in messages]


def _message(message: Mapping[str, object]) -> object:
    role = ROLES.get(str(message["from"]).lower())
    if role is None:
        return message
    rest = {key: value for key, value in message.items() if key not in ("from", "value")}
    return {"role": role, "content": message["value"], **rest}


def unknown_speaker(message: object) -> str | None:
    """Describe a speaker that has no role here; None if a message names none."""
    if not _is_sharegpt(message):
        return None
    found = cast(Mapping[str, object], message)["from"]
    return f"is from {found!r}, but the speakers are {', '.join(ROLES)}"
