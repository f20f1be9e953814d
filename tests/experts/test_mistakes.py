"""Checkpoints that are not what they should be are refused, by what their headers or their numbers tell."""

import json
import os
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.families import TASKS, build, configuration, listing, third_expert
from support.mistakes import assert_answers, edit_json, edit_tensors, pickle_weights, table, wrap_by_peft

from adamerge.experts.inspect_weights import inspect_weights
from adamerge.runs.build_model import open_experts
from adamerge.runs.read_config import merge_config
from adamerge.types import ConfigError, IncompatibleExpertsError

HEADERS, of_headers = table()
NUMBERS, of_numbers = table()


# --- what names, configurations and headers tell ---------------------------------------------------------------------


@of_headers("nowhere", "no folder of this name")
def model_directory_is_missing(folder, config):
    config["models"][0]["model"] = "nowhere"


@of_headers("a/b/c", "there is no such folder")
def base_directory_is_missing(folder, config):
    config["base_model"] = "a/b/c"


@of_headers("mood: expected the folder of a Hugging Face checkpoint", "config.json")
def no_configuration_beside_the_weights(folder, config):
    (folder / "mood/config.json").unlink()


@of_headers("mood/config.json", "cannot be read")
def broken_configuration_beside_the_weights(folder, config):
    (folder / "mood/config.json").write_text("{")


@of_headers("mood: expected model.safetensors")
def no_weights(folder, config):
    (folder / "mood/model.safetensors").unlink()


@of_headers("mood/model.safetensors", "complete safetensors file", "copy or download it again")
def truncated_weights(folder, config):
    os.truncate(folder / "mood/model.safetensors", (folder / "mood/model.safetensors").stat().st_size - 100)


@of_headers("topic/model.safetensors", "complete safetensors file")
def corrupt_header(folder, config):
    with (folder / "topic/model.safetensors").open("r+b") as file:
        file.seek(20)
        file.write(b"\xff\xfe{{{")


@of_headers("topic/model.safetensors", "complete safetensors file")
def empty_weights(folder, config):
    (folder / "topic/model.safetensors").write_bytes(b"")


@of_headers("the expert is a llama, but the base (base) is a bert")
def another_architecture(folder, config):
    shutil.rmtree(folder / "mood")
    build("LlamaForSequenceClassification", "llama", 1).save_pretrained(folder / "mood")


@of_headers("BertForNothing", "does not have")
def unknown_architecture(folder, config):
    edit_json(folder / "mood/config.json", architectures=["BertForNothing"])


@of_headers("mood: bert.encoder.layer.0.output.dense.weight has the shape (16, 40)", "(16, 32)")
def another_shape(folder, config):
    config_of = {"num_labels": 2, "intermediate_size": 40}
    model = transformers.BertForSequenceClassification(
        transformers.BertConfig(**{**json.loads((folder / "base/config.json").read_text()), **config_of})
    )
    model.save_pretrained(folder / "mood")


@of_headers("bert.pooler.dense.bias has the shape (7,) in the file but (16,) by mood/config.json")
def another_shape_than_the_configuration_says(folder, config):
    edit_tensors(
        folder / "mood/model.safetensors",
        lambda t: t.update({"bert.pooler.dense.bias": t["bert.pooler.dense.bias"][:7].clone()}),
    )


@of_headers("mood: the file has no tensor for bert.pooler.dense.bias")
def missing_tensor(folder, config):
    edit_tensors(folder / "mood/model.safetensors", lambda t: t.pop("bert.pooler.dense.bias"))


@of_headers("no place for the tensor adapter.weight", "Name the class that saved the file in config.json")
def tensor_too_many(folder, config):
    edit_tensors(folder / "mood/model.safetensors", lambda t: t.update({"adapter.weight": torch.zeros(2)}))


@of_headers("vocabularies differ: vocab_size is 44 here and 40 in the base (base)")
def another_vocabulary(folder, config):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "mood")
    model.resize_token_embeddings(44)
    model.save_pretrained(folder / "mood")


