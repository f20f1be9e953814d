"""Rows of token ids, padded per batch, with the positions that count."""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from typing_extensions import override

from adamerge.data.deletion import deletions
from adamerge.data.input_columns import InputColumn
from adamerge.data.padding import Padding, pad
from adamerge.data.rows import Padded, Rows
from adamerge.data.settings import Augmentation
from adamerge.data.turns import AnswerEnd

NO_LABEL = -100
"""Label of positions without a target; torch's default `ignore_index`."""


class TextRows(Rows):
    """Tokenised text, padded on the right unless the model needs the left, whatever the tokenizer's padding side is.

    Args:
        encodings: Token ids of each row.
        tokenizer: Pads them.
        per_token: Whether the model predicts at every position (language models, token classifiers) or once per row.
        counted: For language models, the index of each row's first token that counts: the positions that predict it and
            the tokens after it count. None counts all positions.
        labels: One per row, or None.
        targets: For encoder-decoders, the decoder's token ids of each row, beginning with its start token. The decoder
            reads all but the last token and predicts all but the first.
        segments: Segment ids of each row, if the model uses them.
        pad_token: Returns the token that pads the inputs; by default the tokenizer's pad token.
        inputs: Other inputs of the model by argument.

    Attributes:
        tokenizer: As given.
    """

    def __init__(
        self,
        encodings: Sequence[list[int]],
        tokenizer: PreTrainedTokenizerBase,
        *,
        per_token: bool,
        counted: Sequence[int] | None = None,
        labels: Sequence[object] | None = None,
        targets: Sequence[list[int]] | None = None,
        segments: Sequence[list[int]] | None = None,
        inputs: Mapping[str, InputColumn] | None = None,
        pad_token: Callable[[], int] | None = None,
    ) -> None:
        self._pad_token = pad_token or (lambda: cast(int, tokenizer.pad_token_id))
        self._encodings, self.tokenizer, self._per_token = encodings, tokenizer, per_token
        self._counted, self._labels, self._targets, self._segments = counted, labels, targets, segments
        self._inputs = inputs or {}

    def __len__(self) -> int:
        return len(self._encodings)

    def with_labels(self, labels: Sequence[object] | None) -> "TextRows":
        """Return the rows with one label each, for a classifier of texts."""
        return TextRows(
            self._encodings,
            self.tokenizer,
            per_token=self._per_token,
            labels=labels,
            segments=self._segments,
            inputs=self._inputs,
            pad_token=self._pad_token,
        )

    def as_tokens(self) -> "TextRows":
        """Return the rows for a classifier of tokens: every position that is not padding counts."""
        return TextRows(
            self._encodings,
            self.tokenizer,
            per_token=True,
            segments=self._segments,
            inputs=self._inputs,
            pad_token=self._pad_token,
        )

    @override
    def augmented(self, how: Augmentation, seed: int, indices: Sequence[int] | None = None) -> "TextRows | None":
        """Return rows and copies from which tokens are deleted; None if tokens are predicted, or come with more."""
        if self._per_token or self._targets is not None or self._inputs:
            return None
        rows = range(len(self)) if indices is None else indices
        special = set(self.tokenizer.all_special_ids)
        places = [(row, range(len(self._encodings[row]))) for row in rows]
        places += deletions([(row, self._encodings[row]) for row in rows], special, how, seed)
        encodings, segments = (
            None if own is None else [[own[row][place] for place in kept] for row, kept in places]
            for own in (self._encodings, self._segments)
        )
        assert encodings is not None
        found = TextRows(encodings, self.tokenizer, per_token=False, segments=segments, pad_token=self._pad_token)
        return found.under(self.padding)

    @override
    def length(self, index: int) -> tuple[int, ...]:
        decoder = [] if self._targets is None else [len(self._targets[index])]
        return (len(self._encodings[index]), *decoder)

    @override
    def padded(self, indices: Sequence[int]) -> Padded:
        padding = self._pad_token()
        ids, mask = pad([self._encodings[i] for i in indices], padding, self.padding)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self._segments is not None:
            inputs["token_type_ids"] = pad([self._segments[i] for i in indices], 0, self.padding)[0]
        inputs |= {name: column.padded(indices, self.padding) for name, column in self._inputs.items()}
        if self._targets is not None:
            targets = [self._targets[i] for i in indices]
            inputs["decoder_input_ids"], read = pad([row[: max(len(row) - 1, 1)] for row in targets], padding)
            labels = pad([row[1:] or [NO_LABEL] for row in targets], NO_LABEL)[0]
            return Padded(inputs, read.bool(), labels)
        if self._per_token:
            present = mask.bool()
            counted = present if self._counted is None else predicting(present, [self._counted[i] for i in indices])
            return Padded(inputs, counted, next_tokens(ids, counted, present))
        labels = None if self._labels is None else torch.tensor([self._labels[i] for i in indices])
        return Padded(inputs, None, labels)


