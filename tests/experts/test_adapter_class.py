"""Adapters of a class of another kind than the base's: a part of it, or one with modules of the same names and shapes.

PEFT names the class in `auto_mapping` where no task is given; the truth is base + scale · B A, added up by hand.
"""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.adapters import experts_of, model, trained
from support.families import TEXT, VISION
from support.renamed import model_of

from adamerge.types import IncompatibleExpertsError


def gemma():
    text = {**TEXT, "head_dim": 8, "num_key_value_heads": 1}
    config = transformers.Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=4)
    return transformers.Gemma3ForConditionalGeneration(config)


def of(name, **more):
    cls = getattr(transformers, name)
    return lambda: cls(cls.config_class(**TEXT, **more))


LLAMA, ROBERTA = of("LlamaForCausalLM"), of("RobertaForSequenceClassification", num_labels=3)
PARTS = {
    "text in Gemma 3": (
        gemma,
        of("Gemma3ForCausalLM", head_dim=8, num_key_value_heads=1),
        ("model.", "language_model."),
    ),
    "text in LLaVA": (lambda: model_of("LlavaForConditionalGeneration"), LLAMA, ("model.", "language_model.")),
    "the part alone": (lambda: model_of("LlavaForConditionalGeneration"), of("LlamaModel"), ("", "language_model.")),
    "the image tower of CLIP": (
        lambda: model("CLIPModel", "clip"),
        lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VISION)),
        ("", "vision_model."),
    ),
}
"""Base, model that was trained, and what its names have in place of the part's path."""


def made(folder, base, own, **options):
    """A base and an adapter of another model in folders, and the adapter's factors by module."""
    base().save_pretrained(folder / "base")
    options = {"target_modules": ["q_proj", "v_proj", "query"], **options}
    trained(own(), options).save_pretrained(folder / "adapter")
    file = load_file(folder / "adapter/adapter_model.safetensors")
    paths = [key.removesuffix(".lora_A.weight") for key in file if key.endswith("lora_A.weight")]
    factors = {path: 2 * file[f"{path}.lora_B.weight"] @ file[f"{path}.lora_A.weight"] for path in paths}
    return {path.removeprefix("base_model.model."): change for path, change in factors.items()}


def check(experts, changes):
    """All tensors but the changed ones are the base's."""
    weights = experts.tasks["a"].weights
    assert set(weights.changed) == {f"{path}.weight" for path in changes}
    for path, change in changes.items():
        torch.testing.assert_close(weights[f"{path}.weight"], experts.base[f"{path}.weight"] + change)


TASKS = [*((kind, None) for kind in PARTS), ("text in Gemma 3", "CAUSAL_LM"), ("text in LLaVA", "CAUSAL_LM")]


@pytest.mark.parametrize(("kind", "task"), TASKS)
def test_a_part_of_the_base(tmp_path, kind, task):
    base, own, (former, path) = PARTS[kind]
    changes = made(tmp_path, base, own, task_type=task)
    experts = experts_of(tmp_path / "base", a=tmp_path / "adapter")
    inner = path if kind.endswith("CLIP") else f"model.{path}"
    check(experts, {f"{inner}{name.removeprefix(former)}": change for name, change in changes.items()})
    assert any(f"read as those of {inner[:-1]} in " in note for note in experts.notes)
    assert not any("the file has no tensors" in note or "is meaningless" in note for note in experts.notes[:2])


ALIKE = {
    "Llama over Mistral": (
        of("MistralForCausalLM", num_key_value_heads=2, head_dim=8),
        LLAMA,
        {},
        "MistralForCausalLM",
    ),
    "a classifier": (
        of("XLMRobertaForMaskedLM"),
        ROBERTA,
        {"modules_to_save": ["classifier"]},
        "XLMRobertaForSequenceClassification",
    ),
    "Qwen2 over Qwen2-VL": (
        lambda: model_of("Qwen2VLForConditionalGeneration"),
        of("Qwen2ForCausalLM", num_key_value_heads=2),
        {},
        "Qwen2VLForConditionalGeneration",
    ),
}
"""Base, model that was trained, options, and the class that the expert has."""


