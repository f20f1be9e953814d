"""Rows of text and images → the inputs of a transformers model."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, cast

import datasets
import torch
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.image_processing_base import ImageProcessingMixin
from typing_extensions import override

from adamerge.checkpoint import Checkpoint
from adamerge.data import DataSource, Rows, check_columns
from adamerge.types import Batch, ConfigError

Processor: TypeAlias = PreTrainedTokenizerBase | ImageProcessingMixin


class TextRows(Rows):
    """Tokenised text.

    Args:
        encodings: Token ids of each row.
        tokenizer: Pads them.
        speaks: Whether the model says something at every position (a language model) or once a row.
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
        speaks: bool,
        counted: Sequence[int] | None = None,
        labels: Sequence[int] | None = None,
        decoder: Sequence[list[int]] | None = None,
        pairs: Sequence[list[int]] | None = None,
    ) -> None:
        self._encodings, self._tokenizer, self._speaks = encodings, tokenizer, speaks
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
        if self._speaks:
            counted = mask.bool()
            if self._counted is not None:  # logits at position s speak of the token at s + 1
                first = torch.tensor([self._counted[i] - 1 for i in indices]).clamp_min(0)
                counted = counted & (torch.arange(ids.shape[1]) >= first[:, None])
            return Batch(inputs, rows, counted, _next_tokens(ids, counted, mask.bool()))
        labels = None if self._labels is None else torch.tensor([self._labels[i] for i in indices])
        return Batch(inputs, rows, None, labels)


class ImageRows(Rows):
    """Images, processed when a batch is made: 256 of them would take 150 MB as pixels of floats.

    Args:
        table: Holds the images.
        column: Their column.
        processor: Makes pixel values.
        labels: One a row, or None.
    """

    def __init__(
        self, table: datasets.Dataset, column: str, processor: ImageProcessingMixin, labels: Sequence[int] | None
    ) -> None:
        self._table, self._column, self._processor, self._labels = table, column, processor, labels

    def __len__(self) -> int:
        return len(self._table)

    @override
    def batch(self, indices: Sequence[int]) -> Batch:
        images = [image.convert("RGB") for image in self._table[list(indices)][self._column]]
        pixels = cast(Callable[..., Mapping[str, Tensor]], self._processor)(images, return_tensors="pt")["pixel_values"]
        labels = None if self._labels is None else torch.tensor([self._labels[i] for i in indices])
        return Batch({"pixel_values": pixels}, torch.as_tensor(list(indices)), None, labels)


def load_processor(checkpoint: Checkpoint, module: nn.Module) -> Processor:
    """The tokenizer or image processor that lies beside a checkpoint, whichever its module takes.

    Raises:
        ConfigError: There is none, or it cannot be read.
    """
    images = takes_images(module)
    loader, what = (AutoImageProcessor, "image processor") if images else (AutoTokenizer, "tokenizer")
    try:
        processor = loader.from_pretrained(checkpoint.folder, trust_remote_code=checkpoint.trust_remote_code)
        if not images and not _has_vocabulary(checkpoint.folder, processor):  # transformers makes one without words
            raise OSError(f"there is no vocabulary in {checkpoint.folder}")
        return processor
    except (OSError, ValueError, ImportError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"{checkpoint.source}: expected the {what} of {type(module).__name__} beside the weights, but transformers "
            f"cannot load one ({reason}). Copy its files there from the model that was fine-tuned."
        ) from error


def _has_vocabulary(folder: Path, tokenizer: PreTrainedTokenizerBase) -> bool:
    files = {"tokenizer.json", "tokenizer_config.json", *tokenizer.vocab_files_names.values()}
    return any((folder / file).exists() for file in files)


def takes_images(module: nn.Module) -> bool:
    """Whether a module's main input is an image rather than text."""
    return getattr(module, "main_input_name", "input_ids") == "pixel_values"


def speaks(module: nn.Module) -> bool:
    """Whether a module says something at every position: language models do, classifiers say one thing a row."""
    embeddings = getattr(module, "get_output_embeddings", None)
    return embeddings is not None and embeddings() is not None


def encode(
    table: datasets.Dataset,
    source: DataSource,
    task: str,
    module: nn.Module,
    processor: Processor,
    *,
    labeled: bool,
    max_length: int | None = None,
) -> Rows:
    """Make a table into rows that a module takes.

    Args:
        table: The rows.
        source: What its columns are called.
        task: For messages.
        module: The task's module.
        processor: Its tokenizer or image processor.
        labeled: Whether to read the label column; calibration never does.
        max_length: Tokens a row at most; the tokenizer's own limit by default.

    Raises:
        ConfigError: A column is missing, a row is unusable, or the tokenizer cannot pad or has no chat template.
    """
    if isinstance(processor, ImageProcessingMixin):
        check_columns(table, [source.image, *([source.label] if labeled else [])], source, task)
        table = table.cast_column(source.image, datasets.Image())
        return ImageRows(table, source.image, processor, _labels(table, source, task, module) if labeled else None)
    if processor.pad_token_id is None:
        raise ConfigError(
            f"{task}: the tokenizer has no pad token, and rows of different lengths must be padded. Set one in the "
            "base's tokenizer_config.json (for example the end-of-text token; padding never counts)."
        )
    limit = min(max_length or 10**9, processor.model_max_length, _positions(module))
    if not speaks(module):
        return _classified(table, source, task, module, processor, labeled, limit)
    return _spoken(table, source, task, module, processor, limit)


