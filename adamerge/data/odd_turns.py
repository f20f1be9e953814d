"""Chats whose turns are not what learning from them would have: no question, no answer, nothing said, an old answer."""

from collections.abc import Iterator, Sequence
from typing import cast

from adamerge.data.rendered import ASSISTANT, Message, texts_of
from adamerge.data.settings import Encoding
from adamerge.data.tables import Table
from adamerge.types import Fact, quoted

_INSTRUCTIONS = ("system", "developer")
"""Roles that stand before the first turn."""


def odd_turns(
    table: Table, chats: Sequence[Sequence[Message]], encoding: Encoding, *, answered: bool
) -> tuple[str, ...]:
    """Count the chats that begin or end with another turn than usual, or have a message that says nothing.

    Args:
        table: Names task, file and row.
        chats: The messages of each row.
        encoding: Which positions count.
        answered: Whether an answer is generated to each chat, in place of the one that it has.

    Returns:
        Notes for the user.
    """
    rows: dict[str, list[int]] = {}
    for row, chat in enumerate(chats):
        for what in _odd(chat, encoding, answered=answered):
            rows.setdefault(what, []).append(row)
    place = f"{table.task}: {table.source.path}"
    lines = {w: f"{place}: {len(n)} of {len(chats)} chats {w}; first: {table.place(n[0])}." for w, n in rows.items()}
    return tuple(Fact(line) if what == _REPLACED else line for what, line in lines.items())


_REPLACED = "end with an answer, which is not read: a new one is generated (data.pseudo_answers)"


def _odd(chat: Sequence[Message], encoding: Encoding, *, answered: bool) -> Iterator[str]:
    first = next((message["role"] for message in chat if message["role"] not in _INSTRUCTIONS), None)
    last = chat[-1]["role"]
    if first == ASSISTANT:
        yield f"begin with a turn of {ASSISTANT!r}, which answers nothing"
    if last == ASSISTANT and answered:
        yield _REPLACED
    if last != ASSISTANT and not answered and encoding.positions == "all":
        way = "" if encoding.labeled else "; data.pseudo_answers lets the experts answer"
        yield f"end with a turn of {quoted(last)}, so no answer to it counts (data.positions: all){way}"
    silent = dict.fromkeys(str(message["role"]) for message in chat if _says_nothing(message))
    yield from (f"have an empty message of {quoted(role)}" for role in silent)


def _says_nothing(message: Message) -> bool:
    content: object = message.get("content")
    texts, parts = texts_of(content), cast(list[object], content) if isinstance(content, list) else []
    other = bool(parts) and not texts  # a part that is no text says something
    return not (message.get("tool_calls") or other or "".join(texts).strip())
