"""The command: what it writes and says, and that every mistake gets an answer rather than a traceback."""

import json
import os
import shutil

import pytest
import torch
import transformers
import yaml
from families import build, save_rows, save_tokenizer
from safetensors.torch import load_file, save_file

from adamerge import cli

MISTAKES = {}


def mistake(*words):
    """Registers what spoils a family or its configuration, with the words that must stand in the error."""

    def register(spoil):
        MISTAKES[spoil.__name__] = (spoil, words)
        return spoil

    return register


@pytest.fixture
def family(text_family, tmp_path, monkeypatch):
    """A copy of the family that may be spoilt, as the current directory."""
    monkeypatch.chdir(shutil.copytree(text_family, tmp_path / "family"))
    return tmp_path / "family"


@pytest.fixture
def main(capsys):
    """Runs a command; returns the exit code, what was printed, and what was complained of."""

    def run(*arguments):
        capsys.readouterr()  # what making the family said
        code = cli.main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return run


def configuration(**changes):
    """merge.yaml with some keys replaced."""
    with open("merge.yaml", encoding="utf-8") as file:
        return {**yaml.safe_load(file), **changes}


def write(config, name="changed.yaml"):
    with open(name, "w", encoding="utf-8") as file:
        yaml.safe_dump(config, file)
    return name


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def listing(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


# --- checkpoints -----------------------------------------------------------------------------------------------------


@mistake("nowhere", "no directory of that name")
def model_directory_is_missing(folder, config):
    config["models"][0]["model"] = "nowhere"


@mistake("a/b/c", "there is no such directory")
def base_directory_is_missing(folder, config):
    config["base_model"] = "a/b/c"


@mistake("mood: expected a Hugging Face checkpoint", "config.json")
def no_configuration_beside_the_weights(folder, config):
    (folder / "mood/config.json").unlink()


@mistake("mood/config.json", "cannot read it")
def broken_configuration_beside_the_weights(folder, config):
    (folder / "mood/config.json").write_text("{")


@mistake("mood: expected model.safetensors")
def no_weights(folder, config):
    (folder / "mood/model.safetensors").unlink()


@mistake("mood/model.safetensors", "complete safetensors file", "copy or download it again")
def truncated_weights(folder, config):
    os.truncate(folder / "mood/model.safetensors", (folder / "mood/model.safetensors").stat().st_size - 100)


@mistake("topic/model.safetensors", "complete safetensors file")
def corrupt_header(folder, config):
    with (folder / "topic/model.safetensors").open("r+b") as file:
        file.seek(20)
        file.write(b"\xff\xfe{{{")


@mistake("topic/model.safetensors", "complete safetensors file")
def empty_weights(folder, config):
    (folder / "topic/model.safetensors").write_bytes(b"")


@mistake("the expert is a llama, but the base base is a bert")
def another_architecture(folder, config):
    shutil.rmtree(folder / "mood")
    build("LlamaForSequenceClassification", "llama", 1).save_pretrained(folder / "mood")


@mistake("BertForNothing", "does not have")
def unknown_architecture(folder, config):
    edit_json(folder / "mood/config.json", architectures=["BertForNothing"])


@mistake("mood: bert.encoder.layer.1.output.dense.weight has the shape (16, 40)", "(16, 32)")
def another_shape(folder, config):
    config_of = {"num_labels": 2, "intermediate_size": 40}
    model = transformers.BertForSequenceClassification(
        transformers.BertConfig(**{**json.loads((folder / "base/config.json").read_text()), **config_of})
    )
    model.save_pretrained(folder / "mood")


@mistake("bert.pooler.dense.bias has the shape (7,) in the file but (16,) by config.json")
def another_shape_than_the_configuration_says(folder, config):
    edit_tensors(
        folder / "mood/model.safetensors",
        lambda t: t.update({"bert.pooler.dense.bias": t["bert.pooler.dense.bias"][:7].clone()}),
    )


@mistake("mood: the file has no tensor for bert.pooler.dense.bias")
def missing_tensor(folder, config):
    edit_tensors(folder / "mood/model.safetensors", lambda t: t.pop("bert.pooler.dense.bias"))


@mistake("no place for the tensor adapter.weight")
def tensor_too_many(folder, config):
    edit_tensors(folder / "mood/model.safetensors", lambda t: t.update({"adapter.weight": torch.zeros(2)}))


@mistake("vocabularies differ: vocab_size is 44 here and 40 in the base base")
def another_vocabulary(folder, config):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "mood")
    model.resize_token_embeddings(44)
    model.save_pretrained(folder / "mood")


@mistake("mood (mood)", "equal the base's", "not an expert")
def expert_equal_to_the_base(folder, config):
    base = load_file(folder / "base/model.safetensors")
    edit_tensors(folder / "mood/model.safetensors", lambda t: t.update({f"bert.{n}": v for n, v in base.items()}))


