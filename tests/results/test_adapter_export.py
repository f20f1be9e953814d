"""Merges exported as adapters, loaded by PEFT, against the dense merge; and what no adapter can hold."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from support.adapter_pool import (
    BASES,
    KINDS,
    LLAMA,
    assert_same,
    coefficients_of,
    loaded,
    merged_state,
    model_of,
    save_adapter,
)
from support.engines import vllm_problems
from support.families import build

from adamerge.experts.adapter import open_expert
from adamerge.experts.checkpoint import open_checkpoint
from adamerge.merging.grouping import component_wise, row_blocks, task_wise
from adamerge.merging.mapped_task_vectors import Mapped
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.results import adapter_export
from adamerge.results.adapter_export import export_adapter
from adamerge.results.export import export
from adamerge.storage.weights import InMemory
from adamerge.transforms import (
    Aswudi,
    Dare,
    DcMerge,
    Isotropic,
    Lines,
    TaskSingularVectors,
    Ties,
    Wudi,
)
from adamerge.transforms.stored import merged_at_once, transformed
from adamerge.types import ConfigError


@pytest.fixture(autouse=True)
def unverified(request, monkeypatch):
    """Adapters are loaded by the tests, so not while they are written too, unless a test asks for `verified`."""
    if "verified" not in request.fixturenames:
        monkeypatch.setattr(adapter_export, "peft_version", lambda: None)


@pytest.fixture
def verified():
    """Adapters are loaded by PEFT and transformers while they are written."""


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """A base, adapters of every kind over it, and a complete checkpoint; not to be altered."""
    root = tmp_path_factory.mktemp("pool")
    for kind, (name, word, more) in BASES.items():
        build(name, word, 0, **more).save_pretrained(root / kind)
    for seed, (kind, options) in enumerate(KINDS.items()):
        family = BASES["bert"] if kind == "bias" else LLAMA
        save_adapter(root / "llama", root / kind, options, seed, family)
    build("LlamaForCausalLM", "llama", 5, tie_word_embeddings=False).save_pretrained(root / "whole")
    conv1d = {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}
    save_adapter(root / "gpt2", root / "conv1d", conv1d, 7, BASES["gpt2"])
    save_adapter(root / "vit", root / "convolution", {"target_modules": ["projection", "q_proj"]}, 8, BASES["vit"])
    return root


@pytest.mark.parametrize("grouping", [None, lambda v: row_blocks(v.shapes, 3)], ids=["task", "rows"])
def test_the_adapter_is_the_dense_merge(pool, tmp_path, grouping):
    """Kinds, ranks, scales and targets differ; PEFT merges what was written."""
    model = model_of(pool, ["plain", "rslora", "patterns", "embeddings"], grouping=grouping)
    coefficients = coefficients_of(model)
    exported = export_adapter(model, coefficients, tmp_path / "out")
    assert_same(loaded(tmp_path / "out"), merged_state(model, coefficients))
    options = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert options["r"] == options["lora_alpha"]
    assert not options["rank_pattern"]
    assert not options["use_rslora"]
    assert options["modules_to_save"] is None
    shapes = {key: tensor.shape for key, tensor in load_file(tmp_path / "out/adapter_model.safetensors").items()}
    assert {shape[0] for key, shape in shapes.items() if key.endswith("lora_A.weight")} == {options["r"]}
    assert exported.bytes == sum(file.stat().st_size for file in (tmp_path / "out").iterdir())


@pytest.mark.parametrize(("base", "kind"), [("gpt2", "conv1d"), ("vit", "convolution")])
def test_other_layers_have_the_layout_of_peft(pool, verified, tmp_path, base, kind):
    model = model_of(pool, [kind], base)
    export_adapter(model, torch.tensor([[0.7]]), tmp_path / "out")
    assert_same(loaded(tmp_path / "out", base), merged_state(model, torch.tensor([[0.7]])))


def test_experts_without_weight_take_no_rank(pool, tmp_path):
    model = model_of(pool, ["plain", "dora", "whole", "patterns"])
    one_hot = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    export_adapter(model, one_hot, tmp_path / "out")
    assert json.loads((tmp_path / "out/adapter_config.json").read_text())["r"] == 4
    assert_same(loaded(tmp_path / "out"), merged_state(model, one_hot))


def test_equal_adapters_are_compressed_without_loss(pool, tmp_path):
    shutil.copytree(pool / "plain", tmp_path / "twin")
    for kind in ("llama", "plain"):
        shutil.copytree(pool / kind, tmp_path / kind)
    model = model_of(tmp_path, ["plain", "twin"])
    export_adapter(model, torch.tensor([[0.25, 0.5]]), tmp_path / "out")
    assert json.loads((tmp_path / "out/adapter_config.json").read_text())["r"] == 4
    assert_same(loaded(tmp_path / "out"), merged_state(model, torch.tensor([[0.25, 0.5]])))


def test_truncation_is_the_best_of_its_rank_and_its_error_is_known(pool, tmp_path):
    model = model_of(pool, ["plain", "rslora", "patterns"])
    coefficients = coefficients_of(model)
    exported = export_adapter(model, coefficients, tmp_path / "out", max_rank=3)
    found, expected = loaded(tmp_path / "out"), merged_state(model, coefficients)
    for name, error in exported.truncation.items():
        change = expected[name] - model.experts.base[name].double()
        sigma = torch.linalg.svdvals(change)
        best = (sigma[3:].norm() / sigma.norm()).item()
        assert error == pytest.approx(best, rel=1e-6)
        assert ((found[name] - expected[name]).norm() / change.norm()).item() == pytest.approx(best, rel=1e-3)
    assert exported.truncation
    assert any("max_rank 3: relative error" in note for note in exported.notes)


@pytest.mark.parametrize("max_rank", [1, 3])
def test_what_is_cut_off_is_not_counted_as_rounded_away(pool, tmp_path, max_rank):
    """It has lines of its own; advice on rounding would be false."""
    model = model_of(pool, ["plain", "rslora"]).written_in(torch.bfloat16)
    exported = export_adapter(model, torch.tensor([[0.7, 0.4]]), tmp_path / "out", max_rank=max_rank)
    assert min(exported.truncation.values()) > 0.1
    assert any(f"max_rank {max_rank}: relative error" in note for note in exported.notes)
    shares = [exported.surviving.share, *exported.surviving.by_expert().values()]
    assert shares == pytest.approx([1.0] * 3, abs=0.01)
    assert exported.surviving.warning("nearest") is None


REFUSED = {
    "dora": (["plain", "dora"], "dora changes the whole tensor"),
    "a complete checkpoint": (["plain", "whole"], "whole is a complete checkpoint"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_leaves_the_span_is_refused_by_module_and_name(pool, tmp_path, case):
    kinds, words = REFUSED[case]
    model = model_of(pool, kinds)
    with pytest.raises(ConfigError, match=f"q_proj.weight: {words}"):
        export_adapter(model, torch.ones(1, len(kinds)), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_biases_are_refused_by_name(pool, tmp_path):
    with pytest.raises(ConfigError, match=r"query\.bias: bias changes the whole tensor"):
        export_adapter(model_of(pool, ["bias"], "bert"), torch.ones(1, 1), tmp_path / "out")


def test_a_centre_outside_the_span_is_refused_with_the_share(pool, tmp_path):
    def centre(experts):
        return InMemory({name: experts.base[name] + 0.01 for name in experts.shared})

    with pytest.raises(ConfigError, match=r"\d+% of the centre is outside the span"):
        export_adapter(model_of(pool, ["plain"], centre=centre), torch.tensor([[0.5]]), tmp_path / "out")


@pytest.mark.parametrize("library", ["_by_peft", "_by_transformers"])
def test_an_adapter_that_loads_otherwise_is_not_written(pool, verified, tmp_path, monkeypatch, library):
    from adamerge.results import adapter_read_back

    load = getattr(adapter_read_back, library)

    def spoilt(base, folder):
        module = load(base, folder)
        module.get_submodule("model.layers.0.self_attn.q_proj").lora_B["default"].weight.data *= 1.01
        return module

    monkeypatch.setattr(adapter_read_back, library, spoilt)
    with pytest.raises(RuntimeError, match="q_proj"):
        export_adapter(model_of(pool, ["plain"]), torch.ones(1, 1), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_without_peft_it_is_said(pool, tmp_path):
    exported = export_adapter(model_of(pool, ["plain"]), torch.ones(1, 1), tmp_path / "out")
    assert any("PEFT is not installed" in note and "adamerge[adapters]" in note for note in exported.notes)


@pytest.mark.parametrize("mode", ["nearest", "stochastic"])
def test_factors_are_rounded_beside_the_base(pool, tmp_path, mode):
    """A change far below the base's rounding step survives in bf16 factors, and not in a bf16 checkpoint."""
    build(*LLAMA[:2], 0, **LLAMA[2]).bfloat16().save_pretrained(tmp_path / "base")
    shutil.copytree(pool / "plain", tmp_path / "plain")
    model = model_of(tmp_path, ["plain"], "base").written_in(torch.bfloat16, mode)
    small = torch.tensor([[1e-2]])
    exported = export_adapter(model, small, tmp_path / "out")
    tensors = load_file(tmp_path / "out/adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert exported.surviving.share == pytest.approx(1, abs=0.01)
    dense = export(model, small, tmp_path / "dense")
    gain = next(note for note in exported.notes if "complete checkpoint in bfloat16" in note)
    assert f"{dense.surviving.share:.3f}" in gain
    if mode == "nearest":
        assert abs(dense.surviving.share - 1) > 0.05


SPANS = {
    "isotropic": Isotropic(),
    "wudi": Wudi(),
    "tsv": TaskSingularVectors(),
    "lines": Lines(),
    "aswudi": Aswudi(),
    "dc_merge": DcMerge(),
}
TRANSFORMED = {"centre": merged_at_once, "task vectors": transformed}


@pytest.mark.parametrize(("method", "place"), [*zip(SPANS, [*TRANSFORMED] * 3, strict=True), ("wudi", "centre")])
def test_centres_and_task_vectors_in_the_span_are_exported_as_factors(pool, tmp_path, method, place):
    """The dense merge of the dense centre, or task vectors, is the reference; PEFT loads the factors."""
    plain, transform = model_of(pool, ["plain", "rslora", "patterns"]), SPANS[method]
    if place == "centre":
        centre = merged_at_once(plain.vectors, transform, tmp_path / "centre.safetensors")
        vectors = task_vectors(plain.experts, plain.experts.shared, centre=centre)
    else:
        vectors = transformed(plain.vectors, plain.experts.base, transform, tmp_path / "vectors")
    model = MergedModel(plain.experts, vectors, row_blocks(vectors.shapes, 2))
    drawn = torch.randn(len(model.grouping), len(vectors.experts), generator=torch.Generator().manual_seed(0))
    export_adapter(model, drawn, tmp_path / "out")
    assert_same(loaded(tmp_path / "out"), merged_state(model, drawn))


def test_the_base_and_merges_beside_the_experts_are_exported_as_factors(pool, tmp_path):
    kinds = ["plain", "rslora", "patterns"]

    def wudi(experts):
        plain = model_of(pool, kinds)
        return merged_at_once(plain.vectors, Wudi(), tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors")

    model = model_of(
        pool,
        kinds,
        centre=wudi,
        beside=[lambda experts: experts.base, wudi],
        grouping=lambda v: row_blocks(v.shapes, 2),
    )
    experts = model.experts
    dense = {**experts.weights, "merge0": experts.base, "merge1": model.vectors.source("merge1")}
    names = list(model.vectors.shapes)
    centre = InMemory({name: model.vectors.centre(name) for name in names})
    expected = Mapped(dense, names, centre, centre)
    drawn = coefficients_of(model)
    export_adapter(model, drawn, tmp_path / "out")
    assert_same(merged_state(model, drawn), merged_state(MergedModel(experts, expected, model.grouping), drawn))
    assert_same(loaded(tmp_path / "out"), merged_state(model, drawn))


@pytest.mark.parametrize("transform", [Ties(), Dare(), Wudi(solver="adam", lr=1e-2)])
def test_task_vectors_outside_the_span_are_refused(pool, tmp_path, transform):
    plain = model_of(pool, ["plain", "patterns"])
    vectors = transformed(plain.vectors, plain.experts.base, transform, tmp_path / "vectors")
    model = MergedModel(plain.experts, vectors, task_wise(vectors.shapes))
    with pytest.raises(ConfigError, match=r"q_proj.weight: \d+% of the task vector .* is outside the span"):
        export_adapter(model, torch.ones(1, len(vectors.experts)), tmp_path / "out")


def test_coefficients_per_component_are_exported(pool, tmp_path):
    plain = model_of(pool, ["plain", "rslora", "patterns"])
    vectors = plain.vectors.by_component()
    grouping = component_wise({name: max(vectors.ranks(name).values(), default=1) for name in vectors.shapes})
    model = MergedModel(plain.experts, vectors, grouping)
    coefficients = coefficients_of(model)
    export_adapter(model, coefficients, tmp_path / "out")
    assert_same(loaded(tmp_path / "out"), merged_state(model, coefficients))


def test_the_keys_are_those_that_vllm_accepts(pool, tmp_path):
    linear = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens", "lm_head"}
    model = model_of(pool, ["plain", "rslora", "patterns", "embeddings"])
    exported = export_adapter(model, coefficients_of(model), tmp_path / "out")
    assert vllm_problems(tmp_path / "out", linear) == []
    assert any("vLLM needs --max-lora-rank 16" in note for note in exported.notes)
    assert vllm_problems(pool / "patterns", linear)  # what it would refuse is noticed


def test_the_adapter_is_an_expert_again(pool, tmp_path):
    """What was written is read by our own reader as the merge that it is."""
    model = model_of(pool, ["plain", "embeddings"])
    coefficients = coefficients_of(model)
    export_adapter(model, coefficients, tmp_path / "out")
    opened = open_checkpoint(str(pool / "llama"))
    weights = open_expert(str(tmp_path / "out"), opened).tensors
    assert_same({name: weights[name] for name in weights.headers}, merged_state(model, coefficients))
