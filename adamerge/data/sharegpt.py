"""Chat messages in the words of ShareGPT, {"from": "human", "value": "…"}, as {"role": "user", "content": "…"}."""

from collections.abc import Mapping, Sequence

from adamerge.data.tables import Table

COLUMNS = ("messages", "conversations")
"""Columns of chat messages if the table has no column of texts and the configuration names none."""

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
"""Role by the word of ShareGPT."""


def messages_column(table: Table) -> str | None:
    """Return the column of chat messages: the one that the configuration names, else the first of `COLUMNS`."""
    return table.source.messages or next((name for name in COLUMNS if name in table.columns), None)


def is_sharegpt(message: object) -> bool:
    """Return whether a message has the keys of ShareGPT.

    Example:
        >>> is_sharegpt({"from": "human", "value": "Hello"}), is_sharegpt({"role": "user", "content": "Hello"})
        (True, False)
    """
    return isinstance(message, Mapping) and "from" in message and "value" in message and "role" not in message


def as_messages(messages: Sequence[object]) -> list[object]:
    """Translate the messages of ShareGPT among the messages of a row; a speaker of another name has no role.

    Example:
        >>> as_messages([{"from": "gpt", "value": "Hello"}, {"role": "user", "content": "Hi"}])
        [{'role': 'assistant', 'content': 'Hello'}, {'role': 'user', 'content': 'Hi'}]
    """
    return [_translated(message) if is_sharegpt(message) else message for message in messages]


def _translated(message: object) -> dict[str, object]:
    assert isinstance(message, Mapping)
    speaker = message["from"]
    role = _ROLES.get(speaker) if isinstance(speaker, str) else None
    return {"role": role, "content": message["value"]} if role else {"content": message["value"]}


def sharegpt_note(table: Table, column: str) -> tuple[str, ...]:
    """Say that rows are read from the words of ShareGPT."""
    rows = [row for row in table.values(column) if isinstance(row, list) and any(map(is_sharegpt, row))]
    if not rows:
        return ()
    return (
        f"{table.task}: {table.source.path}: {len(rows)} rows of {column!r} are read as messages from the words of "
        "ShareGPT: human is user, gpt is assistant.",
    )