@mistake("topic (topic): bert.pooler.dense.weight has 2 NaN or infinite numbers")
def not_a_number(folder, config):
    def spoil(tensors):
        tensors["bert.pooler.dense.weight"][0, :2] = torch.tensor([torch.nan, torch.inf])

    edit_tensors(folder / "topic/model.safetensors", spoil)


@mistake("topic (topic): classifier.bias has 1 NaN or infinite numbers")
def not_a_number_in_a_head(folder, config):
    edit_tensors(folder / "topic/model.safetensors", lambda t: t["classifier.bias"].__setitem__(0, torch.inf))


@mistake("base: bert.pooler.dense.weight has 1 NaN")
def not_a_number_in_the_base(folder, config):
    edit_tensors(folder / "base/model.safetensors", lambda t: t["pooler.dense.weight"].__setitem__((0, 0), torch.nan))


@mistake("mood/pytorch_model.bin", "pickled", "allow_pickle: true")
def pickle_without_permission(folder, config):
    torch.save(load_file(folder / "mood/model.safetensors"), folder / "mood/pytorch_model.bin")
    (folder / "mood/model.safetensors").unlink()


@mistake("mood/pytorch_model.bin", "cannot read it")
def pickle_that_runs_code(folder, config):
    torch.save({"a": Runs()}, folder / "mood/pytorch_model.bin")
    (folder / "mood/model.safetensors").unlink()
    config["allow_pickle"] = True


class Runs:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("pwned",)


@mistake("mood", "quantised")
def quantised_configuration(folder, config):
    edit_json(folder / "mood/config.json", quantization_config={"quant_method": "gptq", "bits": 4})


@mistake("mood: bert.pooler.dense.weight is quantised (torch.int8)")
def quantised_tensor(folder, config):
    edit_tensors(
        folder / "mood/model.safetensors",
        lambda t: t.update({"bert.pooler.dense.weight": t["bert.pooler.dense.weight"].to(torch.int8)}),
    )


@mistake("mood: this is a LoRA adapter", "merge_and_unload")
def adapter(folder, config):
    (folder / "mood/config.json").rename(folder / "mood/adapter_config.json")