def _classified(
    table: datasets.Dataset,
    source: DataSource,
    task: str,
    module: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    labeled: bool,
    limit: int,
) -> Rows:
    columns = [source.text, *([source.text_pair] if source.text_pair else [])]
    check_columns(table, [*columns, *([source.label] if labeled else [])], source, task)
    texts = [_texts(table, column, source, task) for column in columns]
    encoded = tokenizer(texts[0], texts[1] if source.text_pair else None, truncation=True, max_length=limit)
    segments = encoded.get("token_type_ids") if "token_type_ids" in tokenizer.model_input_names else None
    labels = _labels(table, source, task, module) if labeled else None
    return TextRows(encoded["input_ids"], tokenizer, speaks=False, labels=labels, pairs=segments)


def _spoken(
    table: datasets.Dataset,
    source: DataSource,
    task: str,
    module: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    limit: int,
) -> Rows:
    """Rows of a language model: text, text and completion, or chat messages."""
    config = cast(PreTrainedModel, module).config
    if source.messages:
        check_columns(table, [source.messages], source, task)
        return TextRows(_chats(table, source, task, tokenizer, limit), tokenizer, speaks=True)
    check_columns(table, [source.text, *([source.completion] if source.completion else [])], source, task)
    ids = tokenizer(_texts(table, source.text, source, task), truncation=True, max_length=limit)["input_ids"]
    after: list[list[int]] = []
    if source.completion:
        completions = _texts(table, source.completion, source, task)
        after = tokenizer(completions, truncation=True, max_length=limit, add_special_tokens=False)["input_ids"]
    if config.is_encoder_decoder:  # without a completion only the first token is spoken
        decoder = [[config.decoder_start_token_id, *row] for row in after or [[]] * len(ids)]
        return TextRows(ids, tokenizer, speaks=True, decoder=decoder)
    if not after:
        return TextRows(ids, tokenizer, speaks=True)
    whole = [(one + other)[:limit] for one, other in zip(ids, after, strict=True)]
    return TextRows(whole, tokenizer, speaks=True, counted=[len(one) for one in ids])


def _chats(
    table: datasets.Dataset, source: DataSource, task: str, tokenizer: PreTrainedTokenizerBase, limit: int
) -> list[list[int]]:
    if not tokenizer.chat_template:
        raise ConfigError(f"{task}: {source.path}: the rows are chat messages, but the tokenizer has no chat template.")
    column = cast(str, source.messages)
    chats: list[list[int]] = []
    for number, messages in enumerate(table[column], 1):
        if not isinstance(messages, list) or not messages:
            raise ConfigError(f"{task}: {source.path}: row {number} has no messages in {source.messages!r}.")
        ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
        chats.append(cast(list[int], ids)[:limit])
    return chats


def _texts(table: datasets.Dataset, column: str, source: DataSource, task: str) -> list[str]:
    try:
        texts = list(table[column])
    except UnicodeDecodeError as error:
        raise ConfigError(f"{task}: {source.path}: the column {column!r} is not text in UTF-8 ({error}).") from error
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise ConfigError(f"{task}: {source.path}: row {number} has {text!r} where {column!r} should be a text.")
    return texts


def _labels(table: datasets.Dataset, source: DataSource, task: str, module: nn.Module) -> list[int]:
    """Label indices; labels in words are looked up in the expert's own configuration."""
    words: Mapping[str, int] = getattr(getattr(module, "config", None), "label2id", None) or {}
    count = getattr(module, "num_labels", None) or getattr(getattr(module, "config", None), "num_labels", None)
    labels: list[int] = []
    for number, label in enumerate(table[source.label], 1):
        index = words.get(label) if isinstance(label, str) else label
        if not isinstance(index, int) or (count is not None and not 0 <= index < count):
            raise ConfigError(
                f"{task}: {source.path}: row {number} has the label {label!r}, which is none of the expert's {count} "
                f"labels ({', '.join(list(words)[:8])})."
            )
        labels.append(index)
    return labels


def _positions(module: nn.Module) -> int:
    """The longest row that a module's position embeddings allow, as far as its configuration says."""
    return getattr(getattr(module, "config", None), "max_position_embeddings", None) or 10**9


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
