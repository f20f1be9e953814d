"""Columns of a table that are inputs of the model besides its text: bounding boxes, segment ids, features per row."""

import inspect
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch
import transformers
from torch import Tensor, nn
from transformers import BatchEncoding, PreTrainedTokenizerBase

from adamerge.data.padding import Padding
from adamerge.data.tables import Table
from adamerge.data.words import in_words
from adamerge.experts.model_kind import forward_arguments, takes

_OURS = frozenset({"input_ids", "attention_mask", "inputs_embeds", "labels", "return_dict", "use_cache"})
"""Arguments that are made here or are no inputs."""

_USUAL = (
    "BertForSequenceClassification",
    "BertForQuestionAnswering",
    "BertModel",
    "GPT2ForSequenceClassification",
    "BartForSequenceClassification",
)
"""Classes whose arguments every user leaves to the class."""

_IDS = "input_ids"

_MADE = (_IDS, "attention_mask", "inputs_embeds")
"""Arguments that are made of a text."""

BOXES = "bbox"
"""transformers' name of the bounding boxes of tokens."""


class InputColumn(NamedTuple):
    """An input besides the text.

    Attributes:
        values: One tensor per row: (S, …) with one value per token, or (…).
        per_token: Whether there is one value per token.
        filler: What pads them.
    """

    values: Sequence[Tensor]
    per_token: bool
    filler: int = 0

    def padded(self, indices: Sequence[int], padding: Padding) -> Tensor:
        """Combine some rows, (B, S, …) or (B, …).

        Example:
            >>> column = InputColumn([torch.tensor([1, 2]), torch.tensor([3])], per_token=True)
            >>> column.padded([0, 1], Padding()).tolist()
            [[1, 2], [3, 0]]
        """
        chosen = [self.values[i] for i in indices]
        if not self.per_token:
            return torch.stack(chosen)
        length = max(padding.length or 0, *(len(value) for value in chosen))
        whole = chosen[0].new_full((len(chosen), length, *chosen[0].shape[1:]), self.filler)
        for place, value in zip(whole, chosen, strict=True):
            place[slice(length - len(value), length) if padding.side == "left" else slice(len(value))] = value
        return whole


def input_names(table: Table, module: nn.Module, used: Sequence[str]) -> list[str]:
    """List the columns whose names are arguments of a model's forward pass.

    Args:
        table: The rows. If it has a column input_ids, it was tokenised before, and its other columns belong to these
            ids: the text is tokenised anew, and none of them is used.
        module: The model.
        used: Columns that are read otherwise.
    """
    return [] if _IDS in table.columns else _named(table, module, used)


def unread_note(table: Table, module: nn.Module, used: Sequence[str]) -> tuple[str, ...]:
    """Note columns that the model takes and that are not read, because they are made of the text.

    Args:
        table: The rows.
        module: The model.
        used: Columns that are read otherwise.
    """
    names = [name for name in _MADE if name in table.columns and name not in used and takes(module, name)]
    if not names:
        return ()
    names += _named(table, module, used) if _IDS in table.columns else []
    return (
        f"{table.task}: {table.source.path}: {', '.join(names)} of the rows are not read: the text is tokenised anew.",
    )


def _named(table: Table, module: nn.Module, used: Sequence[str]) -> list[str]:
    return [name for name in _inputs(module) if name in table.columns and name not in used]


def missing_inputs(module: nn.Module, found: Sequence[str]) -> list[str]:
    """List tensors that a model takes, beyond those that every text model takes, and that the rows do not have.

    Args:
        module: The model.
        found: Inputs that the rows have.
    """
    names = forward_arguments(module)
    left = [name for name in _inputs(module) if "Tensor" in str(names[name].annotation) and name not in found]
    for known in _USUAL:
        if left:  # a class is imported only where it is asked
            usual = inspect.signature(getattr(transformers, known).forward).parameters
            left = [name for name in left if name not in usual]
    return left


