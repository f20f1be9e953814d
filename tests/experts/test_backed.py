"""Sizes in config.json that no file backs are refused before anything of that size is built."""

import json
import shutil

import pytest
from peft import LoraConfig, get_peft_model
from sentence_transformers import SentenceTransformer
from support.families import build, configuration
from support.mistakes import edit_json, edit_tensors
from support.stand_ins import nothing

from adamerge.experts.adapter import open_adapter
from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.own_class import own_module
from adamerge.runs.build_model import open_experts
from adamerge.runs.read_config import merge_config
from adamerge.types import ConfigError, IncompatibleExpertsError


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_hidden_layers": 129}, "tensors, found num_hidden_layers: 129"),
        ({"num_hidden_layers": 10_001}, "num_hidden_layers: expected at most 10000, found 10001"),
        ({"num_labels": 10**6 + 1}, "num_labels: expected at most 1000000"),
        ({"max_position_embeddings": 2**16 + 1, "vocab_size": 2**16 + 1}, "vocab_size, max_position_embeddings: desc"),
        ({"hidden_act": "nothing"}, "transformers cannot build one from it"),
        ({"architectures": [3]}, "architecture"),
        ({"architectures": ["BertTokenizer"]}, "does not have"),
        ({"id2label": [1]}, "config.json"),
        ({"transformers_weights": 3}, "transformers_weights: expected the name of a file, found 3"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be_built_names_its_file(family, changes, words):
    edit_json(family / "mood/config.json", **changes)
    with pytest.raises((ConfigError, IncompatibleExpertsError), match=r"mood/config\.json|config\.json") as refused:
        own_module(open_checkpoint("mood"))
    assert words in str(refused.value)


def test_more_parameters_than_any_model_has_are_refused_while_they_are_made(family, monkeypatch):
    """A count may have any name, such as Funnel's block_sizes, or Albert's inner_group_num."""
    monkeypatch.setattr("adamerge.experts.skeleton.MOST_PARAMETERS", 5)
    with pytest.raises(IncompatibleExpertsError, match=r"mood/config\.json: expected a model of at most 5 param"):
        own_module(open_checkpoint("mood"))


@pytest.mark.parametrize(
    ("key", "value"), [("block_sizes", [1, 10_001]), ("attention_types", [[["global"], 10_001]])]
)  # fmt: skip
def test_counts_that_transformers_lists_while_it_reads_are_refused_before(family, key, value):
    edit_json(family / "mood/config.json", **{key: value})
    with pytest.raises(ConfigError, match=rf"mood/config\.json: {key}: expected at most 10000, found 10001"):
        open_checkpoint("mood")


def test_a_base_of_fewer_layers_than_its_files_have_is_refused(family):
    """As an expert is; its merge would be loaded by this configuration."""
    edit_json(family / "base/config.json", num_hidden_layers=0)
    with pytest.raises(
        IncompatibleExpertsError, match=r"base/config\.json: describes a Bert.* without bert\.enc"
    ) as found:
        open_experts(merge_config(configuration()))
    assert "num_hidden_layers is 1 in the expert's config.json and 0 in the base's" in str(found.value)
    assert len(str(found.value).splitlines()) == 1


def test_a_base_of_adapters_is_refused_before_it_is_built(tmp_path, monkeypatch):
    base = build("LlamaForCausalLM", "llama", 0)
    base.save_pretrained(tmp_path / "base")
    get_peft_model(base, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    edit_json(tmp_path / "base/config.json", num_key_value_heads=2**16 + 1)
    monkeypatch.setattr("adamerge.experts.adapter.skeleton", nothing)
    with pytest.raises(IncompatibleExpertsError, match=r"base/config\.json: num_key_value_heads: describes a Llama"):
        open_adapter("adapter", tmp_path / "adapter", open_checkpoint(str(tmp_path / "base")))


@pytest.mark.parametrize(
    "inside", ["checkpoint-500", "0_Transformer", "best_model", "snapshots/0a1b2c", "outputs/epoch_3"]
)
def test_the_folder_inside_is_named(family, inside):
    (family / "outer" / inside).parent.mkdir(parents=True)
    shutil.move(family / "mood", family / "outer" / inside)
    with pytest.raises(ConfigError, match=f"It has outer/{inside}: give that folder"):
        open_checkpoint("outer")


def test_the_transformer_inside_an_old_sentence_encoder_is_named_and_what_keeps_its_modules(family):
    """Until sentence-transformers 2 the transformer had a folder of its own; today's `save` puts it beside modules."""
    (family / "outer").mkdir()
    shutil.move(family / "base", family / "outer/0_Transformer")
    (family / "outer/1_Pooling").mkdir()
    (family / "outer/1_Pooling/config.json").write_text('{"word_embedding_dimension": 16}')
    kinds = {"0_Transformer": "Transformer", "1_Pooling": "Pooling"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (family / "outer/modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigError) as refused:
        open_checkpoint("outer")
    assert "It has outer/0_Transformer: give that folder; pooling and other modules" in str(refused.value)
    assert "SentenceTransformer('outer').save(" in str(refused.value)
    SentenceTransformer("outer", device="cpu").save("new")
    assert open_checkpoint("new").tensors.headers
    assert (family / "new/1_Pooling").is_dir()


@pytest.mark.parametrize(
    ("beside", "words"),
    [
        ("zero_to_fp32.py", "python mood/zero_to_fp32.py"),
        ("global_step12/x.pt", "python -m deepspeed.utils.zero_to_fp32 mood mood "),
        (
            "mp_rank_00_model_states.pt",
            "of DeepSpeed; convert it: python -m deepspeed.utils.zero_to_fp32 .*family mood ",
        ),
        ("bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "of DeepSpeed"),
        ("shards/__0_0.distcp", "accelerate merge-weights mood/shards"),
        (
            "checkpoint-5/pytorch_model_fsdp_0/__0_0.distcp",
            "accelerate merge-weights mood/checkpoint-5/pytorch_model_fs",
        ),
        ("iter_0000500/mp_rank_00/model_optim_rng.pt", "of Megatron"),
    ],
)
@pytest.mark.parametrize("configured", [True, False])
def test_the_command_that_converts_is_named(family, beside, words, configured):
    (family / "mood/model.safetensors").unlink()
    if not configured:
        (family / "mood/config.json").unlink()
    (family / "mood" / beside).parent.mkdir(exist_ok=True, parents=True)
    (family / "mood" / beside).touch()
    with pytest.raises(ConfigError, match=words) as refused:
        open_checkpoint("mood")
    copied = "Copy config.json of its base there too." in str(refused.value)
    assert copied is (not configured and "Megatron" not in words)


def test_tensors_that_deepspeed_left_empty_are_one_line(family):
    def emptied(tensors):
        tensors.update({name: tensor[:0].clone() for name, tensor in tensors.items() if "encoder" in name})

    edit_tensors(family / "mood/model.safetensors", emptied)
    with pytest.raises(IncompatibleExpertsError) as refused:
        open_experts(merge_config(configuration()))
    assert len(str(refused.value).splitlines()) == 1
    assert "zero_to_fp32.py" in str(refused.value)


@pytest.mark.parametrize("states", ["zero_to_fp32.py", "pytorch_model_fsdp_0/__0_0.distcp"])
def test_what_a_sharded_checkpoint_left_of_a_file_is_refused_with_the_command_that_converts_it(family, states):
    edit_tensors(family / "mood/model.safetensors", lambda tensors: [tensors.pop(name) for name in [*tensors][1:]])
    (family / "mood" / states).parent.mkdir(exist_ok=True)
    (family / "mood" / states).touch()
    with pytest.raises(IncompatibleExpertsError, match=r"convert it: (python .*zero_to_fp32|accelerate merge-weights)"):
        open_experts(merge_config(configuration()))
