"""A base's tokenizer: whether it fits the experts, how it pads, and how long a row may be."""

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
    """Let a language model's tokenizer without a pad token pad with its end-of-text token; returns a note of it.

    Any token would do, since a language model's predictions at padding never count. Classifiers may look for it.
    """
    if isinstance(processor, ImageProcessingMixin) or processor.pad_token_id is not None or not kind.language_model:
        return ()
    if processor.eos_token is None:
        return ()
    processor.pad_token = processor.eos_token
    return (f"the tokenizer has no pad token: rows are padded with {processor.eos_token}, which never counts.",)


def check_padding(task: str, kind: ModelKind, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that cannot pad.

    Raises:
        ConfigError: It has no pad token.
    """
    if tokenizer.pad_token_id is not None:
        return
    why = (
        "padding never counts; language models' rows are padded with the end-of-text token, but there is none either"
        if kind.language_model
        else "for example the end-of-text token; padding never counts"
    )
    raise ConfigError(
        f"{task}: the tokenizer has no pad token, and rows of different lengths must be padded. Set one in the base's "
        f"tokenizer_config.json ({why})."
    )


def token_limit(kind: ModelKind, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> int:
    """Tokens per row at most: the smallest of what user, tokenizer and position embeddings allow."""
    return min(max_length or _UNLIMITED, tokenizer.model_max_length, kind.max_positions or _UNLIMITED)


def check_vocabulary(processor: Processor, base: Checkpoint, expert: Checkpoint, task: str) -> None:
    """Refuse an expert whose own tokenizer, if it was saved with one, has other indices for the base's tokens.

    Additional tokens, and reserved ones that were given a name, are allowed.

    Raises:
        ConfigError: Names the first token.
    """
    here, there = (checkpoint.folder / "tokenizer.json" for checkpoint in (expert, base))
    if isinstance(processor, ImageProcessingMixin) or not (here.exists() and there.exists()):
        return
    if here.read_bytes() == there.read_bytes():
        return
    own, known = (json.loads(file.read_text(encoding="utf-8"))["model"].get("vocab") for file in (here, there))
    if not (isinstance(own, dict) and isinstance(known, dict)):  # a unigram model's list goes by place
        return
    moved = [word for word, index in known.items() if own.get(word, index) != index]
    if moved:
        raise ConfigError(
            f"{task}: {expert.source}: vocabularies differ: {len(moved)} of the base's {len(known)} words have another "
            f"number in the expert's tokenizer.json, {moved[0]!r} for one ({own[moved[0]]} instead of "
            f"{known[moved[0]]}). Experts must be fine-tuned with the base's tokenizer."
        )


def has_vocabulary(folder: Path, processor: Processor) -> bool:
    """Whether a folder holds the files of a tokenizer; transformers makes one without words where it does not."""
    if isinstance(processor, ImageProcessingMixin):
        return True
    files = {"tokenizer.json", "tokenizer_config.json", *processor.vocab_files_names.values()}
    return any((folder / file).exists() for file in files)
