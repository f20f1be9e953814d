"""What other readers take from an export's configuration: rotary settings, ties, the end of a turn."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.families import build, save_tokenizer
from support.renamed import model_of

from adamerge.results.readable_config import make_readable, with_former_rope

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 4.0}


def layers(full, sliding):
    return {"full_attention": full, "sliding_attention": sliding}


PLAIN = {"rope_type": "default", "rope_theta": 2e4}
FORMER = [
    (
        "LlamaConfig",
        LLAMA3,
        {"rope_theta": 5e5, "rope_scaling": {k: v for k, v in LLAMA3.items() if k != "rope_theta"}},
    ),
    ("Qwen2Config", PLAIN, {"rope_theta": 2e4}),
    ("PhiConfig", {**PLAIN, "partial_rotary_factor": 0.5}, {"rope_theta": 2e4, "partial_rotary_factor": 0.5}),
    ("GPTNeoXConfig", {**PLAIN, "partial_rotary_factor": 0.5}, {"rotary_emb_base": 2e4, "rotary_pct": 0.5}),
    (
        "Gemma3TextConfig",
        layers({**LINEAR, "rope_theta": 1e6}, PLAIN),
        {"rope_theta": 1e6, "rope_local_base_freq": 2e4, "rope_scaling": LINEAR},
    ),
    (
        "ModernBertConfig",
        layers({**PLAIN, "rope_theta": 1e5}, PLAIN),
        {"global_rope_theta": 1e5, "local_rope_theta": 2e4},
    ),
    ("Olmo3Config", layers({**LINEAR, "rope_theta": 2e4}, PLAIN), {"rope_theta": 2e4, "rope_scaling": LINEAR}),
]


def as_read(settings):
    """The rotary settings of config.json as transformers reads it."""
    return transformers.CONFIG_MAPPING[settings["model_type"]].from_dict(json.loads(json.dumps(settings)))


def test_three_keys_are_what_phi_3_takes():
    factors = {"short_factor": [1.0] * 48, "long_factor": [2.0] * 48}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, **factors}
    settings = transformers.Phi3Config(rope_parameters=rope, original_max_position_embeddings=64).to_dict()
    found, notes = with_former_rope(settings)
    assert notes == []
    assert found["rope_scaling"] == {"type": "longrope", **factors}  # transformers 4 refuses any other key
    assert (found["original_max_position_embeddings"], found["rope_theta"]) == (64, 1e4)


def test_factors_of_longrope_do_not_depend_on_lengths():
    factors = {"short_factor": [1.0] * 64, "long_factor": [2.0] * 64}
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "factor": 2.0,
        "original_max_position_embeddings": 16,
        **factors,
    }
    settings = transformers.LlamaConfig(rope_parameters=rope, max_position_embeddings=64).to_dict()
    found, notes = with_former_rope(settings)
    assert notes == []
    assert found["original_max_position_embeddings"] == 16  # transformers 4 takes 64, the longest, without it
    config = transformers.LlamaConfig(rope_parameters=rope, max_position_embeddings=64)
    _, attention = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["longrope"](config, "cpu", seq_len=4)
    assert found["rope_scaling"]["attention_factor"] == pytest.approx(attention)  # transformers 4 would take 64/16


@pytest.mark.parametrize(("name", "rope", "former"), FORMER, ids=[name for name, *_ in FORMER])
def test_former_keys_say_what_rope_parameters_say(name, rope, former):
    settings = getattr(transformers, name)(rope_parameters=rope).to_dict()
    found, notes = with_former_rope(settings)
    assert notes == []
    assert {key: found[key] for key in former} == former
    assert found["rope_parameters"] == settings["rope_parameters"]
    assert as_read(found).rope_parameters == as_read(settings).rope_parameters
    if name == "Olmo3Config":
        return  # transformers 5 takes rope_theta for full attention alone, transformers 4 for both: tests/readers
    without = {key: value for key, value in found.items() if key != "rope_parameters"}  # all that the others read
    assert as_read(without).rope_parameters == as_read(settings).rope_parameters


@pytest.mark.parametrize(
    ("name", "rope"),
    [
        ("Olmo3Config", layers({**PLAIN, "rope_theta": 1e5}, PLAIN)),  # one former key for two bases
        ("ModernBertConfig", layers({**LINEAR, "rope_theta": 1e5}, PLAIN)),  # no former key for scaling
        ("Gemma3TextConfig", layers(PLAIN, {**LINEAR, "rope_theta": 1e4})),
        ("Gemma4TextConfig", None),
    ],
)
def test_what_has_no_former_key_is_said_and_not_half_written(name, rope):
    settings = getattr(transformers, name)(**({"rope_parameters": rope} if rope else {})).to_dict()
    found, (note,) = with_former_rope(settings)
    assert found == settings
    assert settings["model_type"] in note
    assert "transformers 4" in note


def test_settings_of_parts_are_written_too():
    settings = transformers.Gemma3Config().to_dict()
    found, notes = with_former_rope(settings)
    assert notes == []
    assert found["text_config"]["rope_local_base_freq"] == 10_000
    assert found["vision_config"] == settings["vision_config"]


def test_stale_keys_of_a_configuration_are_corrected():
    settings = {**transformers.LlamaConfig(rope_parameters=PLAIN).to_dict(), "rope_theta": 7.0}
    assert as_read(settings).rope_parameters["rope_theta"] == 2e4
    assert with_former_rope(settings)[0]["rope_theta"] == 2e4


@pytest.mark.parametrize("kind", ["bamba", "falcon_h1", "granitemoehybrid"])
def test_numbers_that_json_has_no_words_for_are_read_as_transformers_writes_them(tmp_path, kind):
    config = transformers.CONFIG_MAPPING[kind](time_step_limit=(0.0, float("inf")))
    config.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["time_step_limit"] == [0.0, {"__float__": "Infinity"}]
    settings["rope_parameters"] = {"rope_type": "default", "rope_theta": 5e5}
    found, notes = with_former_rope(settings)
    assert (found["rope_theta"], found["time_step_limit"], notes) == (5e5, settings["time_step_limit"], [])


@pytest.mark.parametrize("settings", [{"model_type": "bert"}, {"model_type": "of_its_own_code", "rope_theta": 5.0}, {}])
def test_configurations_without_rotary_settings_stay(settings):
    assert with_former_rope(settings) == (settings, [])


def test_unknown_classes_are_said():
    settings = {"model_type": "of_its_own_code", "rope_parameters": PLAIN}
    found, notes = with_former_rope(settings)
    assert found == settings
    assert "of_its_own_code" in notes[0]


def test_gpt2_has_the_number_of_positions_under_its_former_name_too(tmp_path):
    build("GPT2LMHeadModel", "gpt2", 0).save_pretrained(tmp_path)
    assert make_readable(tmp_path, "merged", generates=False) == []
    assert json.loads((tmp_path / "config.json").read_text())["n_ctx"] == 32
    assert transformers.AutoConfig.from_pretrained(tmp_path).n_positions == 32


@pytest.mark.parametrize("name", ["Qwen3MoeConfig", "Qwen3VLMoeConfig", "MellumConfig"])
def test_mixtures_have_the_number_of_experts_under_the_name_that_former_readers_need(tmp_path, name):
    config = getattr(transformers, name)()
    config.get_text_config().num_experts = 4
    config.save_pretrained(tmp_path)
    assert '"num_experts"' not in (tmp_path / "config.json").read_text()  # their readers' default is 128
    make_readable(tmp_path, "merged", generates=False)
    found = json.loads((tmp_path / "config.json").read_text())
    assert found.get("text_config", found)["num_experts"] == 4
    assert transformers.AutoConfig.from_pretrained(tmp_path).get_text_config().num_local_experts == 4


# --- ties and the end of a turn ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [True, False])
def test_a_tensor_beside_what_it_was_tied_to_is_not_tied(tmp_path, apart):
    build("LlamaForCausalLM", "llama", 0, tie_word_embeddings=True).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in tensors
    if apart:
        own = {**tensors, "lm_head.weight": torch.randn_like(tensors["model.embed_tokens.weight"])}
        save_file(own, tmp_path / "model.safetensors", {"format": "pt"})
    notes = make_readable(tmp_path, "merged", generates=False)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is not apart
    assert [note.startswith("note: merged: lm_head.weight") for note in notes] == [True] * apart
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    expected = own["lm_head.weight"] if apart else tensors["model.embed_tokens.weight"]
    assert torch.equal(model.lm_head.weight, expected)


@pytest.mark.parametrize("architecture", ["LlavaForConditionalGeneration", "Qwen2VLForConditionalGeneration"])
def test_the_text_part_of_a_configuration_is_not_tied_either(tmp_path, architecture):
    model_of(architecture).save_pretrained(tmp_path)
    tensors, file = load_file(tmp_path / "model.safetensors"), tmp_path / "config.json"
    assert any(name.endswith("lm_head.weight") for name in tensors)
    settings = json.loads(file.read_text())
    settings["text_config"]["tie_word_embeddings"] = True  # which transformers takes for the whole
    file.write_text(json.dumps(settings))
    assert transformers.AutoConfig.from_pretrained(tmp_path).tie_word_embeddings
    assert "lm_head.weight" in make_readable(tmp_path, "merged", generates=False)[-1]
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert not config.tie_word_embeddings
    assert not config.get_text_config().tie_word_embeddings


TURN = "{% for m in messages %}{{ m.content }} [SEP] {% endfor %}"


@pytest.mark.parametrize(
    ("template", "stops", "expected"),
    [
        (TURN, 0, [0, 1]),
        (TURN, [2, 1], [2, 1]),
        (TURN, None, [1]),
        (None, 0, 0),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", 0, 0),
    ],
)
@pytest.mark.parametrize("in_config", [False, True], ids=["generation_config", "config"])
def test_generation_stops_at_the_end_of_a_turn(tmp_path, template, stops, expected, in_config):
    model = build("LlamaForCausalLM", "llama", 0)
    model.config.eos_token_id = stops
    model.generation_config = transformers.GenerationConfig(eos_token_id=stops, do_sample=True, top_k=5)
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    if in_config:
        (tmp_path / "generation_config.json").unlink()
    if template:
        (tmp_path / "chat_template.jinja").write_text(template)
    notes = make_readable(tmp_path, "merged", generates=True)
    file = tmp_path / "generation_config.json"
    if expected == stops:
        assert not notes
        assert file.exists() is not in_config
        return
    assert "'[SEP]' too" in notes[0]
    found = transformers.GenerationConfig.from_pretrained(tmp_path)
    assert found.eos_token_id == expected
    assert in_config or found.top_k == 5


@pytest.mark.parametrize("template", ["{% if %}", "{{ raise_exception('tools only') }}", "{{ messages[7].content }}"])
def test_a_template_that_renders_no_chat_is_said(tmp_path, template):
    build("LlamaForCausalLM", "llama", 0).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(template)
    (note,) = make_readable(tmp_path, "merged", generates=True)
    assert note.startswith("note: merged: the chat template renders no question and answer (")


def test_a_turn_that_ends_with_a_text_is_said(tmp_path):
    build("LlamaForCausalLM", "llama", 0).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }} good bad {% endfor %}")
    (note,) = make_readable(tmp_path, "merged", generates=True)
    assert "'good bad'" in note
    assert "stop string" in note
