"""What chats hold and a template does not print is reported, and contents in parts are read as texts."""

import json

import pytest
from support.families import save_tokenizer
from transformers import AutoTokenizer

from adamerge.data.chats import read_chats
from adamerge.data.settings import DataSource
from adamerge.data.tables import load_table
from adamerge.data.unprinted import joined_parts, unprinted_notes

PLAIN = "{% for m in messages %}{{ m.role }} is {{ m.content }} [SEP] {% endfor %}"
PARTS = (
    "{% for m in messages %}{{ m.role }} is {% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %} [SEP] {% endfor %}"
)
AS_JSON = "{% for m in messages %}{{ m.content | tojson }} {% endfor %}"
TWO_ROLES = "{% for m in messages if m.role in ('user', 'assistant') %}{{ m.content }} {% endfor %}"
CUT = "{% for m in messages %}{{ m.content[:3] }} {% endfor %}"
CALLS = PLAIN + "{% for m in messages %}{{ m.tool_calls }}{% endfor %}"
ASKED = {"role": "user", "content": "good film"}
IN_PARTS = {"role": "assistant", "content": [{"type": "text", "text": "bad "}, {"type": "text", "text": "plot"}]}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def read(folder, tokenizer, template, *chats, **columns):
    """The rendered texts and the notes of chats."""
    tokenizer.chat_template = template
    file = folder / "chats.jsonl"
    file.write_text("\n".join(json.dumps({"messages": chat, **columns}) for chat in chats))
    table = load_table(DataSource(str(file), messages="messages"), "mood", 0)
    written = read_chats(table, tokenizer)
    found = joined_parts(tokenizer, written)
    notes = unprinted_notes(table, tokenizer, written, found)
    return [tokenizer.apply_chat_template(chat, tokenize=False) for chat in found], [
        note.removeprefix(f"mood: {file}: ") for note in notes
    ]


@pytest.mark.parametrize("template", [PLAIN, AS_JSON])
def test_parts_that_a_template_prints_as_they_are_written_are_joined(tmp_path, tokenizer, template):
    texts, notes = read(tmp_path, tokenizer, template, [ASKED, IN_PARTS], [ASKED, {**IN_PARTS, "content": "bad plot"}])
    assert texts[0] == texts[1]
    what = "contents in parts, which the chat template does not read: their texts are joined"
    assert notes == [f"1 of 2 chats have {what}; first: row 1 (line 1)."]


def test_parts_are_left_to_a_template_that_reads_them(tmp_path, tokenizer):
    texts, notes = read(tmp_path, tokenizer, PARTS, [ASKED, IN_PARTS])
    assert texts == ["user is good film [SEP] assistant is bad plot [SEP] "]
    assert not notes


@pytest.mark.parametrize(
    ("template", "message", "said"),
    [
        (PLAIN, {"reasoning_content": "slow"}, "2 of 3 chats have the key 'reasoning_content' in a message, which"),
        (PLAIN, {"tool_calls": [{"name": "f"}]}, "2 of 3 chats have the key 'tool_calls' in a message, which"),
        (TWO_ROLES, {"role": "tool"}, "2 of 3 chats have a message of 'tool' that the chat template does not print"),
        (
            PLAIN,
            {"role": "critic"},
            "2 of 3 chats have the role 'critic', which the chat template does not name: it is printed as it is",
        ),
        (CUT, {}, "2 of 3 chats have a message of 'assistant' that the chat template does not print"),
    ],
)
def test_what_is_not_printed_is_counted(tmp_path, tokenizer, template, message, said):
    chat = [ASKED, {"role": "assistant", "content": "dull book", **message}]
    _, notes = read(tmp_path, tokenizer, template, [ASKED], chat, chat)
    assert notes[-1].startswith(said)
    assert notes[-1].endswith("; first: row 2 (line 2).")


@pytest.mark.parametrize("role", ["critic", "tool"])
def test_roles_that_are_usual_or_that_the_template_names_are_not_said(tmp_path, tokenizer, role):
    template = PLAIN + "{% if messages[0].role == 'critic' %}so{% endif %}"
    assert not read(tmp_path, tokenizer, template, [ASKED, {"role": role, "content": "bad"}])[1]


def test_columns_that_other_programs_give_to_the_template_are_named(tmp_path, tokenizer):
    _, notes = read(tmp_path, tokenizer, PLAIN, [ASKED], tools=[{"name": "f"}])
    assert notes == ["the column 'tools' is not given to the chat template."]


@pytest.mark.parametrize(
    ("template", "message"), [(CALLS, {"tool_calls": [{"name": "f"}]}), (PLAIN, {"content": " x "})]
)
def test_nothing_is_said_of_what_is_printed(tmp_path, tokenizer, template, message):
    _, notes = read(tmp_path, tokenizer, template, [ASKED, {"role": "assistant", "content": "bad", **message}])
    assert not notes