@mistake("model-00002-of-00002.safetensors: missing", "model.safetensors.index.json lists it")
def missing_shard(folder, config):
    tensors = load_file(folder / "mood/model.safetensors")
    (folder / "mood/model.safetensors").unlink()
    names = sorted(tensors)
    files = {name: f"model-0000{1 + (i > 20)}-of-00002.safetensors" for i, name in enumerate(names)}
    first = {n: t for n, t in tensors.items() if files[n].startswith("model-00001")}
    save_file(first, folder / "mood/model-00001-of-00002.safetensors", {"format": "pt"})
    (folder / "mood/model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


@mistake("model.safetensors.index.json", "weight_map")
def broken_index(folder, config):
    (folder / "mood/model.safetensors").unlink()
    (folder / "mood/model.safetensors.index.json").write_text("[]")


# --- rows ------------------------------------------------------------------------------------------------------------


@mistake("mood: nowhere.jsonl: no such file")
def rows_are_missing(folder, config):
    config["models"][0]["calibration"] = "nowhere.jsonl"


@mistake("mood: expected calibration rows")
def no_calibration(folder, config):
    del config["models"][0]["calibration"]


@mistake("topic: topic.jsonl: expected a column 'sentence', but the columns are text")
def missing_column(folder, config):
    config["models"][1]["calibration"] = {"path": "topic.jsonl", "text": "sentence"}


@mistake("mood_test.jsonl: expected a column 'label'")
def missing_label_column(folder, config):
    save_rows(folder / "mood_test.jsonl", 4, 0)


@mistake("mood: mood.jsonl", "empty")
def no_rows(folder, config):
    (folder / "mood.jsonl").write_text("")


@mistake("mood: mood.jsonl: row 3 is not JSON")
def broken_row(folder, config):
    lines = (folder / "mood.jsonl").read_text().splitlines()
    (folder / "mood.jsonl").write_text("\n".join([*lines[:2], '{"text": "the', *lines[2:]]))


@mistake("mood: mood.jsonl: row 2 has None where 'text' should be a text")
def row_without_text(folder, config):
    lines = (folder / "mood.jsonl").read_text().splitlines()
    (folder / "mood.jsonl").write_text("\n".join([lines[0], '{"text": null}', *lines[1:]]))


@mistake("mood: mood.jsonl", "UTF-8")
def rows_in_another_encoding(folder, config):
    (folder / "mood.jsonl").write_bytes('{"text": "schön"}\n'.encode("latin-1"))


@mistake("topic: topic_test.jsonl: row 1 has the label 7", "2 labels")
def label_out_of_range(folder, config):
    (folder / "topic_test.jsonl").write_text('{"text": "good", "label": 7}\n')


@mistake("topic: topic_test.jsonl: row 1 has the label 'sunny'")
def unknown_label(folder, config):
    (folder / "topic_test.jsonl").write_text('{"text": "good", "label": "sunny"}\n')


@mistake("no pad token", "tokenizer_config.json")
def no_pad_token(folder, config):
    save_tokenizer(folder / "base", pad=False)


@mistake("base: expected the tokenizer of BertForSequenceClassification beside the weights")
def no_tokenizer(folder, config):
    for file in (folder / "base").glob("tokenizer*"):
        file.unlink()


# --- configuration ---------------------------------------------------------------------------------------------------


@mistake("there is no key calibratoin. Did you mean calibration?")
def unknown_key(folder, config):
    config["calibratoin"] = "mood.jsonl"


@mistake("there is no key evaluatoin. Did you mean evaluation?")
def unknown_key_of_a_model(folder, config):
    config["models"][1]["evaluatoin"] = "mood.jsonl"


@mistake("optimizer: there is no key lrr. Did you mean lr?")
def unknown_key_of_a_class(folder, config):
    config["optimizer"]["init_args"] = {"lrr": 1e-3}


@mistake("there is no key data.batchsize. Did you mean batch_size?")
def unknown_key_of_a_section(folder, config):
    config["data"] = {"batchsize": 4}


@mistake("feasible: there is no class Simplexx. Did you mean Simplex?")
def misspelt_class(folder, config):
    config["feasible"] = "Simplexx"


@mistake("optimizer: there is no class Adamm", "Did you mean Adam?")
def misspelt_optimizer(folder, config):
    config["optimizer"]["class_path"] = "Adamm"


@mistake("grouping: expected one of 'task', 'block', 'tensor', got tensr. Did you mean tensor?")
def misspelt_choice(folder, config):
    config["grouping"] = "tensr"


@mistake("method: expected one of", "Did you mean adamerging?")
def misspelt_method(folder, config):
    config["method"] = "adamergin"


@mistake("data.batch_size: expected int, got many")
def word_for_a_number(folder, config):
    config["data"] = {"batch_size": "many"}


@mistake("data.batch_size: expected at least 1, got 0")
def no_rows_a_step(folder, config):
    config["data"] = {"batch_size": 0}


@mistake("data.held_out", "got 1.5")
def held_out_more_than_all(folder, config):
    config["data"] = {"held_out": 1.5}


@mistake("trainer.max_steps: expected at least 1, got 0")
def no_steps(folder, config):
    config["trainer"]["max_steps"] = 0


@mistake("trainer.max_steps: expected at least 1, got -1")
def endless_steps(folder, config):
    config["trainer"]["max_steps"] = -1


@mistake("watch.every: expected at least 1, got 0")
def watch_never(folder, config):
    config["watch"] = {"every": 0}


@mistake("radius", "above 0", "0.0")
def empty_simplex(folder, config):
    config["feasible"] = {"class_path": "Simplex", "init_args": {"radius": 0}}


@mistake("temperature: expected a number above 0")
def no_temperature(folder, config):
    config["objective"] = {"class_path": "Entropy", "init_args": {"temperature": 0}}


@mistake("optimizer", "-1")
def negative_learning_rate(folder, config):
    config["optimizer"]["init_args"]["lr"] = -1


@mistake("optimizer: expected an optimiser")
def no_optimizer(folder, config):
    config["optimizer"] = None


@mistake("trainer", "gpuu")
def unknown_accelerator(folder, config):
    config["trainer"]["accelerator"] = "gpuu"


@mistake("two experts are called mood")
def task_twice(folder, config):
    config["models"][1]["task"] = "mood"


@mistake("models: 'a/b' cannot be the name of a folder")
def task_with_a_slash(folder, config):
    config["models"][1]["task"] = "a/b"


@mistake("models: expected at least one expert")
def no_experts(folder, config):
    config["models"] = []


@mistake("models: expected list, got mood")
def models_in_one_word(folder, config):
    config["models"] = "mood"


@mistake("missing: base_model")
def no_base(folder, config):
    del config["base_model"]


@mistake("there is no key trainer.accumulate_grad_batches")
def trainer_option_that_would_alter_the_gradient(folder, config):
    config["trainer"]["accumulate_grad_batches"] = 2


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_explained_and_nothing_is_written(family, main, name):
    spoil, words = MISTAKES[name]
    config = configuration()
    spoil(family, config)
    file = write(config)
    before = listing(family)
    code, _, complaint = main("fit", "--config", file, "--run_dir", "run")
    assert code == cli.BAD_INPUT
    assert complaint.startswith("error: ")
    assert len(complaint.splitlines()) <= cli.SCREEN
    for word in words:
        assert word in complaint
    code, listed, complaint = main("check", "--config", file, "--deep")
    assert code == cli.BAD_INPUT
    for word in words:
        assert word in listed + complaint
    assert listing(family) == before