def needs_boxes(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a tokenizer takes words and their boxes rather than texts."""
    return "boxes" in inspect.signature(type(tokenizer).__call__).parameters


def check_words(table: Table, names: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that values per word can be given to tokens.

    Raises:
        ConfigError: The rows are pairs of texts, or the tokenizer does not tell where tokens are in the text.
    """
    if names and table.source.text_pair:
        raise table.error(
            f"the columns {', '.join(names)} are inputs of the model, but values per word of a pair of texts cannot be "
            "read. Use one text per row (key text), or rename the columns if they are not meant for the model."
        )
    if names and not tokenizer.is_fast:
        raise table.error(
            f"the columns {', '.join(names)} are inputs of the model, but its tokenizer does not tell where tokens are "
            "in a text. Save a fast tokenizer (tokenizer.json), or rename the columns if they are not meant for the "
            "model."
        )


def with_boxes(table: Table, tokenizer: PreTrainedTokenizerBase, limit: int) -> BatchEncoding:
    """Tokenise words and their boxes with a tokenizer that takes them, such as LayoutLMv3's.

    Raises:
        ConfigError: The rows are pairs, or have no boxes, or not one per word; names the row.
    """
    if table.source.text_pair or BOXES not in table.columns:
        raise table.error(
            f"{type(tokenizer).__name__} takes one text per row and a column {BOXES!r} of one box per word, but "
            f"{'the rows are pairs' if table.source.text_pair else 'there is no such column'}. Add the column."
        )
    words, boxes = in_words(table.values(table.source.text)), cast(list[list[list[int]]], table.values(BOXES))
    for row, (own, beside) in enumerate(zip(words, boxes, strict=True)):
        if not isinstance(beside, list) or len(own) != len(beside):
            raise table.error(
                f"{table.place(row)}: expected one box per word in the column {BOXES!r} ({len(own)}), found "
                f"{len(beside) if isinstance(beside, list) else beside!r}. Correct the row."
            )
    return tokenizer(words, boxes=boxes, truncation=True, max_length=limit)  # pyright: ignore[reportCallIssue]


def tokenized_inputs(
    encoded: BatchEncoding, tokenizer: PreTrainedTokenizerBase, module: nn.Module, also: Sequence[str] = ()
) -> dict[str, InputColumn]:
    """Collect what a tokenizer returns besides ids, mask and segments, and the model takes.

    Args:
        encoded: What the tokenizer returned for all rows.
        tokenizer: The tokenizer.
        module: The model.
        also: More names than those of the tokenizer's own list.
    """
    own = {"input_ids", "attention_mask", "token_type_ids"}
    names = [name for name in (*tokenizer.model_input_names, *also) if name in encoded and name not in own]
    return {
        name: InputColumn([torch.tensor(row) for row in cast(list[list[int]], encoded[name])], per_token=True)
        for name in names
        if name in _inputs(module)
    }


def read_input(
    table: Table, name: str, texts: Sequence[str], encoded: BatchEncoding, tokenizer: PreTrainedTokenizerBase
) -> tuple[InputColumn, str]:
    """Read a column that is an input: a list of one value per word or per token, or values of one shape per row.

    A value is a number, or a list of numbers of one length, such as a box. The tokens of a word get its value; special
    tokens get 0. Boxes of special tokens are those of the tokenizer, or LayoutLM's: 0 at the start, 1000 at separators.

    Args:
        table: The rows.
        name: Name of the column.
        texts: The rows' texts; words are those of the rows' lists, or separated by white space.
        encoded: The tokenised texts, with `offset_mapping` and `special_tokens_mask`.
        tokenizer: The tokenizer.

    Returns:
        The input, and how it was read.

    Raises:
        ConfigError: The column has another shape; names the row.
    """
    values = [_tensor(table, name, row, value) for row, value in enumerate(table.values(name))]
    ids = cast(list[list[int]], encoded["input_ids"])
    words = in_words(table.values(table.source.text))
    counts = [len(own) for own in words]
    lengths = [len(value) if value.ndim else -1 for value in values]
    if lengths == counts:
        ends = [list(_word_ends(*row)) for row in zip(texts, words, strict=True)]
        tokens = [_spread(*row, tokenizer, name) for row in _rows(values, ends, encoded)]
        return InputColumn(tokens, per_token=True), "one value per word"
    if lengths == [len(row) for row in ids]:
        return InputColumn(values, per_token=True), "one value per token"
    if len({value.shape for value in values}) == 1:
        return InputColumn(values, per_token=False), f"values of shape {tuple(values[0].shape)} per row"
    row = next(i for i, length in enumerate(lengths) if length != counts[i])
    raise table.error(
        f"{table.place(row)}: the column {name!r} is an input of the model, so expected a list of one value per word "
        f"({counts[row]}) or per token ({len(ids[row])}) in every row, or values of one shape in all rows, found "
        f"{'a number' if lengths[row] < 0 else f'{lengths[row]} values'}. Correct the row, or rename the column if it "
        "is not meant for the model."
    )


def _inputs(module: nn.Module) -> list[str]:
    """List the arguments of a forward pass that rows may hold."""
    names = forward_arguments(module)
    return [name for name in names if name not in _OURS and not name.startswith("output_")]


def _tensor(table: Table, name: str, row: int, value: object) -> Tensor:
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise table.error(
            f"{table.place(row)}: the column {name!r} is an input of the model, so expected numbers, or lists of "
            f"numbers of one length, found {type(value).__name__} ({error}). Correct the row, or rename the column if "
            "it is not meant for the model."
        ) from error
    return tensor.float() if tensor.is_floating_point() else tensor.long()


def _rows(
    values: Sequence[Tensor], ends: Sequence[list[int]], encoded: BatchEncoding
) -> Iterator[tuple[Tensor, list[int], list[int], list[tuple[int, int]], list[int]]]:
    columns = (encoded[key] for key in ("input_ids", "offset_mapping", "special_tokens_mask"))
    return cast(
        Iterator[tuple[Tensor, list[int], list[int], list[tuple[int, int]], list[int]]],
        zip(values, ends, *columns, strict=True),
    )


def _spread(
    values: Tensor,
    ends: Sequence[int],
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    special: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    name: str,
) -> Tensor:
    """Give every token the value of its word."""
    spread = values.new_zeros(len(ids), *values.shape[1:])
    for place, (token, (start, end), added) in enumerate(zip(ids, offsets, special, strict=True)):
        if added:
            spread[place] = _special_box(tokenizer, token) if name == BOXES else 0
        else:
            spread[place] = values[min(bisect_right(ends, max(end - 1, start)), len(ends) - 1)]
    return spread


def _word_ends(text: str, words: Sequence[str]) -> Iterator[int]:
    """Yield where each word of a text ends.

    Example:
        >>> list(_word_ends("two words", ["two", "words"])), list(_word_ends("New York  x", ["New York", "", "x"]))
        ([3, 9], [8, 8, 11])
    """
    place = 0
    for word in words:
        place = text.index(word, place) + len(word)
        yield place


def _special_box(tokenizer: PreTrainedTokenizerBase, token: int) -> Tensor | int:
    attribute, default = "pad_token_box", 0
    if token == tokenizer.cls_token_id:
        attribute = "cls_token_box"
    elif token == tokenizer.sep_token_id:
        attribute, default = "sep_token_box", 1000
    box = getattr(tokenizer, attribute, None)
    return default if box is None else torch.tensor(box)
