"""An answer ends where the chat template, the tokenizer or the generation settings end it."""

import json
import re

import datasets
import pytest
import torch
import transformers
from support.families import build, save_tokenizer
from transformers import AutoTokenizer

from adamerge.data.records import Arrow, Listed
from adamerge.data.settings import DataSource
from adamerge.data.tables import Table
from adamerge.data.turn_end import turn_end
from adamerge.data.turns import AnswerEnd, answer_end, generation_config, until_the_end
from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.experts import Expert
from adamerge.storage.weights import InMemory
from adamerge.types import ConfigError

CHAT = [{"role": "user", "content": "good film"}]
START = "{% for m in messages %}[CLS] {{ m.content }}"
STOP = "{% endfor %}{% if add_generation_prompt %}[CLS]{% endif %}"
TEMPLATES = {
    "a special token": (START + " [SEP]\n" + STOP, AnswerEnd((1,)), "good film [SEP] so good", "good film [SEP]"),
    "another one": (START + "[PAD]" + STOP, AnswerEnd((2,)), "good film [PAD] so good", "good film [PAD]"),
    "two": (START + "[PAD] [SEP]" + STOP, AnswerEnd((2,)), "good [PAD] [SEP] so", "good [PAD]"),
    "a word": (START + " old " + STOP, AnswerEnd((), "old"), "good film old so old", "good film old"),
    "nothing": (START + "\n" + STOP, AnswerEnd(), "good film so good", "good film so good"),
}


@pytest.fixture
def tokenizer(tmp_path):
    save_tokenizer(tmp_path)
    return AutoTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", TEMPLATES)
