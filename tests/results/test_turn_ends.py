"""Generation stops where the chat templates of an export end a turn, and keeps what config.json says of it."""

from pathlib import Path

import pytest
import transformers
from support.families import CONFIGS, build, save_tokenizer

from adamerge import Merge
from adamerge.results.readable_config import make_readable

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # random experts are far from their base

TASKS = ("mood", "topic")
TURN = "{% for m in messages %}{{ m.content }} [SEP] {% endfor %}"
STARTS = TURN.replace("{{ m.content", "[PAD]{{ m.content")


@pytest.mark.parametrize(
    ("default", "named", "added"),
    [
        (TURN, "[PAD]", ["[SEP]", "[PAD]"]),
        (TURN, "[SEP]", ["[SEP]"]),
        (None, "[PAD]", ["[PAD]"]),
        (STARTS, "[PAD]", ["[SEP]"]),
        (TURN, " good bad", ["[SEP]"]),
    ],
)
def test_generation_stops_at_the_ends_of_named_templates_unless_others_have_them_inside(
    tmp_path, default, named, added
):
    build("LlamaForCausalLM", "llama", 0).config.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 0}')
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates/tool.jinja").write_text(TURN.replace("[SEP]", named))
    if default:
        (tmp_path / "chat_template.jinja").write_text(default)
    notes = "\n".join(make_readable(tmp_path, "merged", generates=True))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    chat = [{"role": "user", "content": "good"}, {"role": "assistant", "content": "bad"}]
    ends = {
        name: tokenizer.apply_chat_template(chat, chat_template=name, return_dict=False)[-1]
        for name in (["default"] if default else []) + ["tool"]
    }
    stops = transformers.GenerationConfig.from_pretrained(tmp_path).eos_token_id
    assert stops == [0, *map(tokenizer.convert_tokens_to_ids, added)]
    assert {name for name, end in ends.items() if end in stops} == {
        name for name in ends if name == "default" or named in added
    }
    said = "the chat template 'tool' ends a turn with"
    assert (f"{said} the text 'good bad'" in notes) is (named == " good bad")
    assert (f"{said} '[PAD]', at which generation does not stop" in notes) is (default == STARTS)


@pytest.mark.parametrize("family", ["bart", "text part"])
def test_settings_made_of_config_json_stay_where_an_end_is_added(tmp_path, family):
    part = {"vocab_size": 40, "eos_token_id": 3, "pad_token_id": 0, "bos_token_id": 2}
    more = {"decoder_start_token_id": 4, "forced_eos_token_id": 3, "eos_token_id": 3}
    config = CONFIGS["bart"](**more) if family == "bart" else transformers.Gemma3Config(text_config=part)
    config.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(TURN)
    make_readable(tmp_path, "merged", generates=True)
    found = transformers.GenerationConfig.from_pretrained(tmp_path)
    before = transformers.GenerationConfig.from_model_config(transformers.AutoConfig.from_pretrained(tmp_path))
    assert before.eos_token_id == 3
    assert found.eos_token_id == [3, 1]
    keys = ("bos_token_id", "pad_token_id", "decoder_start_token_id", "forced_eos_token_id")
    assert [getattr(found, key) for key in keys] == [getattr(before, key) for key in keys]


def test_other_tokens_of_a_config_count_where_nobody_has_generation_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, (name, end) in enumerate({"base": 1, **dict.fromkeys(TASKS, 7)}.items()):
        model = build("BartForConditionalGeneration", "bart", seed, eos_token_id=end, decoder_start_token_id=4)
        model.save_pretrained(name)
        (Path(name) / "generation_config.json").unlink()
    done = Merge("base", list(TASKS), method="task_arithmetic").learn().export("out")
    found = transformers.AutoModelForSeq2SeqLM.from_pretrained(done.folder).generation_config
    assert (found.eos_token_id, found.decoder_start_token_id) == (7, 4)
