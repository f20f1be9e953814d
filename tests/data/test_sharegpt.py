"""Rows in the words of ShareGPT are the same rows as in those of chat templates, and that is said."""

import json

import pytest

from adamerge.data.chats import read_chats
from adamerge.data.settings import DataSource
from adamerge.data.sharegpt import messages_column, sharegpt_note
from adamerge.data.tables import load_table
from adamerge.types import ConfigError

CHAT = [{"role": "system", "content": "short"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
SHARED = [{"from": "system", "value": "short"}, {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]


class Template:
    """As much of a tokenizer as reading needs."""

    chat_template = "{{ messages }}"


def rows(file, column, *chats):
    file.write_text("\n".join(json.dumps({column: chat}) for chat in chats))
    table = load_table(DataSource(str(file), messages=column), "news", 0)
    return table, read_chats(table, Template())


def test_both_words_are_the_same_rows(tmp_path):
    plain, expected = rows(tmp_path / "a.jsonl", "messages", CHAT)
    shared, found = rows(tmp_path / "b.jsonl", "conversations", SHARED)
    assert found == expected
    assert sharegpt_note(plain, "messages") == ()
    assert "1 rows of 'conversations' are read as messages" in sharegpt_note(shared, "conversations")[0]


def test_the_column_is_found(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"conversations": SHARED}))
    assert messages_column(load_table(DataSource(str(tmp_path / "a.jsonl")), "news", 0)) == "conversations"


def test_a_speaker_of_another_name_is_refused_with_its_row(tmp_path):
    with pytest.raises(ConfigError, match=r"row 2 \(line 2\): message 1 of 'conversations' has no role"):
        rows(tmp_path / "a.jsonl", "conversations", SHARED, [{"from": "narrator", "value": "a"}])
