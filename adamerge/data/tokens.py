"""Texts → token ids; counts rows that are cut, hold a special token's spelling, or are empty."""

import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

from torch import nn
from transformers import BatchEncoding, PreTrainedTokenizerBase

from adamerge.data.bounded import check_texts
from adamerge.data.tables import Table
from adamerge.data.tokenize import input_embedding
from adamerge.experts.experts import Expert


class Tokens(NamedTuple):
    """Tokenised texts.

    Attributes:
        ids: Token ids per text.
        segments: Segment ids per text, if the model uses them.
        spelled: Indices of the texts that spell a special token and are read with that token.
        notes: Messages for the user.
    """

    ids: list[list[int]]
    segments: list[list[int]] | None
    spelled: list[int]
    notes: tuple[str, ...]

    def all_notes(self, table: Table, what: str) -> tuple[str, ...]:
        """Return the notes, and one on the texts that spell a special token."""
        return (*self.notes, *spelling_note(table, what, self.spelled, len(self.ids)))


def tokens_of(
    table: Table,
    tokenizer: PreTrainedTokenizerBase,
    limit: int,
    texts: Sequence[str],
    pair: Sequence[str] | None = None,
    *,
    what: str = "texts",
    add_special_tokens: bool = True,
    target: bool = False,
) -> Tokens:
    """Tokenise texts, cut them at `limit` tokens, and count what is read otherwise than it is written.

    Args:
        table: Names task and file in notes.
        tokenizer: The task's tokenizer.
        limit: Maximum number of tokens per text.
        texts: The texts.
        pair: A second text for each.
        what: What the texts are, in notes.
        add_special_tokens: Whether the tokenizer adds its special tokens to a text.
        target: Whether the texts are the outputs of an encoder-decoder.

    Returns:
        Token ids, and one note per kind of finding, with the number of texts and the first row.

    Raises:
        ConfigError: See `check_texts`.
    """

    def encoded(chosen: Iterable[int], **more: object) -> BatchEncoding:
        one = [texts[i] for i in chosen]
        given = {"text_target": one} if target else {"text": one, "text_pair": pair and [pair[i] for i in chosen]}
        extra = {"return_special_tokens_mask": True, "add_special_tokens": add_special_tokens, "verbose": False}
        return tokenizer(**given, **extra, **more)  # pyright: ignore[reportArgumentType]

    for tried in (texts, pair or ()):
        check_texts(table, tokenizer, tried)
    whole = encoded(range(len(texts)))
    ids, masks = (cast(list[list[int]], whole[key]) for key in ("input_ids", "special_tokens_mask"))
    segments = cast(list[list[int]] | None, whole.get("token_type_ids"))
    uses_segments = "token_type_ids" in tokenizer.model_input_names and segments is not None
    spelled = _spelled(tokenizer, ids, masks)
    empty = _empty(tokenizer, ids, masks)
    notes = _note(table, what, empty, len(ids), "have no token that the tokenizer knows (empty or unknown text)")
    long = [i for i, row in enumerate(ids) if len(row) > limit]
    if long:
        cut = encoded(long, truncation=True, max_length=limit)
        for place, i in enumerate(long):
            ids[i] = cast(list[list[int]], cut["input_ids"])[place]
            if segments is not None:
                segments[i] = cast(list[list[int]], cut["token_type_ids"])[place]
        notes += cut_note(table, what, long, len(ids), limit)
    return Tokens(ids, segments if uses_segments else None, spelled, notes)


