"""Chats without a question, an answer or anything said are counted where that matters."""

import pytest

from adamerge.data.odd_turns import odd_turns
from adamerge.data.records import Listed
from adamerge.data.settings import DataSource, Encoding
from adamerge.data.tables import Table
from adamerge.types import Fact

USUAL = ["system: be calm", "user: good film", "assistant: so slow"]
LETS = "; data.pseudo_answers lets the experts answer"
CASES = {
    "usual": (USUAL, {}, []),
    "no answer": (USUAL[:2], {}, [f"end with a turn of 'user', so no answer to it counts (data.positions: all){LETS}"]),
    "a measured one": (
        USUAL[:2], {"labeled": True}, ["end with a turn of 'user', so no answer to it counts (data.positions: all)"],
    ),
    "completions": (USUAL[:2], {"positions": "completion"}, []),  # refused elsewhere
    "to be answered": (USUAL[:2], {"answer_tokens": 4}, []),
    "an old answer": (
        USUAL, {"answer_tokens": 4}, ["end with an answer, which is not read: a new one is generated "
                                      "(data.pseudo_answers)"],
    ),
    "no question": ([USUAL[0], *USUAL[2:]], {}, ["begin with a turn of 'assistant', which answers nothing"]),
    "empty": ([USUAL[1], "assistant: "], {}, ["have an empty message of 'assistant'"]),
    "only spaces": (["user:  \n", USUAL[2]], {"positions": "completion"}, ["have an empty message of 'user'"]),
    "instructions alone": (USUAL[:1], {"answer_tokens": 4}, []),
}  # fmt: skip


def said(chats, **encoding):
    how = Encoding(**encoding)
    return odd_turns(
        Table(Listed({"messages": chats}), DataSource("rows"), "mood"), chats, how, answered=bool(how.answer_tokens)
    )


@pytest.mark.parametrize("name", CASES)
def test_odd_turns_are_counted(name):
    chat, encoding, expected = CASES[name]
    odd = [dict(zip(("role", "content"), line.split(": ", 1), strict=True)) for line in chat]
    usual = [{"role": "user", "content": "good"}, {"role": "assistant", "content": "bad"}]
    notes = [note for note in said([usual, odd, odd], **encoding) if not isinstance(note, Fact)]
    facts = [note for note in said([odd, odd], **encoding) if isinstance(note, Fact)]
    lines = [f"mood: rows: 2 of {{}} chats {words}; first: row {{}}." for words in expected]
    assert notes + facts == [line.format(*((2, 1) if "generated" in line else (3, 2))) for line in lines]


@pytest.mark.parametrize(
    ("message", "empty"),
    [
        ({"content": [{"type": "text", "text": ""}]}, True),
        ({"content": []}, True),
        ({"content": [{"type": "image", "image": "a.png"}]}, False),
        ({"content": "", "tool_calls": [{"name": "f"}]}, False),
        ({"tool_calls": [{"name": "f"}]}, False),
    ],
)
def test_parts_and_calls_of_tools_say_something(message, empty):
    assert bool(said([[{"role": "user", "content": "good"}, {"role": "assistant", **message}]])) == empty
