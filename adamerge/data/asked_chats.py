"""Chats whose last turn is to be answered: by the expert to learn from, or by every model to be measured."""

from collections.abc import Sequence
from typing import cast

from transformers import PreTrainedTokenizerBase

from adamerge.data.choice_rows import choice_rows, prompt_room
from adamerge.data.language_rows import Example, prompt_rows
from adamerge.data.questions import Question, Questions, question_notes, questions_of
from adamerge.data.rendered import ASSISTANT, Message, question, render, render_last_turn, texts_of
from adamerge.data.rows import Rows
from adamerge.data.settings import Encoding, EvaluationSource
from adamerge.data.tables import Table
from adamerge.data.turns import AnswerEnd, answer_end, until_the_end
from adamerge.experts.experts import Expert


def asked_chats(
    table: Table,
    expert: Expert,
    tokenizer: PreTrainedTokenizerBase,
    encoding: Encoding,
    source: EvaluationSource | None,
    chats: Sequence[Sequence[Message]],
    limit: int,
) -> tuple[Rows, tuple[str, ...]]:
    """Make rows of chats without their last answers.

    Args:
        table: The rows as they were read.
        expert: The task's expert.
        tokenizer: Has a chat template.
        encoding: Maximum number of tokens of an answer to learn from.
        source: What is measured; None if the answers are learned from.
        chats: The messages of each row.
        limit: Maximum number of tokens per row.

    Returns:
        The rows, and notes for the user.
    """
    shown = [question(table, chat, i) for i, chat in enumerate(chats, 1)]
    end, notes = answer_end(table, expert, tokenizer, shown[0])
    if source is not None and not source.generates:
        rows, more = _choices(table, expert, tokenizer, source, chats, shown, end, limit)
        return rows, (*notes, *more)
    room = prompt_room(table, expert.kind, tokenizer, encoding, source, limit)
    prompts = [render(table, tokenizer, chat, i, answer_next=True) for i, chat in enumerate(shown, 1)]
    if source is None:
        rows, dropped = prompt_rows(table, expert, tokenizer, encoding, prompts, shown, room, end)
        return rows, (*notes, *dropped)
    right = [_right(table, row, chat, shown[row]) for row, chat in enumerate(chats)]
    asked = questions_of(table, source, right)
    rows, dropped = prompt_rows(table, expert, tokenizer, encoding, prompts, asked, room, end)
    lengths = [len(cast(list[int], tokenizer(text, add_special_tokens=False)["input_ids"])) for text in right]
    return Questions(rows, source), (*notes, *dropped, *question_notes(table, source, asked, lengths))


def _right(table: Table, row: int, chat: Sequence[Message], asked: Sequence[Message]) -> str:
    """Return the text of the assistant's turn after a prompt.

    Raises:
        ConfigError: There is none, or more than one, or it is not a text; names the row.
    """
    answers = chat[len(asked) :]
    texts = texts_of(answers[0].get("content")) if len(answers) == 1 else []
    if not texts:
        without = " without a text" if len(answers) == 1 else ""
        raise table.error(
            f"{table.place(row)}: expected one message of {ASSISTANT!r} with a text at the end, the right answer, "
            f"found {len(answers)} of that role{without}. Correct or remove the row."
        )
    return "".join(texts)


def _choices(
    table: Table,
    expert: Expert,
    tokenizer: PreTrainedTokenizerBase,
    source: EvaluationSource,
    chats: Sequence[Sequence[Message]],
    shown: Sequence[Sequence[Message]],
    end: AnswerEnd,
    limit: int,
) -> tuple[Rows, tuple[str, ...]]:
    """Make a row of every choice of every chat: as the assistant's turn, with what ends the turn."""
    right = [_right(table, row, chat, shown[row]) for row, chat in enumerate(chats)]
    asked: list[Question] = questions_of(table, source, right)
    examples: list[list[Example]] = []
    for number, (one, before) in enumerate(zip(asked, shown, strict=True), 1):
        turns = [[*before, {"role": ASSISTANT, "content": choice}] for choice in one.choices]
        divided = [render_last_turn(table, tokenizer, turn, number) for turn in turns]
        examples.append([Example(prompt, until_the_end(tokenizer, turn, end)) for prompt, turn in divided])
    rows, notes = choice_rows(table, expert, tokenizer, examples, asked, limit)
    return rows, (*notes, *question_notes(table, source, asked, []))
