"""End tokens in the rows of encoder-decoder classifiers, which need as many in every row."""

from collections import Counter
from collections.abc import Sequence
from typing import cast

from transformers import PreTrainedTokenizerBase

from adamerge.data.tables import Table
from adamerge.data.tokens import Tokens
from adamerge.experts.experts import Expert


def with_equal_ends(
    table: Table,
    expert: Expert,
    tokenizer: PreTrainedTokenizerBase,
    tokens: Tokens,
    limit: int,
    texts: Sequence[str],
    pair: Sequence[str] | None,
) -> Tokens:
    """Encode the special tokens that a text spells as plain text, in rows with more end tokens than others.

    These classifiers read the state at the last end token, and reject batches whose rows do not have equally many.

    Args:
        table: Names task and file.
        expert: The task's expert; its configuration names the end token.
        tokenizer: The task's tokenizer.
        tokens: The texts as they were tokenised.
        limit: Maximum number of tokens per row.
        texts: The texts.
        pair: A second text for each.

    Returns:
        Token ids with equally many end tokens, and a note of the rows that were encoded anew.

    Raises:
        ConfigError: A row has another number of end tokens than most, or none has any; names the row.
    """
    config = getattr(expert.own_module, "config", None)
    end = cast(int | None, getattr(config, "eos_token_id", None))
    if end is None or expert.kind.language_model:
        return tokens
    usual = Counter(row.count(end) for row in tokens.ids).most_common(1)[0][0]
    odd = [i for i, row in enumerate(tokens.ids) if row.count(end) != usual]
    ids = list(tokens.ids)
    if odd:
        plain = tokenizer(
            [texts[i] for i in odd],
            None if pair is None else [pair[i] for i in odd],
            truncation=True,
            max_length=limit,
            split_special_tokens=True,
        )
        for i, row in zip(odd, cast(list[list[int]], plain["input_ids"]), strict=True):
            ids[i] = row
    word = tokenizer.convert_ids_to_tokens(end)
    wrong = [i for i, row in enumerate(ids) if row.count(end) != usual]
    if wrong or not usual:
        number = wrong[0] if wrong else 0
        raise table.error(
            f"{table.place(number)}: {expert.kind.architecture} reads the state at the end token {word!r}, of which "
            f"every row must have equally many; expected {max(usual, 1)}, found {ids[number].count(end)}. Use a "
            "tokenizer that ends each text with it, or correct or remove the row."
        )
    if not odd:
        return tokens
    note = (
        f"{table.task}: {table.source.path}: {len(odd)} of {len(ids)} texts contain the end token {word!r}, which "
        f"{expert.kind.architecture} cannot read twice: their special tokens are read as plain text; first: "
        f"{table.place(odd[0])}."
    )
    spelled = [i for i in tokens.spelled if i not in set(odd)]
    return Tokens(ids, tokens.segments, spelled, (*tokens.notes, note))
