"""Checks of the base's tokenizer: vocabulary, padding and maximum length of a row."""

import json
from pathlib import Path

from transformers import PreTrainedTokenizerBase
from transformers.image_processing_base import ImageProcessingMixin

from adamerge.data.modality import Processor
from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.model_kind import ModelKind
from adamerge.types import ConfigError

_UNLIMITED = 10**9


def lend_padding(processor: Processor, kind: ModelKind) -> tuple[str, ...]:
    """Set the pad token of a language model's tokenizer that has none to its end-of-text token.

    Any token can be used, because predictions of a language model at padding never count. Classifiers may use the pad
    token to find the end of a row, so their tokenizers are not changed.

    Args:
        processor: The base's tokenizer, or an image processor, which is not changed.
        kind: The kind of the model.

    Returns:
        A note for the user if the token was set, else nothing.
    """
    if isinstance(processor, ImageProcessingMixin) or processor.pad_token_id is not None or not kind.language_model:
        return ()
    if processor.eos_token is None:
        return ()
    processor.pad_token = processor.eos_token
    return (f"the tokenizer has no pad token: rows are padded with {processor.eos_token}, which never counts.",)


def check_padding(task: str, kind: ModelKind, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a tokenizer can pad.

    Raises:
        ConfigError: It has no pad token.
    """
    if tokenizer.pad_token_id is not None:
        return
    why = (
        "padding never counts; the end-of-text token, which replaces it for language models, is missing too"
        if kind.language_model
        else "for example the end-of-text token; padding never counts"
    )
    raise ConfigError(
        f"{task}: expected a tokenizer with a pad token, because rows of different lengths must be padded, but it has "
        f"none. Set one in the base's tokenizer_config.json ({why})."
    )


def token_limit(kind: ModelKind, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> int:
    """Compute the maximum number of tokens per row: the minimum of the limits of user, tokenizer and positions."""
    return min(max_length or _UNLIMITED, tokenizer.model_max_length, kind.max_positions or _UNLIMITED)


def check_vocabulary(processor: Processor, base: Checkpoint, expert: Checkpoint, task: str) -> None:
    """Check that an expert's own tokenizer, if it was saved with one, has the base's indices for the base's tokens.

    Additional tokens and renamed reserved tokens are allowed.

    Raises:
        ConfigError: Names the first token with another index.
    """
    here, there = (checkpoint.folder / "tokenizer.json" for checkpoint in (expert, base))
    if isinstance(processor, ImageProcessingMixin) or not (here.exists() and there.exists()):
        return
    if here.read_bytes() == there.read_bytes():
        return
    own, known = (json.loads(file.read_text(encoding="utf-8"))["model"].get("vocab") for file in (here, there))
    if not (isinstance(own, dict) and isinstance(known, dict)):  # the list of a unigram model is ordered by index
        return
    moved = [word for word, index in known.items() if own.get(word, index) != index]
    if moved:
        raise ConfigError(
            f"{task}: {expert.source}: vocabularies differ: {len(moved)} of the base's {len(known)} tokens have "
            f"another index in the expert's tokenizer.json, for example {moved[0]!r} ({own[moved[0]]} instead of "
            f"{known[moved[0]]}). Use an expert that was fine-tuned with the base's tokenizer."
        )


def has_vocabulary(folder: Path, processor: Processor) -> bool:
    """Return whether a folder contains the files of a tokenizer; without them transformers makes an empty one."""
    if isinstance(processor, ImageProcessingMixin):
        return True
    files = {"tokenizer.json", "tokenizer_config.json", *processor.vocab_files_names.values()}
    return any((folder / file).exists() for file in files)