@of_headers("mood/pytorch_model.bin", "pickled", "allow_pickle: true")
def pickle_without_permission(folder, config):
    pickle_weights(folder / "mood")


@of_headers("mood/pytorch_model.bin", "cannot read it")
def pickle_that_runs_code(folder, config):
    torch.save({"a": Runs()}, folder / "mood/pytorch_model.bin")
    (folder / "mood/model.safetensors").unlink()
    config["allow_pickle"] = True


class Runs:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("pwned",)


@of_headers("mood: expected floating-point weights", "quantised", "bert.pooler.dense.weight are torch.int32")
def quantised_configuration(folder, config):
    edit_json(folder / "mood/config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    edit_tensors(
        folder / "mood/model.safetensors",
        lambda t: t.update({"bert.pooler.dense.weight": t["bert.pooler.dense.weight"].to(torch.int32)}),
    )


@of_headers("mood: expected the tensors of a BertForSequenceClassification", "PEFT wrapped", "merge_and_unload")
def wrapped_by_peft(folder, config):
    wrap_by_peft(folder / "mood")


@of_headers("base: expected the tensors of a BertModel", "PEFT wrapped", "merge_and_unload")
def base_wrapped_by_peft(folder, config):
    wrap_by_peft(folder / "base")


@of_headers("mood: the file has no tensor for", "and 13 more of BertForSequenceClassification", "bert.cncoder.layer.0.")
def many_misnamed_tensors(folder, config):
    def misname(tensors):
        for name in [name for name in tensors if ".encoder." in name]:
            tensors[name.replace("encoder", "cncoder")] = tensors.pop(name)

    edit_tensors(folder / "mood/model.safetensors", misname)


@of_headers("base: the base lacks", "more, which is inside the backbone")
def base_without_its_layers(folder, config):
    def cut(tensors):
        for name in [name for name in tensors if "encoder." in name]:
            del tensors[name]

    edit_tensors(folder / "base/model.safetensors", cut)


@of_headers("mood: expected one checkpoint", "adapter_config.json) is beside config.json")
def adapter_beside_a_checkpoint(folder, config):
    (folder / "mood/adapter_config.json").write_text("{}")


@of_headers("mood: bert.embeddings.word_embeddings.weight, ", " more are quantised (torch.int8)")
def quantised_tensors(folder, config):
    edit_tensors(
        folder / "mood/model.safetensors",
        lambda t: t.update({n: v.to(torch.int8) for n, v in t.items() if v.ndim > 1}),
    )


@of_headers("mood: bert.pooler.dense.weight is quantised (torch.int8)")
def quantised_tensor(folder, config):
    edit_tensors(
        folder / "mood/model.safetensors",
        lambda t: t.update({"bert.pooler.dense.weight": t["bert.pooler.dense.weight"].to(torch.int8)}),
    )


@of_headers(
    "mood/adapter_config.json: expected a LoRA adapter (peft_type LORA), found no peft_type", "merge_and_unload"
)
def adapter(folder, config):
    (folder / "mood/config.json").rename(folder / "mood/adapter_config.json")


