"""Rows of text → the inputs of a transformers model: classified, spoken, or as chat messages."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import override

from adamerge.data import Rows
from adamerge.outputs import fills_in
from adamerge.tables import Table
from adamerge.types import Batch


class TextRows(Rows):
    """Tokenised text.

    Args:
        encodings: Token ids of each row.
        tokenizer: Pads them.
        everywhere: Whether the model says something at every position (language models and classifiers of tokens) or
            once a row.
        counted: For language models, from which token on a row's positions count; None counts all.
        labels: One a row, or None.
        decoder: For encoder-decoders, the decoder's token ids of each row, its start token first.
        pairs: Segment ids of each row, where the model has them.
    """

    def __init__(
        self,
        encodings: Sequence[list[int]],
        tokenizer: PreTrainedTokenizerBase,
        *,
        everywhere: bool,
        counted: Sequence[int] | None = None,
        labels: Sequence[int] | None = None,
        decoder: Sequence[list[int]] | None = None,
        pairs: Sequence[list[int]] | None = None,
    ) -> None:
        self._encodings, self._tokenizer, self._everywhere = encodings, tokenizer, everywhere
        self._counted, self._labels, self._decoder, self._pairs = counted, labels, decoder, pairs

    def __len__(self) -> int:
        return len(self._encodings)

    @override
    def by_length(self, indices: Sequence[int]) -> Sequence[int]:
        return sorted(indices, key=lambda i: len(self._encodings[i]))

    @override
    def batch(self, indices: Sequence[int]) -> Batch:
        padding = cast(int, self._tokenizer.pad_token_id)
        ids, mask = _pad([self._encodings[i] for i in indices], padding)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self._pairs is not None:
            inputs["token_type_ids"] = _pad([self._pairs[i] for i in indices], 0)[0]
        rows = torch.as_tensor(list(indices))
        if self._decoder is not None:
            inputs["decoder_input_ids"], spoken = _pad([self._decoder[i] for i in indices], padding)
            return Batch(inputs, rows, spoken.bool(), _next_tokens(inputs["decoder_input_ids"], spoken.bool()))
        if self._everywhere:
            counted = mask.bool()
            if self._counted is not None:  # logits at position s speak of the token at s + 1
                first = torch.tensor([self._counted[i] - 1 for i in indices]).clamp_min(0)
                counted = counted & (torch.arange(ids.shape[1]) >= first[:, None])
            return Batch(inputs, rows, counted, _next_tokens(ids, counted, mask.bool()))
        labels = None if self._labels is None else torch.tensor([self._labels[i] for i in indices])
        return Batch(inputs, rows, None, labels)


def classified(
    table: Table,
    tokenizer: PreTrainedTokenizerBase,
    limit: int,
    *,
    by_token: bool = False,
    labels: Sequence[int] | None = None,
) -> TextRows:
    """Rows of a classifier: a text, or two.

    Args:
        table: The rows.
        tokenizer: Of the base.
        limit: Tokens a row at most.
        by_token: Whether each token has a class, or the row as a whole.
        labels: One a row, or None.

    Raises:
        ConfigError: A row has no text.
    """
    source = table.source
    pair = table.texts(source.text_pair) if source.text_pair else None
    encoded = tokenizer(table.texts(source.text), pair, truncation=True, max_length=limit)
    segments = encoded.get("token_type_ids") if "token_type_ids" in tokenizer.model_input_names else None
    return TextRows(encoded["input_ids"], tokenizer, everywhere=by_token, labels=labels, pairs=segments)


def spoken(
    table: Table, module: nn.Module, tokenizer: PreTrainedTokenizerBase, limit: int, *, labeled: bool
) -> TextRows:
    """Rows of a language model: text, text and completion, or chat messages.

    Args:
        table: The rows.
        module: The language model.
        tokenizer: Of the base.
        limit: Tokens a row at most.
        labeled: Whether perplexity will be measured on them.

    Raises:
        ConfigError: A row has no text or messages, or perplexity is to be measured where it means nothing.
    """
    config = cast(PreTrainedModel, module).config
    if labeled:
        _check_perplexity(table, module)
    if table.source.messages:
        if config.is_encoder_decoder:
            raise table.error(
                f"chat messages (key messages) are for models that go on with them, but {type(module).__name__} has an "
                "encoder for what was asked: give it a column text and a column completion."
            )
        encodings = _chats(table, tokenizer, limit)
        return _with_something_to_say(table, TextRows(encodings, tokenizer, everywhere=True), encodings, labeled)
    ids = tokenizer(table.texts(table.source.text), truncation=True, max_length=limit)["input_ids"]
    after: list[list[int]] = []
    if table.source.completion:
        completions = table.texts(table.source.completion)
        after = tokenizer(completions, truncation=True, max_length=limit, add_special_tokens=False)["input_ids"]
    if config.is_encoder_decoder:  # without a completion only the first token is spoken
        decoder = [[config.decoder_start_token_id, *row] for row in after or [[]] * len(ids)]
        rows = TextRows(ids, tokenizer, everywhere=True, decoder=decoder)
        return _with_something_to_say(table, rows, decoder, labeled)
    if not after:
        return _with_something_to_say(table, TextRows(ids, tokenizer, everywhere=True), ids, labeled)
    whole = [(one + other)[:limit] for one, other in zip(ids, after, strict=True)]
    rows = TextRows(whole, tokenizer, everywhere=True, counted=[len(one) for one in ids])
    heard = [row[max(len(one) - 1, 0) :] for row, one in zip(whole, ids, strict=True)]
    return _with_something_to_say(table, rows, heard, labeled)


def _check_perplexity(table: Table, module: nn.Module) -> None:
    """Refuse to measure perplexity where it means nothing."""
    kind = type(module).__name__
    if fills_in(module):
        raise table.error(
            f"{kind} fills in words that it sees both sides of; the perplexity of the next word, which is what is "
            "measured of language models, means nothing for it. Leave out this task's evaluation."
        )
    if cast(PreTrainedModel, module).config.is_encoder_decoder and not table.source.completion:
        raise table.error(
            f"expected a column of what {kind} is to say (key completion of the evaluation), as perplexity is measured "
            "on it, but none is named."
        )


def _with_something_to_say(table: Table, rows: TextRows, heard: Sequence[list[int]], labeled: bool) -> TextRows:
    """The rows, if at least one holds a token that is predicted from another one."""
    if labeled and all(len(row) < 2 for row in heard):
        raise table.error("no row has a token to predict, so perplexity cannot be measured.")
    return rows


def _chats(table: Table, tokenizer: PreTrainedTokenizerBase, limit: int) -> list[list[int]]:
    if not tokenizer.chat_template:
        raise table.error("the rows are chat messages, but the tokenizer has no chat template.")
    column = cast(str, table.source.messages)
    chats: list[list[int]] = []
    for number, messages in enumerate(table.data[column], 1):
        if not isinstance(messages, list) or not messages:
            raise table.error(f"row {number} has no messages in {column!r}.")
        ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
        chats.append(cast(list[int], ids)[:limit])
    return chats


def _pad(rows: Sequence[list[int]], padding: int) -> tuple[Tensor, Tensor]:
    """Rows of token ids as (B, S), and the mask of what is not padding, int64 too."""
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), padding)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return ids, mask


def _next_tokens(ids: Tensor, counted: Tensor, present: Tensor | None = None) -> Tensor:
    """At each counted position the token that follows it, -100 elsewhere, (B, S)."""
    present = counted if present is None else present
    following = torch.full_like(ids, -100)
    following[:, :-1] = ids[:, 1:].masked_fill(~(counted[:, :-1] & present[:, 1:]), -100)
    return following
