"""Everything that is no change of weights by LoRA, or does not fit, is refused by its own name, with what to do."""

import dataclasses
import json
import re

import pytest
import torch
from peft import LoraConfig, PeftType
from safetensors.torch import load_file, save_file
from support.adapters import KINDS, experts_of, saved

from adamerge.experts.adapter_config import KNOWN
from adamerge.types import ConfigError, IncompatibleExpertsError

PROMPTS = {
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE", "ADAPTION_PROMPT",
    "POLY", "XLORA",
}  # fmt: skip
"""Kinds that PEFT cannot merge: it has no layer of theirs with a method `merge`."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One base and one plain adapter, as texts and tensors."""
    base, adapter, _ = saved(tmp_path_factory.mktemp("plain"), *KINDS["plain"])
    options = json.loads((adapter / "adapter_config.json").read_text())
    return base, options, load_file(adapter / "adapter_model.safetensors")


@pytest.fixture
def opened(made, tmp_path):
    """Opens the plain adapter with other options, tensors and files."""

    def open_with(options=None, change=None, files=None, remove=()):
        base, plain, tensors = made
        folder = tmp_path / "adapter"
        folder.mkdir()
        if options is not None:
            (folder / "adapter_config.json").write_text(json.dumps({**plain, **options}))
        save_file(change(tensors) if change else tensors, folder / "adapter_model.safetensors")
        for name, content in (files or {}).items():
            if isinstance(content, bytes):
                (folder / name).write_bytes(content)
            else:
                save_file(content, folder / name)
        for name in remove:
            (folder / name).unlink()
        return experts_of(base, a=folder)

    return open_with


@pytest.mark.parametrize("kind", [kind.value for kind in PeftType if kind is not PeftType.LORA])
def test_every_other_kind_of_peft(opened, kind):
    way_out = "cannot be merged. Train a LoRA adapter" if kind in PROMPTS else "merge_and_unload"
    with pytest.raises(ConfigError, match=rf"expected a LoRA adapter.*found {kind}\W.*{way_out}"):
        opened({"peft_type": kind})


