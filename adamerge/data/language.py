"""Rows of a language model: texts, texts and completions, or chats, and which of their positions count."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adamerge.data.chats import question, read_chats, render, render_last_turn
from adamerge.data.tables import Table
from adamerge.data.text import Prompts, TextRows
from adamerge.experts.model_kind import fills_in


@dataclass(frozen=True)
class Speech:
    """What of a language model's rows counts, and whether they are to be answered first.

    Attributes:
        positions: all, or completion: those that predict a token of the completion, or of a chat's last turn.
        answer: Tokens of the answer that each prompt is to be given at most; None takes rows as they are.
    """

    positions: Literal["all", "completion"] = "all"
    answer: int | None = None


class Told(NamedTuple):
    """One row of a language model in token ids.

    Attributes:
        prompt: What is given; all of a text that has no completion.
        completion: What follows it, or what an encoder-decoder says to it.
    """

    prompt: list[int]
    completion: list[int]


def told(
    table: Table,
    module: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    limit: int,
    speech: Speech,
    *,
    labeled: bool,
) -> tuple[TextRows, tuple[str, ...]]:
    """Rows of a language model: text, text and completion, or chat messages.

    Prompt and completion are tokenised apart and put together. An encoder-decoder's completion ends as its tokenizer
    ends a text; to a decoder's nothing is added. Of a chat, the assistant's last turn is the completion.

    Args:
        table: The rows.
        module: The language model.
        tokenizer: Of the base.
        limit: Tokens a row at most.
        speech: Which positions count.
        labeled: Whether perplexity will be measured on them.

    Returns:
        The rows that have a position that counts, and how many were left out, in words.

    Raises:
        ConfigError: A row has no text or messages, no row has a position that counts, or perplexity is to be measured
            where it means nothing.
    """
    both = cast(PreTrainedModel, module).config.is_encoder_decoder
    if labeled:
        _check_perplexity(table, module)
    last = speech.positions == "completion"
    if last and not (table.source.messages or table.source.completion):
        raise table.error(
            "expected a column of completions, as nothing else counts (data.positions: completion), but none is named. "
            "Name it (key completion), give chat messages (key messages), or let the experts answer "
            "(data.pseudo_answers)."
        )
    if table.source.messages:
        _check_chats(table, module)
        rows = _chats(table, tokenizer, limit, last)
    else:
        rows = _texts(table, tokenizer, limit, both)
    predicted = [_predicted(row, both, last, labeled) for row in rows]
    kept = [row for row, count in zip(rows, predicted, strict=True) if count > 0]
    if not kept:
        what = "perplexity cannot be measured" if labeled else "nothing can be learned from them"
        raise table.error(f"no row has a token to predict within {limit} tokens, so {what}.")
    notes = () if len(kept) == len(rows) else (_left_out(table, len(rows) - len(kept), len(rows), limit),)
    if both:
        start = _start(module)
        spoken = [[start, *row.completion] for row in kept]
        return TextRows([row.prompt for row in kept], tokenizer, everywhere=True, spoken=spoken), notes
    counted = [len(row.prompt) for row in kept] if last else None
    whole = [[*row.prompt, *row.completion] for row in kept]
    return TextRows(whole, tokenizer, everywhere=True, counted=counted), notes


def asked(
    table: Table, module: nn.Module, tokenizer: PreTrainedTokenizerBase, limit: int, speech: Speech
) -> tuple[Prompts, tuple[str, ...]]:
    """Rows that are to be answered by an expert: texts, or chats without the assistant's last turn.

    A model that goes on with its prompt is left room for the answer: longer texts are cut off at their end, longer
    chats are left out.

    Raises:
        ConfigError: The model cannot generate, a row has no text or messages, or there is no room for an answer.
    """
    assert speech.answer is not None
    config = cast(PreTrainedModel, module).config
    if fills_in(module):
        raise table.error(f"{type(module).__name__} cannot generate, so it gives no pseudo-answers.")
    room = limit if config.is_encoder_decoder else limit - speech.answer
    if room < 1:
        raise table.error(
            f"answers of {speech.answer} tokens (data.pseudo_answers.max_new_tokens) leave no room for a prompt in "
            f"rows of {limit} tokens (data.max_length)."
        )
    if table.source.messages:
        _check_chats(table, module)
        shown = [question(table, chat, i) for i, chat in enumerate(read_chats(table, tokenizer), 1)]
        prompts = [render(table, tokenizer, chat, i, answer_next=True) for i, chat in enumerate(shown, 1)]
    else:
        shown = table.texts(table.source.text)
        prompts = tokenizer(shown, truncation=True, max_length=room)["input_ids"]
    kept = [i for i, prompt in enumerate(prompts) if 0 < len(prompt) <= room]
    if not kept:
        raise table.error(f"no row has a prompt of 1 to {room} tokens, so there is nothing to answer.")
    notes = () if len(kept) == len(prompts) else (_left_out(table, len(prompts) - len(kept), len(prompts), room),)
    start = _start(module) if config.is_encoder_decoder else None
    rows = Prompts(
        [prompts[i] for i in kept],
        [shown[i] for i in kept],
        tokenizer,
        start=start,
        completion_only=speech.positions == "completion",
    )
    return rows, notes


def _texts(table: Table, tokenizer: PreTrainedTokenizerBase, limit: int, both: bool) -> list[Told]:
    prompts: list[list[int]] = tokenizer(table.texts(table.source.text), truncation=True, max_length=limit)["input_ids"]
    if not table.source.completion:
        return [Told(prompt, []) for prompt in prompts]
    texts = table.texts(table.source.completion)
    if both:
        completions = tokenizer(text_target=texts, truncation=True, max_length=limit)["input_ids"]
        return [Told(one, two if text else []) for one, two, text in zip(prompts, completions, texts, strict=True)]
    completions = tokenizer(texts, truncation=True, max_length=limit, add_special_tokens=False)["input_ids"]
    return [Told(one, two[: limit - len(one)]) for one, two in zip(prompts, completions, strict=True)]


def _chats(table: Table, tokenizer: PreTrainedTokenizerBase, limit: int, last: bool) -> list[Told]:
    rows: list[Told] = []
    for number, chat in enumerate(read_chats(table, tokenizer), 1):
        if last:
            prompt, turn = render_last_turn(table, tokenizer, chat, number)
        else:
            prompt, turn = render(table, tokenizer, chat, number), []
        rows.append(Told(prompt[:limit], turn[: max(limit - len(prompt), 0)]))
    return rows


def _predicted(row: Told, both: bool, last: bool, labeled: bool) -> int:
    """How many positions of a row count, those that predict nothing known left out where there must be a label."""
    if both:
        return len(row.completion) if labeled or last else max(len(row.completion), 1)
    if last:
        return len(row.completion) if row.prompt else len(row.completion) - 1
    return len(row.prompt) + len(row.completion) - int(labeled)


def _left_out(table: Table, count: int, total: int, limit: int) -> str:
    return (
        f"{table.task}: {table.source.path}: {count} of {total} rows are left out: no position of theirs counts within "
        f"{limit} tokens (see data.max_length and data.positions)."
    )


def _start(module: nn.Module) -> int:
    return cast(PreTrainedModel, module).config.decoder_start_token_id


def _check_chats(table: Table, module: nn.Module) -> None:
    if cast(PreTrainedModel, module).config.is_encoder_decoder:
        raise table.error(
            f"chat messages (key messages) are for models that go on with them, but {type(module).__name__} has an "
            "encoder for what was asked: give it a column text and a column completion."
        )


def _check_perplexity(table: Table, module: nn.Module) -> None:
    """Refuse to measure perplexity where it means nothing."""
    kind = type(module).__name__
    if fills_in(module):
        raise table.error(
            f"{kind} fills in words that it sees both sides of; the perplexity of the next word, which is what is "
            "measured of language models, means nothing for it. Leave out this task's evaluation."
        )
    if cast(PreTrainedModel, module).config.is_encoder_decoder and not table.source.completion:
        raise table.error(
            f"expected a column of what {kind} is to say (key completion of the evaluation), as perplexity is measured "
            "on it, but none is named."
        )
