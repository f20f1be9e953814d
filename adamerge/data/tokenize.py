"""Checks of a tokenizer: vocabulary, padding and maximum length of a row."""

import math
from pathlib import Path
from typing import cast

from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.image_processing_base import ImageProcessingMixin

from adamerge.data.modality import Processor
from adamerge.data.processor_differences import moved
from adamerge.experts.experts import Expert, Experts
from adamerge.experts.model_kind import ModelKind
from adamerge.types import ConfigError, quoted

TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "*.tiktoken", "tekken.json")
"""Patterns of the files that a tokenizer is loaded from."""

_UNLIMITED = 10**9


def lend_padding(processor: Processor, kind: ModelKind) -> tuple[str, ...]:
    """Set the pad token of a language model's tokenizer that has none to its end-of-text token.

    Any token can be used, because predictions of a language model at padding never count. Classifiers may use the pad
    token to find the end of a row, so their tokenizers are not changed.

    Args:
        processor: The task's tokenizer, or an image processor, which is not changed.
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
        f"none. Set one in its tokenizer_config.json ({why})."
    )


def check_limit(source: str, processor: Processor) -> None:
    """Check the maximum length of a tokenizer; 0 and negative numbers stand for none.

    Raises:
        ConfigError: It is no whole number.
    """
    if isinstance(processor, ImageProcessingMixin):
        return
    limit: object = processor.model_max_length
    if isinstance(limit, bool) or not isinstance(limit, int | float) or (limit != math.inf and limit % 1):
        raise ConfigError(
            f"{source}: expected a whole number of tokens as model_max_length in tokenizer_config.json, found "
            f"{quoted(limit)}. Correct or remove it."
        )
    if limit < 1:
        processor.model_max_length = _UNLIMITED
    elif limit < _UNLIMITED:
        processor.model_max_length = int(limit)


def check_names(source: str, processor: Processor) -> None:
    """Check the names of a tokenizer's inputs, and that it can tell the index of each of its special tokens.

    Raises:
        ConfigError: Names are no texts, or a special token is none of its tokens, of which it asks itself without end.
    """
    if isinstance(processor, ImageProcessingMixin):
        return
    names: object = processor.model_input_names
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"{source}: expected a list of texts as model_input_names in tokenizer_config.json, found {quoted(names)}. "
            "Correct or remove it."
        )
    for name in processor.SPECIAL_TOKENS_ATTRIBUTES:
        try:
            getattr(processor, f"{name}_id", None)
        except (RecursionError, TypeError, ValueError, KeyError) as error:
            found = quoted(str(processor.special_tokens_map.get(name)))
            raise ConfigError(
                f"{source}: expected one of the tokenizer's tokens as {name} in tokenizer_config.json, found {found}. "
                "Correct it, or copy its files again from the fine-tuned model."
            ) from error


def token_limit(kind: ModelKind, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> int:
    """Compute the maximum number of tokens per row: the minimum of the limits of user, tokenizer and positions."""
    own = tokenizer.model_max_length if tokenizer.model_max_length >= 1 else _UNLIMITED
    return min(max_length or _UNLIMITED, own, kind.max_positions or _UNLIMITED)


def check_vocabulary(own: Processor, base: Processor, expert: Expert, experts: Experts) -> None:
    """Check that an expert's tokenizer has the base's indices for the base's tokens, if their embeddings are merged.

    Additional tokens and renamed reserved tokens are allowed.

    Raises:
        ConfigError: Names the first token with another index.
    """
    if own is base or isinstance(own, ImageProcessingMixin) or isinstance(base, ImageProcessingMixin):
        return
    mine, theirs = own.get_vocab(), base.get_vocab()
    wrong = moved(mine, theirs)
    if not wrong or embedding_name(expert) not in experts.shared:
        return
    raise ConfigError(
        f"{expert.name}: {expert.source}: vocabularies differ: {len(wrong)} of the base's {len(theirs)} tokens have "
        f"another index in the expert's tokenizer, for example {wrong[0]!r} ({mine[wrong[0]]} instead of "
        f"{theirs[wrong[0]]}), but the embeddings are merged row by row. Use an expert that was fine-tuned with the "
        "base's vocabulary, or keep each expert's own embeddings (parameters.head)."
    )


def embedding_name(expert: Expert) -> str | None:
    """Return the name of the parameter that embeds tokens; None if there is none."""
    embedding = input_embedding(expert.own_module)
    named = expert.own_module.named_parameters()
    return next((name for name, parameter in named if parameter is embedding), None)


def input_embedding(module: nn.Module) -> Tensor | None:
    """Return the matrix that embeds tokens, (V, D); None if the module does not tell."""
    try:
        return cast(PreTrainedModel, module).get_input_embeddings().weight  # pyright: ignore
    except (AttributeError, NotImplementedError):
        return None


def has_vocabulary(folder: Path, processor: Processor) -> bool:
    """Return whether a folder contains the vocabulary of a tokenizer; without it transformers makes an empty one."""
    if isinstance(processor, ImageProcessingMixin):
        return True
    names = {"tokenizer.json", *processor.vocab_files_names.values()}
    names |= (
        set() if processor.vocab_files_names else {"tokenizer_config.json"}
    )  # a tokenizer of bytes has no vocabulary
    return any((folder / name).exists() for name in names)