def added_end(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the special tokens that a tokenizer puts after a text; empty where it puts none."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    ids, mask = (cast(list[int], encoded[key]) for key in ("input_ids", "special_tokens_mask"))
    text = next((place for place in reversed(range(len(ids))) if not mask[place]), len(ids) - 1)
    return ids[text + 1 :]


def without_end(ids: list[int], end: Sequence[int]) -> list[int]:
    """Remove the special tokens after a text.

    Example:
        >>> without_end([5, 6, 1], [1]), without_end([5, 6], [1]), without_end([5, 6], [])
        ([5, 6], [5, 6], [5, 6])
    """
    return ids[: -len(end)] if end and ids[-len(end) :] == list(end) else ids


def cut_note(table: Table, what: str, rows: Sequence[int], total: int, limit: int) -> tuple[str, ...]:
    """Note how many texts were cut."""
    why = f"are longer than {limit} tokens and are cut there (data.max_length, or the maximum of tokenizer or model)"
    return _note(table, what, rows, total, why)


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Return the special tokens that a text can spell, by id; the unknown token stands for unknown words too."""
    added = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    named = {cast(int, tokenizer.convert_tokens_to_ids(token)): token for token in tokenizer.all_special_tokens}
    return {index: token for index, token in {**added, **named}.items() if index != tokenizer.unk_token_id}


def spelling_note(table: Table, what: str, rows: Sequence[int], total: int) -> tuple[str, ...]:
    """Note how many texts spell a special token."""
    return _note(table, what, rows, total, "contain the spelling of a special token and are read with that token")


def check_ids(table: Table, expert: Expert, tokenizer: PreTrainedTokenizerBase, ids: Iterable[Sequence[int]]) -> None:
    """Check that the model's embeddings have a row for every token, and for the one that pads a language model's rows.

    Raises:
        ConfigError: Names the first row, its token and the number of embeddings.
    """
    embedding = input_embedding(expert.own_module)
    count = None if embedding is None or embedding.ndim != 2 else embedding.shape[0]
    pad = cast(int | None, tokenizer.pad_token_id) if expert.kind.language_model else None
    if count is not None and pad is not None and pad >= count:
        raise table.error(
            f"the tokenizer pads with {tokenizer.pad_token!r}, token {pad}, but {expert.kind.architecture} has {count} "
            "embeddings. Set another pad_token in its tokenizer_config.json, for example the end-of-text token."
        )
    for number, row in enumerate(ids):
        highest = max(row, default=0)
        if count is not None and highest >= count:
            raise table.error(
                f"{table.place(number)}: the tokenizer gives the token {tokenizer.convert_ids_to_tokens(highest)!r} "
                f"the index {highest}, but {expert.kind.architecture} has {count} embeddings (the tokenizer has "
                f"{len(tokenizer)} tokens). Use the tokenizer that the expert was trained with, or resize its "
                "embeddings and those of the base."
            )


def check_segments(table: Table, expert: Expert, segments: Sequence[list[int]] | None) -> None:
    """Check that the model's embeddings of segments have a row for every segment id of a row.

    Raises:
        ConfigError: Names the first row, its segment id and the number of embeddings.
    """
    parts = expert.own_module.named_modules()
    tables = [part for name, part in parts if "token_type" in name and isinstance(part, nn.Embedding)]
    count = min((part.num_embeddings for part in tables), default=None)
    for number, row in enumerate(segments or (), 1):
        if count is not None and max(row, default=0) >= count:
            raise table.error(
                f"row {number}: the tokenizer gives a token the segment id {max(row)} (token_type_ids), but "
                f"{expert.kind.architecture} has {count} (type_vocab_size). Use the expert's own tokenizer, or remove "
                "token_type_ids from model_input_names in its tokenizer_config.json."
            )


def decoder_start(table: Table, expert: Expert) -> int | None:
    """Return the token that a decoder's rows begin with; None for models without an encoder.

    Raises:
        ConfigError: config.json names none, or one that has no embedding.
    """
    kind, embedding = expert.kind, input_embedding(expert.own_module)
    if not kind.encoder_decoder:
        return None
    start: object = kind.decoder_start
    count = sys.maxsize if embedding is None else embedding.shape[0]
    if not isinstance(start, int) or isinstance(start, bool) or not 0 <= start < count:
        raise table.error(
            f"expected decoder_start_token_id in config.json of {expert.source}, a token of {kind.architecture} that "
            f"its decoder begins with, found {start}. Set it to the token of training: of T5 the pad token, of BART "
            "the end-of-text token."
        )
    return start


def _spelled(tokenizer: PreTrainedTokenizerBase, ids: Sequence[list[int]], masks: Sequence[list[int]]) -> list[int]:
    special = set(special_tokens(tokenizer))
    rows = enumerate(zip(ids, masks, strict=True))
    return [i for i, (row, mask) in rows if any(t in special and not m for t, m in zip(row, mask, strict=True))]


def _empty(tokenizer: PreTrainedTokenizerBase, ids: Sequence[list[int]], masks: Sequence[list[int]]) -> list[int]:
    unknown = tokenizer.unk_token_id
    rows = enumerate(zip(ids, masks, strict=True))
    return [i for i, (row, mask) in rows if all(m or t == unknown for t, m in zip(row, mask, strict=True))]


def _note(table: Table, what: str, rows: Sequence[int], total: int, words: str) -> tuple[str, ...]:
    if not rows:
        return ()
    where = f"first: {table.place(rows[0])}"
    return (f"{table.task}: {table.source.path}: {len(rows)} of {total} {what} {words}; {where}.",)
