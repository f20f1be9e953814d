"""Rows of text → the inputs of a transformers model."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from typing_extensions import override

from adamerge.batch import Batch
from adamerge.data.rows import Rows
from adamerge.data.tables import Table

_NO_LABEL = -100
"""Where there is nothing to predict, as torch has it."""


class TextRows(Rows):
    """Tokenised text, padded on the right whatever the tokenizer's own side is: positions then count from 0.

    Args:
        encodings: Token ids of each row.
        tokenizer: Pads them.
        everywhere: Whether the model says something at every position (language models and classifiers of tokens) or
            once a row.
        counted: For language models, from which token on a row's tokens count: the positions that predict these do.
            None counts all positions.
        labels: One a row, or None.
        spoken: For encoder-decoders, what each row's decoder says, its start token first. It reads all but the last
            token and predicts all but the first.
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
        spoken: Sequence[list[int]] | None = None,
        pairs: Sequence[list[int]] | None = None,
    ) -> None:
        self._encodings, self._tokenizer, self._everywhere = encodings, tokenizer, everywhere
        self._counted, self._labels, self._spoken, self._pairs = counted, labels, spoken, pairs

    def __len__(self) -> int:
        return len(self._encodings)

    @override
    def by_length(self, indices: Sequence[int]) -> Sequence[int]:
        return sorted(indices, key=lambda i: -len(self._encodings[i]))

    @override
    def batch(self, indices: Sequence[int]) -> Batch:
        padding = cast(int, self._tokenizer.pad_token_id)
        ids, mask = pad([self._encodings[i] for i in indices], padding)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self._pairs is not None:
            inputs["token_type_ids"] = pad([self._pairs[i] for i in indices], 0)[0]
        rows = torch.as_tensor(list(indices))
        if self._spoken is not None:
            spoken = [self._spoken[i] for i in indices]
            inputs["decoder_input_ids"], read = pad([row[: max(len(row) - 1, 1)] for row in spoken], padding)
            labels = pad([row[1:] or [_NO_LABEL] for row in spoken], _NO_LABEL)[0]
            return Batch(inputs, rows, read.bool(), labels)
        if self._everywhere:
            present = mask.bool()
            counted = present if self._counted is None else _predict(present, [self._counted[i] for i in indices])
            return Batch(inputs, rows, counted, _next_tokens(ids, counted, present))
        labels = None if self._labels is None else torch.tensor([self._labels[i] for i in indices])
        return Batch(inputs, rows, None, labels)


class Prompts(Rows):
    """Rows of a language model that are questions yet: they become batches when they have been `answered`.

    Args:
        prompts: Token ids of each row.
        shown: The same as people read it: a text, or chat messages.
        tokenizer: Pads them.
        start: For encoder-decoders, with which token the decoder starts; None for models that go on with the prompt.
        completion_only: Whether the answers' tokens alone will count.

    Attributes:
        shown: As given.
        tokenizer: As given.
        start: As given.
    """

    def __init__(
        self,
        prompts: Sequence[list[int]],
        shown: Sequence[object],
        tokenizer: PreTrainedTokenizerBase,
        *,
        start: int | None,
        completion_only: bool,
    ) -> None:
        self._prompts, self._completion_only = prompts, completion_only
        self.shown, self.tokenizer, self.start = shown, tokenizer, start

    def __len__(self) -> int:
        return len(self._prompts)

    @override
    def by_length(self, indices: Sequence[int]) -> Sequence[int]:
        return sorted(indices, key=lambda i: -len(self._prompts[i]))

    @override
    def batch(self, indices: Sequence[int]) -> Batch:
        """The prompts, padded on the left where a model goes on with them."""
        padding = cast(int, self.tokenizer.pad_token_id)
        ids, mask = pad([self._prompts[i] for i in indices], padding, left=self.start is None)
        return Batch({"input_ids": ids, "attention_mask": mask}, torch.as_tensor(list(indices)))

    def answered(self, answers: Sequence[Sequence[int]]) -> TextRows:
        """The rows with the token ids of what was said to them."""
        if self.start is not None:
            spoken = [[self.start, *answer] for answer in answers]
            return TextRows(self._prompts, self.tokenizer, everywhere=True, spoken=spoken)
        whole = [[*prompt, *answer] for prompt, answer in zip(self._prompts, answers, strict=True)]
        counted = [len(prompt) for prompt in self._prompts] if self._completion_only else None
        return TextRows(whole, self.tokenizer, everywhere=True, counted=counted)


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


def pad(rows: Sequence[list[int]], padding: int, *, left: bool = False) -> tuple[Tensor, Tensor]:
    """Rows of token ids as (B, S), and the mask of what is not padding, int64 too."""
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), padding)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        place = slice(length - len(row), length) if left else slice(len(row))
        ids[i, place] = torch.tensor(row, dtype=torch.int64)
        mask[i, place] = 1
    return ids, mask


def _predict(present: Tensor, first: Sequence[int]) -> Tensor:
    """The positions whose logits speak of a row's tokens from `first` on: those at s speak of the token at s + 1."""
    places = torch.arange(present.shape[1])
    follows = torch.zeros_like(present)
    follows[:, :-1] = present[:, 1:]
    return follows & (places >= torch.tensor(first)[:, None] - 1)


def _next_tokens(ids: Tensor, counted: Tensor, present: Tensor) -> Tensor:
    """At each counted position the token that follows it, -100 elsewhere, (B, S)."""
    following = torch.full_like(ids, _NO_LABEL)
    following[:, :-1] = ids[:, 1:].masked_fill(~(counted[:, :-1] & present[:, 1:]), _NO_LABEL)
    return following
