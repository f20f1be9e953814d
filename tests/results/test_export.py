"""Exported checkpoints: exact at one-hot coefficients, loadable by plain transformers, complete or absent."""

import errno
import json
import weakref

import pytest
import torch
import transformers
from support.families import build, save_family
from support.loaded import load, names
from torch.optim.swa_utils import update_bn

from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.merging.grouping import tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.results.export import export
from adamerge.storage.write_safetensors import SafetensorsWriter
from adamerge.types import ConfigError

FAMILIES = [
    ("BertModel", "BertForSequenceClassification", "bert", {}),
    ("BertForMaskedLM", "BertForSequenceClassification", "bert", {}),
    ("ViTModel", "ViTForImageClassification", "vit", {}),
    ("CLIPForImageClassification", "CLIPForImageClassification", "clip", {}),
    ("LlamaForCausalLM", "LlamaForCausalLM", "llama", {"tie_word_embeddings": True}),
    ("LlamaForCausalLM", "LlamaForCausalLM", "llama", {"tie_word_embeddings": False}),
    ("T5ForConditionalGeneration", "T5ForConditionalGeneration", "t5", {}),
]


def merged_model(folder, backbone, architecture, family, more, dtype=torch.float32):
    base = build(backbone, family, 0, **more).to(dtype)
    models = {name: build(architecture, family, seed, **more).to(dtype) for seed, name in enumerate("ab", 1)}
    paths = save_family(folder, base, models)
    experts = from_checkpoints(open_checkpoint(paths.pop("")), {n: open_checkpoint(p) for n, p in paths.items()})
    vectors = task_vectors(experts, inspect_weights(experts).changed, resident=False)
    return MergedModel(experts, vectors, tensor_wise(tuple(vectors.shapes))), base, models


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("backbone", "architecture", "family", "more"), FAMILIES)
def test_one_hot_returns_the_expert_and_zeros_the_base_bit_for_bit(
    tmp_path, backbone, architecture, family, more, dtype
):
    model, base, experts = merged_model(tmp_path, backbone, architecture, family, more, dtype)
    for column, task in enumerate("ab"):
        one_hot = torch.zeros(len(model.grouping), 2)
        one_hot[:, column] = 1
        exported = export(model, one_hot, tmp_path / f"only_{task}")
        state = load(architecture, exported.checkpoints[task], dtype)
        assert names(exported.checkpoints[task]) == names(tmp_path / task)
        for name, value in experts[task].state_dict().items():
            assert torch.equal(state[name], value), name
    exported = export(model, torch.zeros(len(model.grouping), 2), tmp_path / "neither")
    state = load(backbone, exported.folder, dtype)
    own = names(tmp_path / "base")  # of two tied names the one of save_pretrained; tasks with heads share their prefix
    prefix = "" if names(exported.folder) == own else f"{experts['a'].base_model_prefix}."
    assert {name.removeprefix(prefix) for name in names(exported.folder)} == own
    assert state.keys() == base.state_dict().keys()
    for name, value in base.state_dict().items():
        assert torch.equal(state[name], value), name