def test_end_of_a_turn_is_read_from_the_rendered_template(tokenizer, name):
    tokenizer.chat_template, expected, generated, kept = TEMPLATES[name]
    assert turn_end(tokenizer, CHAT).end() == expected
    tokens = tokenizer(generated, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(until_the_end(tokenizer, tokens, expected)) == kept


def answer_notes(tokenizer):
    """Notes about what ends the answers of an expert without end tokens of its own."""
    config = transformers.GenerationConfig(eos_token_id=None)
    expert = Expert("mood", torch.nn.Module(), InMemory({}), ())
    table = Table(Listed({"text": ["good"]}), DataSource("rows"), "mood")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adamerge.data.turns.generation_config", lambda _: config)
        return answer_end(table, expert, tokenizer, CHAT)[1]


def found(tokenizer, tmp_path, stops, chat=CHAT):
    """What ends the answers of an expert whose generation stops at these tokens, and the notes about it."""
    table = Table(Arrow(datasets.Dataset.from_dict({"text": ["good"]})), DataSource("rows"), "mood")
    module = build("LlamaForCausalLM", "llama", 0)
    module.config.eos_token_id = stops
    module.generation_config = transformers.GenerationConfig(eos_token_id=stops)
    return answer_end(table, Expert("mood", module, InMemory({}), ()), tokenizer, chat)


def test_each_source_ends_answers_and_disagreement_is_noted(tokenizer, tmp_path):
    tokenizer.chat_template = TEMPLATES["a special token"][0]
    assert found(tokenizer, tmp_path, 1) == (AnswerEnd((1,)), ())
    end, (note,) = found(tokenizer, tmp_path, [7, 2])
    assert end == AnswerEnd((7, 2, 1))
    word = tokenizer.convert_ids_to_tokens(7)
    assert note == (
        f"mood: the chat template ends a turn with '[SEP]', but generation stops at {word!r}, '[PAD]': answers end at "
        "either."
    )
    _, (note,) = found(tokenizer, tmp_path, [1, 400, -1])
    assert note.startswith("mood: generation stops at the token 400, -1 (eos_token_id), which the model lacks")
    tokenizer.eos_token = "[CLS]"
    end, notes = found(tokenizer, tmp_path, 1, None)
    assert end == AnswerEnd((1, 0))
    assert notes == (
        "mood: the tokenizer's end token is '[CLS]', but generation stops at '[SEP]': answers end at either.",
    )


@pytest.mark.parametrize("value", ["abc", ["a"], 0.5, True, 2**70, {"a": 1}])
@pytest.mark.parametrize("key", ["eos_token_id", "bos_token_id", "forced_bos_token_id"])
def test_special_tokens_that_are_no_indices_are_refused_by_file_and_key(tmp_path, key, value):
    module = build("LlamaForCausalLM", "llama", 0)
    module.save_pretrained(tmp_path)
    file = tmp_path / "generation_config.json"
    file.write_text(json.dumps({key: value}))
    checkpoint = open_checkpoint(str(tmp_path))
    with pytest.raises(ConfigError, match=rf"{re.escape(str(file))}: .*"):
        generation_config(Expert("mood", module, InMemory({}), (), checkpoint=checkpoint))


@pytest.mark.parametrize("value", [None, 1, [1, 2], -1])
def test_special_tokens_that_are_indices_are_read_as_transformers_reads_them(tmp_path, value):
    module = build("LlamaForCausalLM", "llama", 0)
    module.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    expert = Expert("mood", module, InMemory({}), (), checkpoint=open_checkpoint(str(tmp_path)))
    assert generation_config(expert) == transformers.GenerationConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(("name", "words"), [("a word", "with the text 'old'"), ("nothing", "with nothing")])
def test_templates_without_a_special_token_are_noted(tokenizer, tmp_path, name, words):
    tokenizer.chat_template = TEMPLATES[name][0]
    _, notes = found(tokenizer, tmp_path, 1)
    assert any(words in note for note in notes)


LAST_OPEN = (
    "{% for m in messages %}[CLS]{{ m.role + ' ' + m.content }}{% if (loop.last and add_generation_prompt) or not "
    "loop.last %}[SEP]\n{% endif %}{% endfor %}{% if add_generation_prompt %}[CLS]assistant {% endif %}"
)
BOTH = "the chat template ends the last turn with {}, but one that another follows with {}: answers end at {}"
UNUSUAL = {
    "no end after the last turn": (LAST_OPEN, AnswerEnd((1,)), BOTH.format("nothing", "'[SEP]'", "'[SEP]'")),
    "an end between turns alone": (
        "{% for m in messages %}{{ m.content }}{% if not loop.last %}[SEP]{% endif %}{% endfor %}",
        AnswerEnd((1,)),
        BOTH.format("nothing", "'[SEP]'", "'[SEP]'"),
    ),
    "an end after the last turn alone": (
        START + "{% if loop.last %}[SEP]{% endif %}" + STOP,
        AnswerEnd((1,)),
        BOTH.format("'[SEP]'", "nothing", "'[SEP]'"),
    ),
    "another end after the last turn": (
        START + "{% if loop.last %}[PAD]{% else %}[SEP]{% endif %}" + STOP,
        AnswerEnd((1,)),
        BOTH.format("'[PAD]'", "'[SEP]'", "'[SEP]'"),
    ),
    "headers without special tokens": (
        "Instructions.\n\n{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n\n{% endfor %}",
        AnswerEnd(),
        "the chat template ends a turn with nothing",
    ),
    "upper case": (
        "{% for m in messages %}{{ m.content | upper }}[SEP]{% endfor %}",
        AnswerEnd((1,)),
        "the chat template changes the contents of messages",
    ),
    "first letters": (
        "{% for m in messages %}{{ m.content[:4] }}[SEP]{% endfor %}",
        AnswerEnd((1,)),
        "the chat template changes the contents of messages",
    ),
    "no answers": (
        "{% for m in messages if m.role != 'assistant' %}{{ m.content }}[SEP]{% endfor %}",
        AnswerEnd(),
        "the chat template leaves out the content of answers",
    ),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_templates_are_read_where_another_turn_follows_and_noted(tokenizer, tmp_path, name):
    tokenizer.chat_template, expected, words = UNUSUAL[name]
    assert turn_end(tokenizer, CHAT).end() == expected
    tokenizer.eos_token = "[PAD]"
    notes = answer_notes(tokenizer)
    assert notes[0].startswith(f"mood: {words}")
    assert expected == AnswerEnd() or not any("ends a turn with nothing" in note for note in notes)


def test_an_end_within_answers_ends_none_where_generation_stops_after_the_last(tokenizer, tmp_path):
    tokenizer.chat_template = UNUSUAL["another end after the last turn"][0]  # [PAD], and [SEP] between turns
    assert found(tokenizer, tmp_path, [2, 7])[0].tokens[:2] == (2, 7)
    assert turn_end(tokenizer, CHAT).end([2, 7]) == AnswerEnd((2,))
    assert turn_end(tokenizer, CHAT).end([7]) == AnswerEnd((1,))


def test_an_added_token_that_is_not_special_ends_a_turn_and_white_space_does_not(tokenizer):
    tokenizer.add_tokens(["<|e|>", " \n"])
    tokenizer.chat_template = START + " \n<|e|>" + STOP
    assert turn_end(tokenizer, CHAT).end() == AnswerEnd((tokenizer.convert_tokens_to_ids("<|e|>"),))
