"""Inputs of a model besides its tokens: what its tokenizer returns, and columns that its forward pass names."""

from collections.abc import Mapping, Sequence

from transformers import BatchEncoding, PreTrainedTokenizerBase

from adamerge.data.input_columns import InputColumn, check_words, read_input
from adamerge.data.tables import Table
from adamerge.data.words import is_chat
from adamerge.experts.experts import Expert
from adamerge.experts.model_kind import ModelKind


def read_columns(
    table: Table,
    expert: Expert,
    tokenizer: PreTrainedTokenizerBase,
    names: Sequence[str],
    texts: Sequence[str],
    encoded: BatchEncoding,
) -> tuple[dict[str, InputColumn], list[str]]:
    """Read columns that are inputs of the model; also return how each was read.

    Args:
        table: The rows.
        expert: The task's expert.
        tokenizer: The task's tokenizer.
        names: Names of the columns.
        texts: The rows' texts.
        encoded: The tokenised texts; see `placed`.
    """
    found = {name: read_input(table, name, texts, encoded, tokenizer) for name in names}
    notes = [
        f"{table.task}: the column {name!r} is an input of {expert.kind.architecture}: {how}."
        for name, (_, how) in found.items()
    ]
    return {name: column for name, (column, _) in found.items()}, notes


def placed(
    table: Table,
    tokenizer: PreTrainedTokenizerBase,
    names: Sequence[str],
    limit: int,
    texts: Sequence[str],
    pair: Sequence[str] | None = None,
) -> BatchEncoding:
    """Tokenise texts, with the places of their tokens if columns of these names are read.

    Raises:
        ConfigError: The places are needed and cannot be had.
    """
    check_words(table, names, tokenizer)
    places = {"return_offsets_mapping": bool(names), "return_special_tokens_mask": bool(names)}
    return tokenizer(texts, pair, truncation=True, max_length=limit, **places)  # pyright: ignore[reportArgumentType]


def of_rows(inputs: Mapping[str, InputColumn], rows: Sequence[int]) -> dict[str, InputColumn]:
    """Return the inputs of some rows."""
    return {name: InputColumn([c.values[row] for row in rows], c.per_token) for name, c in inputs.items()}


def refuse_columns(table: Table, expert: Expert, names: Sequence[str], what: str) -> None:
    """Refuse columns that are inputs of the model, in rows in which they cannot be given to it.

    Args:
        table: The rows.
        expert: The task's expert.
        names: Names of the columns; nothing is refused without one.
        what: Which rows these are.

    Raises:
        ConfigError: There are such columns.
    """
    if names:
        raise table.error(
            f"the columns {', '.join(names)} are inputs of {expert.kind.architecture}, but of {what} they cannot be "
            "read, and the model would fill in values of its own. Rename or remove the columns if they are not meant "
            "for the model; otherwise use rows of texts alone, or rows of tensors."
        )


def refuse_chats(table: Table, kind: ModelKind) -> None:
    """Refuse chats as rows of a model that reads texts, such as a reward model.

    Raises:
        ConfigError: There is no column of texts, but a column of chats.
    """
    columns = [name for name in table.columns if len(table)]
    if table.source.text in columns:
        return
    chats = [name for name in columns if is_chat(table.data.glance(name, 0))]
    if chats and (table.source.messages in chats or len(chats) == len(columns)):
        raise table.error(
            f"expected a column of texts ({table.source.text!r}), which {kind.architecture} reads, found chats in "
            f"{chats[0]!r}; the key messages is for language models. Render each chat with the chat template that the "
            "expert was trained with (tokenizer.apply_chat_template(chat, tokenize=False)), without special tokens "
            "that the tokenizer adds itself, and name the column of the results (key text)."
        )
