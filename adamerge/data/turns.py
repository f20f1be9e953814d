"""Where an answer ends: end tokens of generation and tokenizer, and of a turn as the chat template renders it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from transformers import GenerationConfig, PreTrainedTokenizerBase

from adamerge.data.tables import Table
from adamerge.data.tokenize import input_embedding
from adamerge.data.turn_end import AnswerEnd, TurnEnd, turn_end
from adamerge.experts.experts import Expert
from adamerge.experts.token_ids import check_token_ids
from adamerge.storage.regular_files import reading


def answer_end(
    table: Table, expert: Expert, tokenizer: PreTrainedTokenizerBase, chat: Sequence[Mapping[str, object]] | None = None
) -> tuple[AnswerEnd, tuple[str, ...]]:
    """Find what ends an expert's answers; where its sources disagree, each of them ends an answer, and a note says so.

    Args:
        table: Names task and file in notes.
        expert: Its generation_config.json, or else its configuration, has the tokens at which generation stops.
        tokenizer: Has an end token, and for chats a template.
        chat: The messages of any prompt, if rows are chats.

    Returns:
        What ends an answer, and notes for the user.
    """
    stops = generation_stops(expert)
    rendered = TurnEnd() if chat is None else turn_end(tokenizer, chat)
    turn = rendered.end(stops)
    own = cast(int | None, tokenizer.eos_token_id)
    found: dict[str, tuple[int, ...]] = {}
    if own is not None:
        found[f"the tokenizer's end token is {tokenizer.eos_token!r}"] = (own,)
    if chat is not None:
        found[f"the chat template ends a turn with {_words(tokenizer, turn)}"] = turn.tokens
    tokens = list(stops)
    notes = [f"{table.task}: {words}." for words in (*_nowhere(expert, stops), *_odd(tokenizer, rendered, turn))]
    for what, ends in found.items():
        more = [end for end in ends if end not in stops]
        if more and stops:
            known = ", ".join(repr(tokenizer.convert_ids_to_tokens(stop)) for stop in stops)
            notes.append(f"{table.task}: {what}, but generation stops at {known}: answers end at either.")
        tokens += [end for end in more if end not in tokens]
    if turn.text:
        notes.append(f"{table.task}: the chat template ends a turn with the text {turn.text!r}: answers end there too.")
    elif chat is not None and not turn.tokens and not rendered.lost:
        notes.append(f"{table.task}: the chat template ends a turn with nothing, so answers end at an end token alone.")
    return AnswerEnd(tuple(tokens), turn.text), tuple(notes)


def generation_stops(expert: Expert) -> tuple[int, ...]:
    """List the tokens at which the expert's own generation settings stop."""
    ends = generation_config(expert).eos_token_id
    return () if ends is None else (ends,) if isinstance(ends, int) else tuple(cast(Sequence[int], ends))


def generation_config(expert: Expert) -> GenerationConfig:
    """Read the expert's generation settings: generation_config.json, or else those of its configuration.

    An adapter without the file generates by the settings of the model that it is applied to.
    """
    over = expert.checkpoint.over if expert.checkpoint else None
    places = [*expert.folders, *filter(None, [over])]
    file = next((file for place in places if (file := place / "generation_config.json").exists()), None)
    if file is not None:
        with reading(f"{file}: expected settings of generation, but transformers cannot read it", "Copy it again."):
            settings = GenerationConfig.from_pretrained(file.parent)
        check_token_ids({key: getattr(settings, key, None) for key in _TOKENS}, str(file))
        return settings
    return GenerationConfig.from_model_config(expert.module.config)  # pyright: ignore[reportArgumentType]


_TOKENS = ("bos_token_id", "eos_token_id", "forced_bos_token_id")
"""Settings of generation that are used."""


def until_the_end(tokenizer: PreTrainedTokenizerBase, tokens: list[int], end: AnswerEnd) -> list[int]:
    """Return the tokens of an answer up to and including what ends it; the rest is padding.

    Args:
        tokenizer: Decodes the tokens, if a text ends the answer.
        tokens: The generated tokens.
        end: What ends the answer.
    """
    length = next((place + 1 for place, token in enumerate(tokens) if token in end.tokens), len(tokens))
    if end.text and end.text in str(tokenizer.decode(tokens[:length])):
        length = next(n for n in range(1, length + 1) if end.text in str(tokenizer.decode(tokens[:n])))
    return tokens[:length]


def _nowhere(expert: Expert, stops: Sequence[int]) -> Iterator[str]:
    """Say which of the tokens at which generation stops the model does not have."""
    embedding = input_embedding(expert.own_module)
    unknown = [str(stop) for stop in stops if embedding is not None and not 0 <= stop < embedding.shape[0]]
    if unknown:
        tokens = ", ".join(unknown)
        yield f"generation stops at the token {tokens} (eos_token_id), which the model lacks, so no answer ends there"


def _odd(tokenizer: PreTrainedTokenizerBase, found: TurnEnd, end: AnswerEnd) -> Iterator[str]:
    """Say where a chat template is not what rows would tell of it."""
    if found.lost:
        yield (
            "the chat template leaves out the content of answers, so where it ends a turn cannot be found, and answers "
            "end at an end token alone"
        )
    elif found.changed:
        yield "the chat template changes the contents of messages (such as their case or length) before they are read"
    if found.inner is not None and found.inner != found.last:
        yield (
            f"the chat template ends the last turn with {_words(tokenizer, found.last)}, but one that another follows "
            f"with {_words(tokenizer, found.inner)}: answers end at {_words(tokenizer, end)}"
        )


def _words(tokenizer: PreTrainedTokenizerBase, end: AnswerEnd) -> str:
    words = ", ".join(repr(tokenizer.convert_ids_to_tokens(token)) for token in end.tokens)
    return repr(end.text) if end.text else words or "nothing"