@pytest.mark.parametrize("kind", ALIKE)
def test_another_kind_with_the_same_modules_is_said(tmp_path, kind):
    base, own, options, name = ALIKE[kind]
    changes = made(tmp_path, base, own, **options)
    experts = experts_of(tmp_path / "base", a=tmp_path / "adapter")
    assert type(experts.tasks["a"].module).__name__ == name
    inside = "model.language_model." if "VL" in kind else "model."
    check(experts, {path.replace("model.", inside): change for path, change in changes.items()})
    assert any("was trained on a " in note and "All its tensors have a place there" in note for note in experts.notes)


def test_another_kind_with_other_shapes_is_refused(tmp_path):
    made(tmp_path, of("MistralForCausalLM", num_key_value_heads=1, head_dim=8), LLAMA)
    with pytest.raises(
        IncompatibleExpertsError, match=r"(?s)LlamaForCausalLM \(llama\), expected .*\n.*v_proj.* shape"
    ):
        experts_of(tmp_path / "base", a=tmp_path / "adapter")


def of_mlx(folder, base, layers, scale=4.0):
    """A base, and an adapter of mlx-lm under its names; and the weights as its `fuse` computes them."""
    base.save_pretrained(folder / "base")
    expected, tensors = base.state_dict(), {}
    generator = torch.Generator().manual_seed(0)
    for path, (name, rows, turned) in layers.items():
        block = expected[name][rows]
        outputs, inputs = block.shape[::-1] if turned else block.shape
        a, b = (0.1 * torch.randn(shape, generator=generator) for shape in ((inputs, 2), (2, outputs)))
        expected[name][rows] += scale * (a @ b if turned else (a @ b).T)
        tensors |= {f"{path}.lora_a": a, f"{path}.lora_b": b}
    adapter = folder / "adapter"
    adapter.mkdir()
    save_file(tensors, adapter / "adapters.safetensors")
    options = {"lora_parameters": {"rank": 2, "scale": scale}, "model": "tiny"}
    (adapter / "adapter_config.json").write_text(json.dumps(options))
    return experts_of(folder / "base", a=adapter).tasks["a"].weights, expected


def dbrx():
    attention, experts = (
        {"kv_n_heads": 2, "rope_theta": 1e4},
        {"ffn_hidden_size": 8, "moe_num_experts": 3, "hidden_size": 16},
    )
    sizes = {"d_model": 16, "n_heads": 2, "n_layers": 1, "vocab_size": 40, "max_seq_len": 16}
    config = transformers.DbrxConfig(**sizes, ffn_config={**experts, "moe_top_k": 2}, attn_config=attention)
    return transformers.DbrxForCausalLM(config)


ALL = slice(None)
MLX = {
    "GPT-NeoX": (
        of("GPTNeoXForCausalLM"),
        {
            "model.h.1.attention.query_key_value": ("gpt_neox.layers.1.attention.query_key_value.weight", ALL, False),
            "model.embed_out": ("lm_head.weight", ALL, False),
        },
    ),
    "experts of DBRX": (
        dbrx,
        {
            f"transformer.blocks.0.ffn.experts.{e}.{layer}": (
                f"transformer.blocks.0.ffn.experts.mlp.{layer}",
                slice(8 * e, 8 * e + 8),
                layer == "w2",
            )
            for e, layer in ((0, "w1"), (2, "w1"), (1, "v1"), (1, "w2"), (2, "w2"))
        },
    ),
    "text in LLaVA": (
        lambda: model_of("LlavaForConditionalGeneration"),
        {
            "language_model.model.layers.0.mlp.up_proj": (
                "model.language_model.layers.0.mlp.up_proj.weight",
                ALL,
                False,
            )
        },
    ),
}
"""Base; and name in mlx-lm → tensor, rows of it, and whether it holds the layer transposed."""


@pytest.mark.parametrize("kind", MLX)
def test_names_of_mlx(tmp_path, kind):
    """mlx-lm calls the layers of GPT-NeoX `model.h`, and splits the experts of DBRX (`sanitize` of its models)."""
    base, layers = MLX[kind]
    weights, expected = of_mlx(tmp_path, base(), layers)
    assert set(weights.changed) == {name for name, _, _ in layers.values()}
    for name in weights.changed:
        assert weights.change(name).low_rank
        torch.testing.assert_close(weights[name], expected[name])
