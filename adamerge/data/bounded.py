"""Rows are tokenised and rendered within limits of time and memory: tokenizers and chat templates are programs."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, cast

from transformers import PreTrainedTokenizerBase, ProcessorMixin

from adamerge.data.tables import Table
from adamerge.storage.limited import beyond_limits
from adamerge.types import ConfigError

Renderer: TypeAlias = PreTrainedTokenizerBase | ProcessorMixin
"""What has a chat template."""

SECONDS = 5
"""Processor time that one row may take, and as much for each further million characters."""

MEMORY = 2**30
"""Bytes that one row may take, and `_PER_CHARACTER` for each of its characters."""

_PER_CHARACTER = 2**10

_LONG = 16
"""Characters that a normaliser may write in the place of what it found without being tried."""

_QUESTION: Sequence[Mapping[str, object]] = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
"""A chat that every template can be tried on."""

_found: dict[tuple[object, ...], str] = {}
"""The limits that were found to be exceeded, empty where none was: by what was read, and what reads it."""


def check_texts(table: Table, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> None:
    """Try the longest text, where a tokenizer's normaliser or expressions may make anything of it.

    Args:
        table: Names task and file in the error.
        tokenizer: The task's tokenizer.
        texts: The texts.

    Raises:
        ConfigError: The text takes more than the limits; names the row.
    """
    parts = _parts(tokenizer)
    if not texts or not _grows(parts):
        return
    row = max(range(len(texts)), key=lambda one: len(texts[one]))
    key = (json.dumps(parts, sort_keys=True), texts[row])
    _check(table, row, len(texts[row]), key, lambda: tokenizer(texts[row]), "tokenizer.json")


def check_chats(
    table: Table, tokenizer: PreTrainedTokenizerBase, chats: Sequence[Sequence[Mapping[str, object]]]
) -> None:
    """Try a tokenizer's chat template on the longest chat.

    Args:
        table: Names task and file in the error.
        tokenizer: Has a chat template.
        chats: The messages of each row.

    Raises:
        ConfigError: The chat takes more than the limits; names the row.
    """
    sizes = [len(str(chat)) for chat in chats]
    row = max(range(len(chats)), key=sizes.__getitem__)
    chat = chats[row]
    key = (str(tokenizer.chat_template), str(chat))
    _check(table, row, sizes[row], key, lambda: _read(tokenizer, chat), "the chat template")


def rendered(renderer: Renderer, chat: Sequence[Mapping[str, object]]) -> str:
    """Render a chat by a template that renders a question and an answer within the limits.

    Args:
        renderer: Has a chat template.
        chat: The messages.

    Returns:
        The text.

    Raises:
        ConfigError: The template has no bounds. Templates raise anything else, too.
    """
    beyond = _beyond((str(renderer.chat_template),), len(_QUESTION), lambda: _read(renderer, _QUESTION))
    if beyond:
        raise ConfigError(f"the chat template makes more than {beyond} of a question and an answer")
    return _applied(renderer, chat)


def _read(renderer: Renderer, chat: Sequence[Mapping[str, object]]) -> None:
    """Render a chat, with and without the beginning of an answer, and tokenise it."""
    tokenizer = renderer if isinstance(renderer, PreTrainedTokenizerBase) else renderer.tokenizer  # pyright: ignore
    for answer_next in (False, True):
        cast(PreTrainedTokenizerBase, tokenizer)(_applied(renderer, chat, answer_next=answer_next))


def _applied(renderer: Renderer, chat: Sequence[Mapping[str, object]], *, answer_next: bool = False) -> str:
    messages = cast(list[dict[str, str]], list(chat))
    return cast(str, renderer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer_next))


def _check(table: Table, row: int, size: int, key: tuple[object, ...], call: Callable[[], object], what: str) -> None:
    if beyond := _beyond(key, size, call):
        raise table.error(
            f"{table.place(row)}: expected tokens of {size} characters within {beyond}, but {what} makes more of them. "
            "Copy the tokenizer's files again from the fine-tuned model, or shorten the row."
        )


def _beyond(key: tuple[object, ...], size: int, call: Callable[[], object]) -> str:
    if key not in _found:
        _found[key] = beyond_limits(call, SECONDS * (1 + size // 10**6), MEMORY + _PER_CHARACTER * size)
    return _found[key]


def _parts(tokenizer: PreTrainedTokenizerBase) -> dict[str, object]:
    """Return what a fast tokenizer does to a text before it is divided into tokens, as tokenizer.json has it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    found = {part: getattr(backend, part, None) for part in ("normalizer", "pre_tokenizer")}
    return {part: json.loads(own.__getstate__()) for part, own in found.items() if own is not None}


def _grows(value: object) -> bool:
    """Return whether a part writes long texts in the place of short ones, or searches by an expression of its own.

    Example:
        >>> _grows({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}), _grows({"content": "ab" * 50})
        (False, True)
    """
    if isinstance(value, Mapping):
        return "Regex" in value or any(map(_grows, value.values()))
    if isinstance(value, list):
        return any(map(_grows, value))
    return isinstance(value, str) and len(value) > _LONG
