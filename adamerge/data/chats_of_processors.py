"""Chats without images for a model that reads both: whether its processor would make other tokens of them."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from transformers import PreTrainedTokenizerBase, ProcessorMixin

from adamerge.data.sharegpt import as_messages
from adamerge.data.tables import Table
from adamerge.types import WARNING, quoted


def unlike_processor(table: Table, column: str, processor: object) -> tuple[str, ...]:
    """Say that a processor makes other tokens of the first chat than its tokenizer, which encodes chats without images.

    A processor adds the tokenizer's special tokens where the rendered text does not begin with the first of them; the
    tokenizer's `apply_chat_template` never does.

    Args:
        table: The rows.
        column: The column of chats.
        processor: What the expert brings.
    """
    if not isinstance(processor, ProcessorMixin) or not processor.chat_template or not len(table):
        return ()
    tokenizer: PreTrainedTokenizerBase = processor.tokenizer  # pyright: ignore[reportAttributeAccessIssue]
    chat = as_messages(cast(list[object], table.values(column)[0]))
    try:
        own = cast(list[int], tokenizer.apply_chat_template(cast(Any, chat), tokenize=True, return_dict=False))
        found = processor.apply_chat_template(_in_parts(cast(Any, chat)), tokenize=True, return_dict=True)
        theirs = cast(list[int], cast(Mapping[str, Any], found)["input_ids"][0])
    except Exception:  # templates are programs of others; the encoder of the rows reports what they refuse
        return ()
    if own == theirs:
        return ()
    return (
        f"{WARNING}{table.task}: {table.source.path}: without images, rows are encoded by the tokenizer's chat "
        f"template, but the expert's processor makes other tokens of row 1: {_shown(tokenizer, theirs)} for "
        f"{_shown(tokenizer, own)}. If the expert was trained through its processor, write the token that is missing "
        "into chat_template.jinja.",
    )


def _in_parts(chat: Sequence[Mapping[str, object]]) -> Any:  # noqa: ANN401 - as transformers types it
    """Write contents that are texts as lists of parts, as templates of processors expect them."""
    return [
        {**one, "content": [{"type": "text", "text": one["content"]}]} if isinstance(one["content"], str) else one
        for one in chat
    ]


def _shown(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return quoted(str(tokenizer.decode(list(ids))))
