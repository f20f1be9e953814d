"""Rows with images → chats whose parts are texts and images, whatever form the rows have."""

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from adamerge.data.base64_images import decoded
from adamerge.data.chats import chat_column
from adamerge.data.media import media_columns, media_in_columns, medium_of
from adamerge.data.sharegpt import as_messages
from adamerge.data.tables import Table

PLACE = "<image>"
"""Where a text in LLaVA's form has an image."""

_TEXT = "text"


def pictured_chats(table: Table) -> list[list[dict[str, object]]]:
    """Make a chat of every row: parts of texts, and images as the rows hold them (path, bytes, object).

    Images are in the messages, or in a column of images. Those of a column take the places that messages have for them
    (`{"type": "image"}`, or `<image>` in a text), in their order; if there are no places, they come first.

    Args:
        table: Rows of messages, or of a text and its completion.

    Returns:
        The chats; each message has a list of parts.

    Raises:
        ConfigError: A row has no answer at its end, or not as many images as places; names the row.
    """
    columns = {name: kind for name, kind in media_columns(table).items() if kind == "image"}
    beside: dict[int, list[object]] = {}
    for found in media_in_columns(table, columns):
        beside.setdefault(found.row, []).append(found.value)
    return [_chat(table, row, messages, beside.get(row, [])) for row, messages in enumerate(_messages(table))]


def images_of(chat: Sequence[Mapping[str, object]]) -> Iterator[object]:
    """Yield the images of a chat."""
    for message in chat:
        for part in cast(list[dict[str, object]], message["content"]):
            if part["type"] == "image":
                yield part["image"]


def _messages(table: Table) -> Iterator[list[object]]:
    """Yield the messages of every row; a text and its completion are a question and its answer."""
    column, source = chat_column(table), table.source
    if column in table.columns and (source.messages or source.text not in table.columns):
        for chat in table.values(column):
            yield as_messages(cast(list[object], chat)) if isinstance(chat, list) else []
        return
    if source.completion is None:
        raise table.error(
            "rows of images need an answer to learn from, but no column of completions is configured. Name it (key "
            "completion), or use chat messages (key messages)."
        )
    for question, answer in zip(table.texts(source.text), table.texts(source.completion), strict=True):
        yield [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _chat(table: Table, row: int, messages: Sequence[object], beside: Sequence[object]) -> list[dict[str, object]]:
    last = messages[-1] if messages else None
    if not isinstance(last, Mapping) or last.get("role") != "assistant" or len(messages) < 2:
        raise table.error(
            f"{table.place(row)}: expected a question and an answer, because rows with images count in their answer "
            f"alone, found {'no message' if last is None else 'a last message of another role, or no other message'}. "
            "Add the answer, or remove the row."
        )
    chat = [_with_parts(table, row, message, bool(beside)) for message in messages]
    places = [part for message in chat for part in cast(list[dict[str, object]], message["content"]) if _is_place(part)]
    if beside and not places:
        first = next((message for message in chat if message["role"] == "user"), chat[0])
        places = [dict[str, object](type="image") for _ in beside]
        first["content"] = [*places, *cast(list[object], first["content"])]
    if len(places) != len(beside):
        raise table.error(
            f"{table.place(row)} has {len(beside)} images for {len(places)} places in its messages. Correct the row."
        )
    for place, image in zip(places, beside, strict=True):
        place["image"] = decoded(image)
    return chat


def _is_place(part: Mapping[str, object]) -> bool:
    return part["type"] == "image" and part.get("image") is None


def _with_parts(table: Table, row: int, message: object, places: bool) -> dict[str, object]:
    """Return a message whose content is a list of parts."""
    known = cast(Mapping[str, object], message) if isinstance(message, Mapping) else {}
    content, role = known.get("content"), known.get("role")
    if not isinstance(role, str) or not isinstance(content, str | list):
        raise table.error(
            f"{table.place(row)}: expected messages with role and content, found {str(message)[:80]}. Correct the row."
        )
    parts = (
        _of_text(content, places) if isinstance(content, str) else [_part(table, row, one, places) for one in content]
    )
    flat = [one for part in parts for one in (part if isinstance(part, list) else [part])]
    images = [value for key, value in known.items() if key in ("image", "images") for value in _listed(value)]
    rest = {key: value for key, value in known.items() if key not in ("content", "image", "images")}
    return {**rest, "content": [*({"type": "image", "image": decoded(one)} for one in images), *flat]}


def _listed(value: object) -> list[object]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _of_text(text: str, places: bool) -> list[dict[str, object]]:
    """Divide a text at the places of images, if the row has images beside its messages."""
    pieces = text.split(PLACE) if places else [text]
    parts: list[dict[str, object]] = []
    for number, piece in enumerate(pieces):
        if number:
            parts.append({"type": "image"})
        if piece.strip() or len(pieces) == 1:
            parts.append({"type": _TEXT, _TEXT: piece.strip("\n")})
    return parts


def _part(table: Table, row: int, part: object, places: bool) -> object:
    if isinstance(part, str):
        return _of_text(part, places)
    known = cast(Mapping[str, object], part) if isinstance(part, Mapping) else {}
    found = medium_of(known)
    if found is None and isinstance(known.get(_TEXT), str):
        return _of_text(cast(str, known[_TEXT]), places)
    if found is None or found[0] != "image":
        raise table.error(
            f"{table.place(row)}: expected parts of text and images, found {str(part)[:80]}. Remove the row, or use "
            "rows of tensors."
        )
    return {"type": "image"} if found[1] is None else {"type": "image", "image": decoded(found[1])}
