"""A merged language model carries the files that all its experts bring, or the base's, and says which."""

import json

import pytest
import transformers
from support.families import CHATS, save_speaking_family, save_tokenizer
from transformers import AutoTokenizer

from adamerge import Expert, Merge
from adamerge.data.processor_files import exported_from, lacking, template_of
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.merging.grouping import tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors, uniform
from adamerge.results.export import export
from adamerge.runs.build_model import open_experts
from adamerge.runs.read_config import merge_config


@pytest.fixture
def family(tmp_path, monkeypatch):
    """A language model and two experts without tokenizers of their own."""
    monkeypatch.chdir(save_speaking_family(tmp_path, "LlamaForCausalLM", "llama"))
    for file in (*tmp_path.glob("mood/generation_config.json"), *tmp_path.glob("topic/generation_config.json")):
        file.unlink()
    return tmp_path


def bring(folder, template=CHATS, stops=(1, 2)):
    """Give an expert a tokenizer with a chat template, and end tokens."""
    save_tokenizer(folder, end="[SEP]")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    transformers.GenerationConfig(eos_token_id=list(stops)).save_pretrained(folder)


def opened():
    return open_experts(merge_config({"base_model": "base", "models": [{"model": "mood"}, {"model": "topic"}]}))


def test_experts_that_agree_give_their_files(family):
    bring(family / "mood")
    bring(family / "topic")
    experts = opened()
    source, (note,) = exported_from(experts)
    assert source is experts.tasks["mood"].checkpoint
    assert "of mood, topic, not the base's" in note
    model = MergedModel(experts, task_vectors(experts, inspect_weights(experts).changed), tensor_wise(experts.shared))
    export(model, uniform(model, 0.5), family / "out")
    assert AutoTokenizer.from_pretrained("out").chat_template == CHATS
    assert transformers.GenerationConfig.from_pretrained("out").eos_token_id == [1, 2]
    assert json.loads((family / "out/config.json").read_text())["model_type"] == "llama"


def test_experts_that_differ_leave_the_bases_files_and_it_is_noted(family):
    bring(family / "mood")
    bring(family / "topic", stops=(1,))
    experts = opened()
    source, (note,) = exported_from(experts)
    assert source is experts.checkpoint
    assert "of the base, because those of mood, topic differ" in note


def test_experts_without_files_leave_the_bases_silently(family):
    experts = opened()
    assert exported_from(experts) == (experts.checkpoint, ())


def test_files_of_two_tokenizers_are_not_mixed(family):
    save_tokenizer(family / "mood")
    (family / "base/added_tokens.json").write_text("{}")
    (family / "base/chat_template.jinja").write_text("base")
    assert "chat_template.jinja" in lacking(family / "mood", family / "base")
    assert "added_tokens.json" not in lacking(family / "mood", family / "base")
    assert {"added_tokens.json", "tokenizer.json"} <= lacking(family / "topic", family / "base").keys()
    config = family / "mood/tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "chat_template": "own"}))
    assert template_of(family / "mood") == "own"
    assert "chat_template.jinja" not in lacking(family / "mood", family / "base")


def test_modules_in_memory_are_encoded_with_the_processors_that_are_given(family):
    bring(family / "mood", template="{% for m in messages %}{{ m.content }} [SEP]{% endfor %}")
    bring(family / "topic")
    models = {task: transformers.AutoModelForCausalLM.from_pretrained(task) for task in ("mood", "topic")}
    tokenizers = {task: AutoTokenizer.from_pretrained(task) for task in models}
    chats = [{"messages": [{"role": "user", "content": word}]} for word in ("good film", "so bad")]
    merge = Merge(
        transformers.AutoModelForCausalLM.from_pretrained("base"),
        [Expert(model, task=task, calibration=chats) for task, model in models.items()],
        processor=tokenizers,
        method="expert_merging",
        trainer={"max_steps": 1},
        data={"held_out": 0},
    )
    opened, _, _ = merge._open()
    for task, tokenizer in tokenizers.items():
        expected = [tokenizer.apply_chat_template(c["messages"], return_dict=False) for c in chats]
        batch = opened.data.calibration[task].batch([0, 1])
        ids = [row[mask.bool()].tolist() for row, mask in zip(*batch.inputs.values(), strict=True)]
        assert ids == expected