@of_headers("model-00002-of-00002.safetensors: missing", "model.safetensors.index.json lists it")
def missing_shard(folder, config):
    tensors = load_file(folder / "mood/model.safetensors")
    (folder / "mood/model.safetensors").unlink()
    names = sorted(tensors)
    files = {name: f"model-0000{1 + (i > 20)}-of-00002.safetensors" for i, name in enumerate(names)}
    first = {n: t for n, t in tensors.items() if files[n].startswith("model-00001")}
    save_file(first, folder / "mood/model-00001-of-00002.safetensors", {"format": "pt"})
    (folder / "mood/model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


@of_headers("model.safetensors.index.json", "weight_map")
def broken_index(folder, config):
    (folder / "mood/model.safetensors").unlink()
    (folder / "mood/model.safetensors.index.json").write_text("[]")


@of_headers("./bert: expected the folder of a checkpoint", "there is no such folder")
def path_that_cannot_be_a_hub_id(folder, config):
    config["base_model"] = "./bert"


@of_headers("expected a different name per expert, found mood twice")
def task_twice(folder, config):
    config["models"][1]["task"] = "mood"


@of_headers("models: expected a name that can be the name of a folder, found 'a/b'")
def task_with_a_slash(folder, config):
    config["models"][1]["task"] = "a/b"


@of_headers("parameters.base: embedings* matches no parameter. The most similar names are bert.embeddings.")
def pattern_that_matches_nothing(folder, config):
    config["parameters"] = {"base": ["embedings*"]}


@of_numbers("mood (mood)", "equal the base's", "not an expert")
def experts_equal_to_the_base(folder, config):
    """All of them; one beside others is a linear probe, whose head alone was trained."""
    base = load_file(folder / "base/model.safetensors")
    for task in TASKS:
        edit_tensors(folder / task / "model.safetensors", lambda t: t.update({f"bert.{n}": v for n, v in base.items()}))


@of_numbers("topic (topic): bert.pooler.dense.weight has 2 NaN or infinite numbers")
def not_a_number(folder, config):
    def spoil(tensors):
        tensors["bert.pooler.dense.weight"][0, :2] = torch.tensor([torch.nan, torch.inf])

    edit_tensors(folder / "topic/model.safetensors", spoil)


@of_numbers("topic (topic): classifier.bias has 1 NaN or infinite numbers")
def not_a_number_in_a_head(folder, config):
    edit_tensors(folder / "topic/model.safetensors", lambda t: t["classifier.bias"].__setitem__(0, torch.inf))


@of_numbers("base: bert.pooler.dense.weight has 1 NaN")
def not_a_number_in_the_base(folder, config):
    edit_tensors(folder / "base/model.safetensors", lambda t: t["pooler.dense.weight"].__setitem__((0, 0), torch.nan))


@pytest.mark.parametrize("name", HEADERS)
def test_what_headers_tell_is_refused_when_experts_are_opened(family, name):
    make, words = HEADERS[name]
    config = configuration()
    make(family, config)
    before = listing(family)
    with pytest.raises((ConfigError, IncompatibleExpertsError)) as refused:
        open_experts(merge_config(config))
    assert_answers(str(refused.value), words)
    assert listing(family) == before


@pytest.mark.parametrize("name", NUMBERS)
def test_what_numbers_tell_is_refused_when_they_are_inspected(family, name):
    make, words = NUMBERS[name]
    make(family, {})
    experts = open_experts(merge_config(configuration()))
    with pytest.raises(IncompatibleExpertsError) as refused:
        inspect_weights(experts)
    assert_answers(str(refused.value), words)


def test_an_expert_from_another_base_is_warned_about_by_name(family):
    edit_tensors(
        family / "topic/model.safetensors", lambda t: [tensor.copy_(torch.randn_like(tensor)) for tensor in t.values()]
    )
    (warning,) = inspect_weights(open_experts(merge_config(configuration()))).warnings
    assert warning.startswith("topic (topic): ‖expert − base‖ is")


def test_problems_of_all_experts_are_in_one_answer(family):
    config = configuration()
    config["models"].append(third_expert(family))
    os.truncate(family / "mood/model.safetensors", 1000)
    edit_json(family / "topic/config.json", architectures=["BertForNothing"])
    edit_tensors(family / "speed/model.safetensors", lambda t: t.pop("bert.pooler.dense.bias"))
    with pytest.raises(IncompatibleExpertsError) as refused:
        open_experts(merge_config(config))
    lines = str(refused.value).splitlines()
    starts = ("mood/model.safe", "topic/config.json names", "speed: the file has no tensor")
    assert all(line.startswith(start) for start, line in zip(starts, lines, strict=True)), lines
