"""One tokenizer for base and experts whose tokenizers differ only by added tokens."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerBase

from adamerge.data.processor_differences import properties, short, token_ways
from adamerge.data.processor_files import files_of, is_damaged
from adamerge.experts.file_patterns import TOKENIZER
from adamerge.experts.name_patterns import several
from adamerge.experts.vocabulary_rows import ABSENT
from adamerge.storage.regular_files import reason_of
from adamerge.types import ConfigError

_SPLITS = ("normalizer", "pre_tokenizer", "model.", "options.do_lower_case")
"""Starts of the settings that decide which tokens a text has."""

_SPECIAL = "special tokens."


@dataclass(frozen=True)
class Vocabulary:
    """Tokens of a model.

    Attributes:
        source: The model, as the user wrote it.
        folder: Folder of the tokenizer.
        indices: Index by token.
        added: Tokens that were added to those of the tokenizer's algorithm.
        size: Number of rows of the model.
        settings: What encoding depends on besides, by dotted key; chat templates are each model's own.
    """

    source: str
    folder: Path
    indices: Mapping[str, int]
    added: Mapping[str, AddedToken]
    size: int
    settings: Mapping[str, object]


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
    settings = {key: value for key, value in properties(tokenizer).items() if key != "chat_template"}
    return Vocabulary(source, folder, tokenizer.get_vocab(), added, size, settings)


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
    """List by what two tokenizers differ that is no added token, and no token or length that a text gets besides."""
    return [*_other_words(one, base), *_other_splits(one, base)]


def _other_words(one: Vocabulary, base: Vocabulary) -> list[str]:
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


def _other_splits(one: Vocabulary, base: Vocabulary) -> list[str]:
    """Say by which settings a text has other tokens, though both have the same ones."""
    other = [line for key, line in _other_settings(one, base) if key.startswith(_SPLITS)]
    if not other:
        return []
    return [
        f"{one.source}: tokenizer: expected a text to be divided as by the base's tokenizer, found other settings: "
        f"{several(other)}. With one tokenizer this model would read other tokens than it was trained on: remove the "
        "key tokenizer, or, if they are alike in truth, copy the base's tokenizer here and add the tokens again."
    ]


def _other_settings(one: Vocabulary, other: Vocabulary) -> Iterator[tuple[str, str]]:
    """Yield each setting by which two tokenizers differ, and a phrase with both values."""
    for key in dict.fromkeys([*one.settings, *other.settings]):
        mine, theirs = one.settings.get(key), other.settings.get(key)
        if mine != theirs:
            yield key, f"{key.removeprefix(_SPECIAL)} {short(mine)} instead of {short(theirs)}"


def lost_settings(one: Vocabulary, common: Vocabulary) -> list[str]:
    """List what a model's tokenizer sets otherwise than the common one, whose settings count.

    Args:
        one: Tokens of the model.
        common: The common tokenizer.
    """
    mine, theirs = token_ways(one.added.values()), token_ways(common.added.values())
    ways = [token for token, way in mine.items() if theirs.get(token, way) != way]
    found = [line for key, line in _other_settings(common, one) if not key.startswith(_SPLITS)]
    return [*found, *([f"another way to find {several(ways)} in a text"] if ways else [])]


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
    for key, token in _shared_special(vocabularies).items():
        setattr(tokenizer, key, token)
    tokenizer.save_pretrained(folder)
    return read_vocabulary("union", folder, base.size, trusted=trusted)


def _shared_special(vocabularies: Sequence[Vocabulary]) -> dict[str, str]:
    """Return the special tokens, such as the end of a text, that all experts have alike and the base otherwise."""
    base, *experts = ({k: str(v) for k, v in one.settings.items() if k.startswith(_SPECIAL)} for one in vocabularies)
    alike = set.intersection(*(set(own.items()) for own in experts)) if experts else set[tuple[str, str]]()
    return {key.removeprefix(_SPECIAL): token for key, token in sorted(alike) if base.get(key) != token}


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
