"""The token that pads a classifier's rows, so that every row is read as if it were alone."""

from collections.abc import Callable, Sequence
from typing import cast
from weakref import WeakKeyDictionary

from torch import nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from adamerge.data.tables import Table
from adamerge.data.tokenize import input_embedding
from adamerge.experts.experts import Expert

_LENT: WeakKeyDictionary[nn.Module, set[int]] = WeakKeyDictionary()
"""Of modules whose configuration has no usable pad token: the last tokens of all rows that were encoded for them."""


def pad_token_of(
    table: Table, expert: Expert, tokenizer: PreTrainedTokenizerBase, ids: Sequence[list[int]]
) -> tuple[Callable[[], int], tuple[str, ...]]:
    """Choose the token that pads the rows of a classifier of texts.

    Decoders with a classifier read the last position whose token is not `pad_token_id` of config.json, whatever mask
    they get, and refuse batches if it is null; encoder-decoders read the position of the last end token, of which every
    row of a batch must have as many. So rows are padded with the configuration's token. If that is null or has no
    embedding, one that ends no row takes its place, in the configuration of the module too.

    Args:
        table: Names task and file in notes and errors.
        expert: The task's expert.
        tokenizer: The task's tokenizer.
        ids: Token ids of each row.

    Returns:
        A function that returns the token, which later rows of the same module may still change; and notes for the user.

    Raises:
        ConfigError: Every token ends some row, so that none can pad them.
    """
    config = _config(expert.own_module)
    if config is None:
        return lambda: cast(int, tokenizer.pad_token_id), ()
    embedding = input_embedding(expert.own_module)
    count = len(tokenizer) if embedding is None else embedding.shape[0]
    own = cast(int | None, getattr(config, "pad_token_id", None))
    end = cast(int | None, getattr(config, "eos_token_id", None)) if expert.kind.encoder_decoder else None
    if expert.own_module not in _LENT and own is not None and 0 <= own < count and own != end:
        return lambda: own, () if expert.kind.encoder_decoder else _other_note(table, tokenizer, own)
    ends = _LENT.setdefault(expert.own_module, set() if end is None else {end})
    ends |= {row[-1] for row in ids if row}
    likely = cast(list[int | None], [tokenizer.pad_token_id, tokenizer.eos_token_id, *range(count)])
    token = next((token for token in likely if token is not None and token < count and token not in ends), None)
    if token is None:
        raise table.error(
            f"config.json has pad_token_id: {own}, and each of the {count} tokens is the last of some row, so none can "
            "pad them. Add a pad token to the model and its tokenizer."
        )
    config.pad_token_id = token
    why = f"config.json has pad_token_id: {own}, so rows are padded with {_word(tokenizer, token)}"
    return lambda: cast(int, config.pad_token_id), (f"{table.task}: {why}, which ends no row.",)


def _config(module: nn.Module) -> PretrainedConfig | None:
    config = getattr(module, "config", None)
    return config.get_text_config() if isinstance(config, PretrainedConfig) else None


def _word(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """Name a token, which may be one that the tokenizer does not have."""
    return repr(tokenizer.convert_ids_to_tokens(token)) if token < len(tokenizer) else f"token {token}"


def _other_note(table: Table, tokenizer: PreTrainedTokenizerBase, own: int) -> tuple[str, ...]:
    if own == tokenizer.pad_token_id:
        return ()
    return (
        f"{table.task}: rows are padded with {_word(tokenizer, own)}, pad_token_id of config.json, at "
        f"which classifiers find the end of a row; the tokenizer's pad token is {tokenizer.pad_token!r}.",
    )
