"""One tokenizer for base and experts whose tokenizers differ only by added tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerBase

from adamerge.data.processor_files import files_of, is_damaged
from adamerge.experts.file_patterns import TOKENIZER
from adamerge.experts.name_patterns import several
from adamerge.experts.vocabulary_rows import ABSENT
from adamerge.storage.regular_files import reason_of
from adamerge.types import ConfigError


@dataclass(frozen=True)
class Vocabulary:
    """Tokens of a model.

    Attributes:
        source: The model, as the user wrote it.
        folder: Folder of the tokenizer.
        indices: Index by token.
        added: Tokens that were added to those of the tokenizer's algorithm.
        size: Number of rows of the model.
    """

    source: str
    folder: Path
    indices: Mapping[str, int]
    added: Mapping[str, AddedToken]
    size: int


def read_vocabulary(source: str, folder: Path, size: int, *, trusted: bool = False) -> Vocabulary:
    """Read the tokens of the tokenizer in a folder.

    Args:
        source: The model, as the user wrote it.
        folder: Folder of the tokenizer.
        size: Number of rows of the model.
        trusted: Whether code beside it may run.
    """
    tokenizer = _loaded(source, folder, trusted=trusted)
    added = {str(token): token for token in tokenizer.added_tokens_decoder.values()}
    return Vocabulary(source, folder, tokenizer.get_vocab(), added, size)


def _loaded(source: str, folder: Path, *, trusted: bool) -> PreTrainedTokenizerBase:
    try:
        return cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted))
    except Exception as error:  # tokenizers raises plain exceptions on damaged files
        damaged = [name for name, file in files_of(folder, TOKENIZER).items() if is_damaged(file)]
        raise ConfigError(
            f"{source}: expected a tokenizer{' in ' * bool(damaged)}{', '.join(damaged)}, but transformers cannot load "
            f"it ({reason_of(error)}). Copy its files again."
        ) from error


def problems_between(one: Vocabulary, base: Vocabulary) -> list[str]:
    """List by what two tokenizers differ that is no added token."""
    mine, theirs = one.indices, base.indices
    other = [token for token in mine.keys() - theirs.keys() if token not in one.added]
    other += [token for token in theirs.keys() - mine.keys() if token not in base.added]
    moved = [token for token in mine.keys() & theirs.keys() if mine[token] != theirs[token]]
    other += [token for token in moved if token not in one.added or token not in base.added]
    if not other:
        return []
    return [
        f"{one.source}: tokenizer: expected the base's tokenizer with added tokens, found {len(other)} tokens that "
        f"only one of them has or that have another index, for example {several(sorted(other))}. Use an expert with "
        "the base's vocabulary, or keep each expert's own embeddings (parameters.head) and remove the key tokenizer."
    ]


def of_all(vocabularies: Sequence[Vocabulary]) -> Vocabulary | None:
    """Return the first of several tokenizers that has the tokens of all, each at the base's index if the base has it.

    Args:
        vocabularies: The base's first.

    Returns:
        The tokenizer; None if there is none.
    """
    base = vocabularies[0].indices
    every = set[str]().union(*(one.indices for one in vocabularies))
    fitting = (one for one in vocabularies if one.indices.keys() == every)
    return next((one for one in fitting if all(one.indices[token] == i for token, i in base.items())), None)


def save_union(vocabularies: Sequence[Vocabulary], folder: Path, *, trusted: bool = False) -> Vocabulary:
    """Write the base's tokenizer with the added tokens of all experts, in their order.

    Args:
        vocabularies: The base's first.
        folder: Where to.
        trusted: Whether code beside the base's tokenizer may run.

    Returns:
        The new tokenizer.
    """
    base = vocabularies[0]
    tokenizer = _loaded(base.source, base.folder, trusted=trusted)
    for one in vocabularies[1:]:
        known = tokenizer.get_vocab()
        new = sorted((token for token in one.indices if token not in known), key=lambda token: one.indices[token])
        tokenizer.add_tokens([one.added[token] for token in new])
    tokenizer.save_pretrained(folder)
    return read_vocabulary("union", folder, base.size, trusted=trusted)


def rows_of(model: Vocabulary, common: Vocabulary, base: Vocabulary) -> tuple[int, ...]:
    """Return the index that a model has for each row of the common tokenizer; `ABSENT` where it has none.

    A row without a token, such as one that fills up the vocabulary, keeps its index.

    Args:
        model: Tokens of the model.
        common: The common tokenizer.
        base: Tokens of the base.
    """
    tokens = {index: token for token, index in common.indices.items()}
    used = set(model.indices.values())
    return tuple(
        model.indices.get(tokens[index], ABSENT)
        if index in tokens
        else index
        if index < model.size and index not in used
        else ABSENT
        for index in range(max(base.size, max(tokens) + 1))
    )


def moved_to(model: Vocabulary, common: Vocabulary) -> dict[int, int | None]:
    """Map the indices of a model's tokens to those of the common tokenizer, where they differ; None without one."""
    pairs = {index: common.indices.get(token) for token, index in model.indices.items()}
    return {index: found for index, found in pairs.items() if index != found}
