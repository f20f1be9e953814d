"""What rows of chats hold and the chat template does not print: parts of contents, keys of messages, whole messages."""

import re
from collections.abc import Iterator, Mapping, Sequence

from jinja2 import Environment, TemplateError, meta
from transformers import PreTrainedTokenizerBase

from adamerge.data.bounded import Renderer, rendered
from adamerge.data.rendered import Message, texts_of
from adamerge.data.tables import Table
from adamerge.types import quoted

_PROBE = "probe"
_ARGUMENTS = ("tools", "documents", "chat_template_kwargs")
"""Columns that other programs give to every chat template."""

_MARKS = re.compile(r"{%-?\s*(end)?generation\s*-?%}")
"""Marks of answers, which are no part of Jinja's own language."""

_USUAL = ("system", "developer", "user", "assistant", "tool", "function")
"""Roles that templates mean without naming them."""


def argument_columns(table: Table, template: object) -> list[str]:
    """List the columns that other programs give to the chat template: usual ones, and variables that it reads.

    Args:
        table: The rows.
        template: The chat template, or several by name.
    """
    try:
        language = Environment(autoescape=True, extensions=["jinja2.ext.loopcontrols"])
        read = meta.find_undeclared_variables(language.parse(_MARKS.sub("", _text(template))))
    except TemplateError:  # the rows' own error is raised when they are rendered
        read = set[str]()
    return [name for name in table.columns if name in {*_ARGUMENTS, *read} and name != "messages"]


def _text(template: object) -> str:
    """Return the text of a chat template, or of several."""
    return "\n".join(map(str, template.values() if isinstance(template, Mapping) else (template,)))


def joined_parts(tokenizer: PreTrainedTokenizerBase, chats: Sequence[Sequence[Message]]) -> list[list[Message]]:
    """Join the texts of contents in parts to one text, if the chat template would not read the parts.

    Args:
        tokenizer: Has a chat template.
        chats: The messages of each row; contents are texts or lists of parts.

    Returns:
        The messages, unless the template reads parts (`[{"type": "text", "text": "…"}]`) those with texts alone.
    """
    if _reads_parts(tokenizer):
        return [list(chat) for chat in chats]
    return [[_with_one_text(message) for message in chat] for chat in chats]


def _with_one_text(message: Message) -> Message:
    texts = texts_of(message.get("content"))
    return {**message, "content": "".join(texts)} if texts else message


def unprinted_notes(
    table: Table,
    tokenizer: Renderer,
    written: Sequence[Sequence[Message]],
    chats: Sequence[Sequence[Message]],
) -> tuple[str, ...]:
    """Count the chats of which the template does not print all, and those whose parts were joined.

    Args:
        table: Names task, file and row.
        tokenizer: Has a chat template; or a processor that has.
        written: The messages as they are in the rows.
        chats: The messages that are rendered.

    Returns:
        Notes for the user.
    """
    seen: dict[str, list[int]] = {}
    for row, (before, chat) in enumerate(zip(written, chats, strict=True)):
        for what in (*_joined(before, chat), *_unprinted(tokenizer, chat)):
            seen.setdefault(what, []).append(row)
    place = f"{table.task}: {table.source.path}"
    columns = argument_columns(table, tokenizer.chat_template)
    notes = [f"{place}: the column {name!r} is not given to the chat template." for name in columns]
    counts = ((what, len(rows), table.place(rows[0])) for what, rows in seen.items())
    return (*notes, *(f"{place}: {n} of {len(chats)} chats have {what}; first: {first}." for what, n, first in counts))


def _reads_parts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the template prints the text of a part, rather than the part as it is written."""
    text = _rendered(tokenizer, [{"role": "user", "content": [{"type": "text", "text": _PROBE}]}])
    return text is not None and _PROBE in text and not any(mark + _PROBE + mark in text for mark in ("'", '"'))


def _joined(before: Sequence[Message], chat: Sequence[Message]) -> Iterator[str]:
    if any(
        isinstance(m.get("content"), list) and isinstance(own.get("content"), str)
        for m, own in zip(before, chat, strict=False)
    ):
        yield "contents in parts, which the chat template does not read: their texts are joined"


def _unprinted(tokenizer: Renderer, chat: Sequence[Message]) -> Iterator[str]:
    """Yield what the template does not print of a chat."""
    text = _rendered(tokenizer, chat)
    if text is None:  # the row's own error is raised when it is rendered as tokens
        return
    roles = dict.fromkeys(
        str(m["role"]) for m in chat for own in _parts_of(m.get("content")) if own.strip() not in text
    )
    yield from (f"a message of {role!r} that the chat template does not print as it is" for role in roles)
    template = _text(tokenizer.chat_template)
    for role in dict.fromkeys(str(message["role"]) for message in chat):
        if role not in (*_USUAL, *roles) and not any(f"{mark}{role}{mark}" in template for mark in ("'", '"')):
            yield f"the role {quoted(role)}, which the chat template does not name: it is printed as it is written"
    for key in dict.fromkeys(key for message in chat for key in message if key not in ("role", "content")):
        without = [{name: value for name, value in message.items() if name != key} for message in chat]
        if _rendered(tokenizer, without) == text:
            yield f"the key {key!r} in a message, which the chat template does not print"


def _parts_of(content: object) -> list[str]:
    """List the texts of a message's content, whatever else it has."""
    parts = content if isinstance(content, list) else [content]
    return [text for part in parts for text in texts_of([part] if isinstance(part, dict) else part)]


def _rendered(tokenizer: Renderer, chat: Sequence[Message]) -> str | None:
    try:
        return rendered(tokenizer, chat)
    except Exception:  # templates are programs of others
        return None