class Prompts(Rows):
    """Prompts of a language model awaiting answers; `answered` makes rows to learn from.

    Args:
        prompts: Token ids of each row.
        shown: The same in readable form: a text, or chat messages.
        tokenizer: Pads them.
        start: For encoder-decoders, the decoder's start token; None for decoder-only models.
        completion_only: Whether only the answers' tokens count.
        end: What ends an answer.

    Attributes:
        end: As given.
        shown: As given.
        tokenizer: As given.
        start: As given.
        padding: Of the prompts; on the left for decoder-only models, so that answers follow immediately.
        answered_padding: Of the rows that `answered` makes.
    """

    def __init__(
        self,
        prompts: Sequence[list[int]],
        shown: Sequence[object],
        tokenizer: PreTrainedTokenizerBase,
        *,
        start: int | None,
        completion_only: bool,
        end: AnswerEnd | None = None,
    ) -> None:
        self.end = end or AnswerEnd()
        self._prompts, self._completion_only = prompts, completion_only
        self.shown, self.tokenizer, self.start = shown, tokenizer, start
        self.padding = Padding("left" if start is None else "right")
        self.answered_padding = Padding()

    def __len__(self) -> int:
        return len(self._prompts)

    @override
    def length(self, index: int) -> tuple[int, ...]:
        return (len(self._prompts[index]),)

    @override
    def padded(self, indices: Sequence[int]) -> Padded:
        """Pad prompts, on the left for decoder-only models."""
        padding = cast(int, self.tokenizer.pad_token_id)
        ids, mask = pad([self._prompts[i] for i in indices], padding, self.padding)
        return Padded({"input_ids": ids, "attention_mask": mask})

    def answered(self, answers: Sequence[Sequence[int]]) -> TextRows:
        """Join the prompts and the token ids of their answers to rows."""
        if self.start is not None:
            targets = [[self.start, *answer] for answer in answers]
            rows = TextRows(self._prompts, self.tokenizer, per_token=True, targets=targets)
            return rows.under(self.answered_padding)
        whole = [[*prompt, *answer] for prompt, answer in zip(self._prompts, answers, strict=True)]
        counted = [len(prompt) for prompt in self._prompts] if self._completion_only else None
        rows = TextRows(whole, self.tokenizer, per_token=True, counted=counted)
        return rows.under(self.answered_padding)


def predicting(present: Tensor, first: Sequence[int]) -> Tensor:
    """Mark the positions whose logits predict a row's tokens from `first` on: logits at s predict token s + 1."""
    places = torch.arange(present.shape[1]) - present.int().argmax(1, keepdim=True)  # from the row's own first token
    follows = torch.zeros_like(present)
    follows[:, :-1] = present[:, 1:] & present[:, :-1]
    return follows & (places >= torch.tensor(first)[:, None] - 1)


def next_tokens(ids: Tensor, counted: Tensor, present: Tensor) -> Tensor:
    """Compute the labels of next tokens: the next token at each counted position, -100 elsewhere, (B, S).

    Args:
        ids: Token ids, (B, S).
        counted: Positions that count, (B, S).
        present: Positions that are not padding, (B, S).
    """
    following = torch.full_like(ids, NO_LABEL)
    following[:, :-1] = ids[:, 1:].masked_fill(~(counted[:, :-1] & present[:, 1:]), NO_LABEL)
    return following