OPTIONS = {
    "no kind": ({"peft_type": None}, "found no peft_type"),
    "AdapterHub": (
        {"peft_type": None, "model_class": "BertModel", "version": "adapters.1.0"},
        "found one of AdapterHub",
    ),
    "no alpha": ({"lora_alpha": None}, "expected lora_alpha, found none, so the scale is unknown"),
    "alpha that is no number": ({"lora_alpha": "much"}, "lora_alpha as a finite number, found 'much'"),
    "alpha that is infinite": ({"lora_alpha": float("inf")}, "lora_alpha as a finite number, found inf"),
    "alpha of a pattern": ({"alpha_pattern": {"q_proj": "x"}}, "alpha_pattern.q_proj as a finite number, found 'x'"),
    "activated": (
        {"alora_invocation_tokens": [1]},
        "alora_invocation_tokens is set: activated LoRA .* cannot be merged",
    ),
    "replicated layers": ({"layer_replication": [[0, 2]]}, "layer_replication is set: .* as base_model"),
    "QALoRA": ({"use_qalora": True}, "use_qalora is set"),
    "chosen per token": ({"arrow_config": {"top_k": 2}}, "arrow_config is set: .* cannot be merged"),
    "KaSA": ({"kasa_config": {"beta": 1}}, "kasa_config is set: .*merge_and_unload"),
    "mlx without a scale": ({"fine_tune_type": "lora", "lora_parameters": {"rank": 8}}, "lora_parameters.scale, found"),
    "mlx, all weights": ({"fine_tune_type": "full", "lora_parameters": None}, "fine_tune_type 'full'.*mlx_lm.fuse"),
    "a pattern that is none": ({"alpha_pattern": {"(": 3}}, r"keys as regular expressions, found '\('"),
    "a class as text": ({"auto_mapping": "BertModel"}, "auto_mapping as a mapping, found 'BertModel'"),
    "a base that is a number": ({"base_model_name_or_path": 3}, "base_model_name_or_path as a text, found 3"),
    "false as text": ({"use_dora": "false"}, "use_dora as true or false, found 'false'"),
    "parameters as text": ({"target_parameters": "w"}, "target_parameters as a list, found 'w'"),
    "token rows as text": ({"trainable_token_indices": "ab"}, "trainable_token_indices as lists of indices from 0"),
    "token rows from the end": (
        {"trainable_token_indices": {"lm_head": [-1]}},
        r"indices from 0, found \[-1\]",
    ),
    "DoRA without magnitudes": ({"use_dora": True}, "no magnitude beside it"),
    **{
        f"start {start}": ({"init_lora_weights": start}, f"init_lora_weights is '{start}'.*path_initial_model")
        for start in ("pissa", "pissa_niter_4", "olora", "corda", "eva", "loftq", "lora_ga")
    },
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_options_under_which_the_factors_mean_something_else(opened, kind):
    options, words = OPTIONS[kind]
    with pytest.raises((ConfigError, IncompatibleExpertsError), match=words):
        opened(options)


ATTENTION = "base_model.model.model.layers.0.self_attn"
TENSORS = {
    "no partner": (
        lambda t: {k: v for k, v in t.items() if "lora_B" not in k or "layers.0" not in k},
        "has no partner",
    ),
    "magnitude alone": (
        lambda t: {**t, f"{ATTENTION}.k_proj.lora_magnitude_vector": torch.ones(16)},
        "k_proj.lora_magnitude_vector has no factors",
    ),
    "no place": (
        lambda t: {
            **t,
            "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight": torch.ones(4, 4),
            "base_model.model.model.layers.9.self_attn.q_proj.lora_B.weight": torch.ones(4, 4),
        },
        "layers.9.* has no place in LlamaForCausalLM. Give the base",
    ),
    "unknown tensor": (lambda t: {**t, f"{ATTENTION}.strange": torch.ones(2)}, "strange has no place"),
    "wrong shape of A": (
        lambda t: {k: v[:, :3].contiguous() if "lora_A" in k else v for k, v in t.items()},
        r"has the shape \(4, 3\) .*expected factors of model.layers.0.self_attn.q_proj.weight \(16, 16\)",
    ),
    "wrong shape of B": (
        lambda t: {k: v[:5].contiguous() if "lora_B" in k else v for k, v in t.items()},
        r"its partner .* \(5, 4\), expected factors",
    ),
    "ranks that differ": (
        lambda t: {k: v[:2].contiguous() if "lora_A" in k else v for k, v in t.items()},
        r"has the shape \(2, 16\)",
    ),
    "rank 0": (
        lambda t: {k: v[:0] if "lora_A" in k else v[:, :0].contiguous() for k, v in t.items()},
        "has the rank 0",
    ),
    "factors of no dimension": (lambda t: {k: torch.ones(()) for k in t}, "expected factors of"),
    "quantised factors": (
        lambda t: {k: (8 * v).to(torch.int8) for k, v in t.items()},
        "expected factors in floating point .* as torch.int8",
    ),
    "factors of 8 bits": (lambda t: {k: v.to(torch.float8_e4m3fn) for k, v in t.items()}, "as torch.float8_e4m3fn"),
    "no tensor": (lambda t: {}, "found a file without any"),
    "two in one place": (
        lambda t: {**t, f"{ATTENTION}.q_proj.lora_A.default.weight": torch.ones(4, 16)},
        "have the same place",
    ),
    "factors of an embedding": (
        lambda t: {
            **t,
            f"{ATTENTION}.k_proj.lora_embedding_A": torch.ones(4, 16),
            f"{ATTENTION}.k_proj.lora_embedding_B": torch.ones(16, 4),
        },
        "is a factor of an embedding, but .*k_proj is a Linear",
    ),
    "bias without a place": (
        lambda t: {**t, f"{ATTENTION}.q_proj.lora_B.bias": torch.ones(16)},
        "adds to model.layers.0.self_attn.q_proj.bias, which the base lacks",
    ),
    "the base's matrix": (
        lambda t: {**t, "base_model.model.model.embed_tokens.base_layer.weight": torch.ones(40, 16)},
        "is the base's model.embed_tokens.weight as it was in training, and differs",
    ),
    "more tokens": (
        lambda t: {**t, "base_model.model.model.embed_tokens.weight": torch.ones(43, 16)},
        r"has the shape \(43, 16\), expected \(40, 16\)",
    ),
    "token rows": (
        lambda t: {**t, "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": torch.ones(2, 16)},
        "has 2 rows, expected those of trainable_token_indices",
    ),
    "another tensor of a module": (
        lambda t: {**t, f"{ATTENTION}.q_proj.lora_C.weight": torch.ones(2)},
        r"lora_C.weight has no place .*q_proj is there, but .* no tensor of this name. Save the adapter alone",
    ),
    "a copy of what was replaced": (
        lambda t: {**t, "base_model.model.lm_head.original_module.weight": torch.ones(40, 16)},
        "is the base's lm_head.weight as it was in training, and differs from this base's",
    ),
    "two adapters": (
        lambda t: {k.replace(".weight", f".{name}.weight"): v.clone() for k, v in t.items() for name in ("a", "b")},
        r"expected the tensors of one adapter, found those of 2 \(a, b\).*selected_adapters",
    ),
    "factors and a whole matrix": (
        lambda t: {**t, f"{ATTENTION}.q_proj.modules_to_save.weight": torch.ones(16, 16)},
        "q_proj.weight is changed twice by the adapter",
    ),
    "a fused parameter": (
        lambda t: {
            **t,
            "base_model.model.model.layers.0.mlp.lora_A.weight": torch.ones(4, 16),
            "base_model.model.model.layers.0.mlp.lora_B.weight": torch.ones(16, 4),
        },
        r"does not fit a parameter of model.layers.0.mlp that target_parameters names \(none\)",
    ),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_that_do_not_fit(opened, kind):
    change, words = TENSORS[kind]
    with pytest.raises((ConfigError, IncompatibleExpertsError), match=words):
        opened({}, change)


ONLY = ("adapter_model.safetensors",)
KOHYA = {"lora_unet_down.lora_down.weight": torch.ones(2, 2), "lora_unet_down.alpha": torch.ones(())}
FILES = {
    "diffusers": (
        {"pytorch_lora_weights.safetensors": {"unet.lora.down.weight": torch.ones(2, 2)}},
        ONLY,
        "of diffusers",
    ),
    "diffusers under another name": (
        {"style.safetensors": {"unet.down_blocks.0.attn.to_q.lora_A.weight": torch.ones(2, 2)}},
        ONLY,
        "style.safetensors of diffusers",
    ),
    "Kohya under PEFT's name": ({"adapter_model.safetensors": KOHYA}, (), "adapter_model.safetensors in Kohya's"),
    "diffusers, pickled": (
        {"pytorch_lora_weights.bin": {"a": torch.ones(2)}},
        ONLY,
        "pytorch_lora_weights.bin of diffusers",
    ),
    "ComfyUI": (
        {"style.safetensors": {"diffusion_model.blocks.0.to_q.lora_A.weight": torch.ones(2, 2)}},
        ONLY,
        "style.safetensors of diffusers",
    ),
    "Kohya, of a transformer": (
        {"style.safetensors": {"lora_transformer_blocks_0.lora_A.weight": torch.ones(2, 2)}},
        ONLY,
        "style.safetensors in Kohya's format",
    ),
    "Kohya": ({"style.safetensors": KOHYA}, ONLY, "style.safetensors in Kohya's format"),
    "AdapterHub": ({"adapter.safetensors": {"a": torch.ones(2)}}, ONLY, "found one of AdapterHub"),
    "no options": ({}, (), "expected adapter_config.json beside the adapter's tensors"),
}


@pytest.mark.parametrize("kind", FILES)
def test_folders_of_other_programs(opened, kind):
    files, remove, words = FILES[kind]
    with pytest.raises(ConfigError, match=words):
        opened(None, files=files, remove=remove)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(LoraConfig)])
