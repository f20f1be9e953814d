"""Chats in other words, `{"from": "human", "value": "…"}` or roles such as "gpt", as messages with usual roles."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

from adamerge.data.tables import Table
from adamerge.experts.name_patterns import several
from adamerge.types import Fact, quoted

ROLES = {"human": "user", "user": "user", "prompter": "user", "system": "system"} | dict.fromkeys(
    ("gpt", "assistant", "chatgpt", "model", "bot", "bing", "bard", "ai"), "assistant"
)
"""Role of a message by its speaker, in lower case."""

_FORMS = {"from": "are in ShareGPT's form (from, value)", "role": "name roles by other words"}
"""What is said of chats by the key that names the speaker of a message."""


class _Speaker(NamedTuple):
    """Who speaks in a message.

    Attributes:
        key: The key that says so: role, or from.
        word: What it says.
    """

    key: str
    word: str

    @property
    def role(self) -> str | None:
        """The usual name of the role; None if the word is not known."""
        return ROLES.get(self.word.strip().lower())


def as_messages(messages: Sequence[object]) -> list[object]:
    """Return messages with content and a usual role; those of an unknown speaker are left as they are.

    Example:
        >>> as_messages([{"from": "gpt", "value": "hello"}, {"role": "Human", "content": "bye"}])
        [{'role': 'assistant', 'content': 'hello'}, {'role': 'user', 'content': 'bye'}]
    """
    return [_message(message) for message in messages]


def _message(message: object) -> object:
    speaker = _speaker(message)
    if speaker is None or speaker.role is None:
        return message
    said = cast(Mapping[str, object], message)
    if speaker.key == "role":
        return {**said, "role": speaker.role}
    rest = {key: value for key, value in said.items() if key not in ("from", "value") and value is not None}
    return {"role": speaker.role, "content": said["value"], **rest}


def _speaker(message: object) -> _Speaker | None:
    if not isinstance(message, Mapping):
        return None
    said = {key: value for key, value in message.items() if value is not None}  # datasets adds keys of other rows
    if isinstance(said.get("role"), str):
        return _Speaker("role", said["role"])
    shared = {"from", "value"} <= said.keys() and not {"role", "content"} & said.keys()
    return _Speaker("from", str(said["from"])) if shared else None


def unknown_speaker(message: object) -> str | None:
    """Describe a speaker of ShareGPT's form that has no role here; None if a message names none."""
    speaker = _speaker(message)
    if speaker is None or speaker.key != "from":
        return None
    return f"is from {quoted(speaker.word)}, but the speakers are {', '.join(ROLES)}"


def form_notes(table: Table, column: str) -> tuple[Fact, ...]:
    """Count the chats in ShareGPT's form, and those whose roles have other names than the usual ones.

    Args:
        table: The rows.
        column: The column of chats.
    """
    chats = table.values(column)
    rows: dict[str, set[int]] = {key: set() for key in _FORMS}
    words: dict[str, dict[str, None]] = {key: {} for key in _FORMS}
    for row, chat in enumerate(chats):
        for speaker in map(_speaker, chat if isinstance(chat, list) else ()):
            if speaker and speaker.role and (speaker.key == "from" or speaker.role != speaker.word):
                rows[speaker.key].add(row)
                words[speaker.key][f"{quoted(speaker.word)} is read as {speaker.role}"] = None
    place = f"{table.task}: {table.source.path}"
    return tuple(
        Fact(f"{place}: {len(found)} of {len(chats)} chats {_FORMS[key]}: {several(list(words[key]), 6)}.")
        for key, found in rows.items()
        if found
    )