def test_heads_share_one_backbone_on_disk(tmp_path):
    model, *_ = merged_model(tmp_path, "BertModel", "BertForSequenceClassification", "bert", {})
    exported = export(model, torch.full((len(model.grouping), 2), 0.3), tmp_path / "merged", shard_bytes=8000)
    shards = sorted(path.name for path in exported.folder.glob("model-*.safetensors"))
    assert len(shards) > 3
    own = sorted(path.name for path in (exported.folder / "a").glob("model-*.safetensors"))
    for shard, link in zip(shards, own, strict=False):
        assert (exported.folder / "a" / link).stat().st_ino == (exported.folder / shard).stat().st_ino
    index = json.loads((exported.folder / "a" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] > 0
    assert set(index["weight_map"].values()) == set(own)
    assert len(own) == len(shards) + 1
    transformers.AutoModel.from_pretrained(exported.folder)


def test_files_are_copied_if_links_fail(tmp_path, monkeypatch):
    def link(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("adamerge.results.write_checkpoint.os.link", link)
    model, *_ = merged_model(tmp_path, "BertModel", "BertForSequenceClassification", "bert", {})
    exported = export(model, torch.zeros(len(model.grouping), 2), tmp_path / "merged", shard_bytes=8000)
    first, *_ = sorted(exported.folder.glob("*.safetensors"))
    for task in "ab":
        own, *_ = sorted((exported.folder / task).glob("*.safetensors"))
        assert own.read_bytes() == first.read_bytes()
        assert own.stat().st_ino != first.stat().st_ino
        load("BertForSequenceClassification", exported.checkpoints[task])


def test_unchanged_parameters_have_no_coefficient_and_are_kept_from_the_base(tmp_path):
    base = build("BertModel", "bert", 0)
    models = {task: build("BertForSequenceClassification", "bert", seed) for seed, task in enumerate("ab", 1)}
    frozen = [name for name, _ in base.named_parameters() if name.startswith("embeddings.")]
    with torch.no_grad():
        for model in models.values():
            for name in frozen:
                model.bert.get_parameter(name).copy_(base.get_parameter(name))
    paths = save_family(tmp_path, base, models)
    experts = from_checkpoints(open_checkpoint(paths.pop("")), {n: open_checkpoint(p) for n, p in paths.items()})
    found = inspect_weights(experts)
    assert found.unchanged == tuple(f"bert.{name}" for name in frozen)
    vectors = task_vectors(experts, found.changed)
    merged = MergedModel(experts, vectors, tensor_wise(found.changed))
    assert len(merged.grouping) == len(experts.shared) - len(frozen)
    exported = export(merged, torch.ones(len(merged.grouping), 2), tmp_path / "merged")
    state = load("BertForSequenceClassification", exported.checkpoints["a"])
    for name in frozen:
        assert torch.equal(state[f"bert.{name}"], base.get_parameter(name))


def test_logits_of_the_exported_checkpoint_equal_those_of_the_merge(tmp_path):
    model, *_ = merged_model(tmp_path, "BertModel", "BertForSequenceClassification", "bert", {})
    coefficients = torch.rand(len(model.grouping), 2)
    exported = export(model, coefficients, tmp_path / "merged")
    inputs = {"input_ids": torch.tensor([[3, 4, 5]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    expected = model.forward("b", model.vectors.combine(coefficients, model.grouping), inputs).logits
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(exported.checkpoints["b"])
    torch.testing.assert_close(loaded.eval()(**inputs).logits, expected, rtol=1e-4, atol=1e-5)


def test_output_dtype(tmp_path):
    model, *_ = merged_model(tmp_path, "LlamaForCausalLM", "LlamaForCausalLM", "llama", {})
    exported = export(model, torch.full((len(model.grouping), 2), 0.3), tmp_path / "merged", dtype=torch.bfloat16)
    assert json.loads((exported.folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert transformers.AutoModelForCausalLM.from_pretrained(exported.folder).dtype == torch.bfloat16
    assert (exported.folder / "generation_config.json").exists()


def test_parts_of_a_configuration_name_the_dtype_of_the_file(tmp_path):
    """As transformers writes it where it saves a model in another dtype than it was loaded from."""
    named = {"base": "dtype", "a": "dtype", "b": "torch_dtype"}
    for seed, (name, key) in enumerate(named.items()):
        build("CLIPForImageClassification", "clip", seed).bfloat16().save_pretrained(tmp_path / name)
        file = tmp_path / name / "config.json"
        settings = json.loads(file.read_text())
        parts = {part: {**settings[part], key: "bfloat16"} for part in ("text_config", "vision_config")}
        file.write_text(json.dumps({**settings, **parts}))
    opened = {name: open_checkpoint(str(tmp_path / name)) for name in named}
    experts = from_checkpoints(opened.pop("base"), opened)
    vectors = task_vectors(experts, inspect_weights(experts).changed, resident=False)
    model = MergedModel(experts, vectors, tensor_wise(tuple(vectors.shapes)))
    merged = export(model, torch.full((len(model.grouping), 2), 0.3), tmp_path / "merged", dtype=torch.float32)
    again = transformers.CLIPForImageClassification.from_pretrained(tmp_path / "b", dtype=torch.float32)
    again.save_pretrained(tmp_path / "again")
    expected, *found = (dtypes(folder) for folder in (tmp_path / "again", merged.folder, *merged.checkpoints.values()))
    assert expected == {"": "float32", "text_config": "float32", "vision_config": "float32"}
    assert found == [expected] * 3


def dtypes(folder):
    """What config.json says of the whole and of its parts, under any name of the key."""
    settings = json.loads((folder / "config.json").read_text())
    levels = {"": settings, **{key: value for key, value in settings.items() if isinstance(value, dict)}}
    return {n: level[key] for n, level in levels.items() for key in ("dtype", "torch_dtype") if key in level}


def test_one_merged_tensor_is_in_memory_at_a_time(tmp_path, monkeypatch):
    """Count the tensors of the merged backbone that are alive whenever another one is written."""
    alive, most, write = [], [], SafetensorsWriter.write

    def counted(writer, name, tensor):
        alive.append(weakref.ref(tensor))
        most.append(sum(reference() is not None for reference in alive))
        write(writer, name, tensor)

    monkeypatch.setattr(SafetensorsWriter, "write", counted)
    model, *_ = merged_model(tmp_path, "LlamaForCausalLM", "LlamaForCausalLM", "llama", {})
    export(model, torch.full((len(model.grouping), 2), 0.3), tmp_path / "merged")
    assert len(alive) == len(model.vectors.shapes) > 10
    assert max(most) <= 2  # the one that is written, and the one before it


def test_an_existing_folder_is_rejected_and_not_changed(tmp_path):
    model, *_ = merged_model(tmp_path, "LlamaForCausalLM", "LlamaForCausalLM", "llama", {})
    (tmp_path / "merged").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        export(model, torch.zeros(len(model.grouping), 2), tmp_path / "merged")


def test_a_failed_write_leaves_no_checkpoint(tmp_path, monkeypatch):
    model, *_ = merged_model(tmp_path, "BertModel", "BertForSequenceClassification", "bert", {})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("adamerge.storage.atomic_files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        export(model, torch.zeros(len(model.grouping), 2), tmp_path / "merged")
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["a", "b", "base"]  # what stays is for the next one


def test_each_tensor_has_a_dtype_that_represents_it_exactly(tmp_path):
    base = build("BertModel", "bert", 0).to(torch.bfloat16)
    base.embeddings.to(torch.float32)
    experts = {name: build("BertForSequenceClassification", "bert", seed) for seed, name in enumerate("ab", 1)}
    for expert in experts.values():
        expert.bert.to(torch.bfloat16).embeddings.to(torch.float32)  # the head stays fp32
    paths = save_family(tmp_path, base, experts)
    together = from_checkpoints(open_checkpoint(paths.pop("")), {n: open_checkpoint(p) for n, p in paths.items()})
    vectors = task_vectors(together, together.shared)
    model = MergedModel(together, vectors, tensor_wise(together.shared))
    exported = export(model, torch.tensor([[0.0, 1.0]]).expand(len(together.shared), 2), tmp_path / "merged")
    weights = open_checkpoint(str(exported.checkpoints["b"])).tensors
    assert (
        json.loads((exported.checkpoints["b"] / "config.json").read_text())["dtype"] == "float32"
    )  # the most frequent dtype
    for name, value in experts["b"].state_dict().items():
        assert weights[name].dtype == value.dtype
        assert torch.equal(weights[name], value)


def test_statistics_are_recomputed_in_one_batch():
    """As the warning about BatchNorm says: torch takes the mean of batches, not of rows."""
    rows, norm = torch.tensor([0.0, 0.0, 0.0, 0.0, 5.0, 5.0])[:, None], torch.nn.BatchNorm1d(1)
    found = {}
    for size in (6, 4):
        update_bn(rows.split(size), norm)
        found[size] = norm.running_mean.item(), norm.running_var.item()
    assert found[6] == pytest.approx((rows.mean().item(), rows.var().item()))
    assert found[4] == (2.5, 0.0)


@pytest.mark.parametrize(
    ("backbone", "architecture", "family"),
    [
        ("ResNetModel", "ResNetForImageClassification", "resnet"),
        ("LevitModel", "LevitForImageClassification", "levit"),  # its head contains a BatchNorm
        ("LevitForImageClassification", "LevitForImageClassification", "levit"),
    ],
)
def test_running_statistics_are_the_bases_and_the_experts_in_a_head(tmp_path, backbone, architecture, family):
    model, base, experts = merged_model(tmp_path, backbone, architecture, family, {})
    (warning,) = (line for line in inspect_weights(model.experts).warnings if "BatchNorm" in line)
    inside = [n for n, _ in experts["a"].named_buffers() if n.endswith("running_mean") and "classifier" not in n]
    assert warning.startswith(f"{len(inside)} BatchNorm layers ({inside[0]}, …): buffers are not merged, the base's")
    assert "in one batch or in large, shuffled batches of one size" in warning
    coefficients = torch.rand(len(model.grouping), 2)
    exported = export(model, coefficients, tmp_path / "merged")
    load(backbone, exported.folder)
    inputs = {"pixel_values": torch.randn(2, 3, 64, 64)}
    merged = model.vectors.combine(coefficients, model.grouping)
    bases = base.state_dict()
    for task, expert in experts.items():
        state = load(architecture, exported.checkpoints[task])
        buffers = expert.state_dict().keys() - dict(expert.named_parameters()).keys()
        for name in buffers:
            own = expert.state_dict()[name] if name.startswith("classifier.") else None
            expected = bases.get(name, bases.get(name.partition(".")[2])) if own is None else own
            assert torch.equal(state[name], expected), name
        loaded = getattr(transformers, architecture).from_pretrained(exported.checkpoints[task])
        with torch.no_grad():
            expected = model.forward(task, merged, inputs).logits
            torch.testing.assert_close(loaded(**inputs).logits, expected, rtol=1e-4, atol=1e-5)
            assert torch.allclose(model.expert(task)(inputs).logits, expert(**inputs).logits, atol=1e-6)
    if architecture == backbone:
        assert model.experts.head_of_base == {"a": True, "b": True}
        zero = model.vectors.combine(torch.zeros(len(model.grouping), 2), model.grouping)
        with torch.no_grad():
            found = model.forward("a", zero, inputs, own_head=False).logits
            torch.testing.assert_close(found, base(**inputs).logits, rtol=1e-4, atol=1e-5)


# --- files that differ from config.json in tying, and bases that lack something --------------------------------------