def test_every_option_of_peft_is_known(field):
    assert field in KNOWN


SAID = {
    "an option of the future": ({"use_something_new": True}, "options that are not known here: use_something_new"),
    "another rank": ({"r": 16}, "says rank 16 for model.layers.0.self_attn.q_proj, but its factors have rank 4"),
    "another rank by a pattern": ({"rank_pattern": {"v_proj": 2}}, "says rank 2 for .*v_proj, .* rank 4"),
}


@pytest.mark.parametrize("kind", SAID)
def test_options_that_do_not_fit_the_tensors_are_said(opened, kind):
    options, words = SAID[kind]
    assert any(re.search(words, note) for note in opened(options).notes)


def test_nothing_is_said_of_what_fits(opened):
    assert not any("not known here" in note or "says rank" in note for note in opened({}).notes)


def test_pickled_tensors_need_permission(opened):
    with pytest.raises(
        ConfigError, match=r"adapter_model.bin: expected safetensors, but the adapter is pickled.*allow_pickle"
    ):
        opened({}, files={"adapter_model.bin": b"x"}, remove=ONLY)


def test_no_tensors_at_all(opened):
    with pytest.raises(ConfigError, match=r"expected adapter_model.safetensors or adapters.safetensors, found neither"):
        opened({}, remove=ONLY)


def test_adapters_in_subfolders_are_named(made, tmp_path):
    (tmp_path / "all/news").mkdir(parents=True)
    (tmp_path / "all/news/adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"found adapters in subfolders \(news\). Give one of them: .*all/news"):
        experts_of(made[0], a=tmp_path / "all")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_a_base_that_can_be_no_folder_is_a_name(opened, name):
    assert any("names the base" in note for note in opened({"base_model_name_or_path": name}).notes)
