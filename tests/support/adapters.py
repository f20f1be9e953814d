"""Small adapters of every kind: made by PEFT, and by hand in layouts that PEFT does not write or reads wrong."""

import json
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from support.families import VISION, build
from support.mixtures import mixture
from support.renamed import model_of
from torch import nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from adamerge.experts.adapter import open_expert
from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.merging.grouping import task_wise
from adamerge.merging.merged_model import task_vectors

LLAMA = ("LlamaForCausalLM", "llama", {"tie_word_embeddings": False})
TIED = ("LlamaForCausalLM", "llama", {"tie_word_embeddings": True})
BERT = ("BertForSequenceClassification", "bert", {})
GPT2 = ("GPT2LMHeadModel", "gpt2", {})
IMAGES = ("ViTForImageClassification", "vit", {})
ROWS = {"vision_model.embeddings.position_embedding": [0, 3]}
POSITIONS = {"target_modules": ["q_proj"], "trainable_token_indices": ROWS}

KINDS = {
    "plain": (LLAMA, {"target_modules": ["q_proj", "v_proj"]}),
    "all linear": (LLAMA, {"target_modules": "all-linear"}),
    "targets by pattern": (LLAMA, {"target_modules": r".*layers\.1\..*(up|down)_proj"}),
    "layers by number": (LLAMA, {"target_modules": ["o_proj"], "layers_to_transform": [1]}),
    "rslora": (LLAMA, {"target_modules": ["q_proj"], "use_rslora": True}),
    "gaussian start": (LLAMA, {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"}),
    "orthogonal start": (LLAMA, {"target_modules": ["q_proj"], "init_lora_weights": "orthogonal"}),
    "patterns": (
        LLAMA,
        {
            "target_modules": ["q_proj", "down_proj"],
            "rank_pattern": {"down_proj": 2},
            "alpha_pattern": {"layers.1.mlp.down_proj": 32, "down_proj": 5},
        },
    ),
    "rslora with patterns": (
        LLAMA,
        {
            "target_modules": ["q_proj", "down_proj"],
            "rank_pattern": {"down_proj": 2},
            "alpha_pattern": {"q_proj": 32},
            "use_rslora": True,
        },
    ),
    "dora": (LLAMA, {"target_modules": ["q_proj", "down_proj"], "use_dora": True}),
    "dora with rslora": (LLAMA, {"target_modules": ["q_proj"], "use_dora": True, "use_rslora": True}),
    "dora of Conv1D": (GPT2, {"target_modules": ["c_attn"], "use_dora": True, "fan_in_fan_out": True}),
    "dora of embeddings": (LLAMA, {"target_modules": ["embed_tokens"], "use_dora": True}),
    "dora of a convolution": (IMAGES, {"target_modules": ["projection"], "use_dora": True}),
    "embeddings": (LLAMA, {"target_modules": ["embed_tokens", "lm_head"]}),
    "module of its own": (LLAMA, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "norms of their own": (LLAMA, {"target_modules": ["q_proj"], "modules_to_save": ["norm"]}),  # all that end so
    "token rows": (LLAMA, {"target_modules": ["q_proj"], "trainable_token_indices": [1, 5, 3]}),
    "token rows by name": (LLAMA, {"target_modules": ["q_proj"], "trainable_token_indices": {"lm_head": [7, 2]}}),
    "token rows of tied embeddings": (TIED, {"target_modules": ["q_proj"], "trainable_token_indices": [1, 5, 3]}),
    "rows of a class that names no input embeddings": (("CLIPForImageClassification", "clip", {}), POSITIONS),
    "bias": (BERT, {"target_modules": ["query"], "bias": "all"}),
    "bias of lora layers": (BERT, {"target_modules": ["query", "output.dense"], "bias": "lora_only"}),
    "bias of factors": (BERT, {"target_modules": ["query", "value"], "lora_bias": True}),
    "head": (BERT, {"target_modules": ["query"], "task_type": "SEQ_CLS"}),
    "head of two layers": (
        ("RobertaForSequenceClassification", "roberta", {}),
        {"target_modules": ["query"], "task_type": "SEQ_CLS"},
    ),
    "head beside the backbone": (
        ("DistilBertForSequenceClassification", "distilbert", {}),
        {"target_modules": ["q_lin"], "task_type": "SEQ_CLS"},
    ),
    "score": (("LlamaForSequenceClassification", "llama", {}), {"target_modules": ["q_proj"], "task_type": "SEQ_CLS"}),
    "encoder and decoder": (("T5ForConditionalGeneration", "t5", {}), {"target_modules": ["q", "v", "wo"]}),
    "Conv1D": (GPT2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "Conv1D and Linear": (
        ("GPT2LMHeadModel", "gpt2", {"tie_word_embeddings": False}),
        {"target_modules": ["c_proj", "lm_head"], "fan_in_fan_out": True},
    ),
    "convolution": (IMAGES, {"target_modules": ["projection", "q_proj"]}),
    "MultiheadAttention": (("SiglipVisionModel", "", {}), {"target_modules": ["attention", "q_proj"]}),
    "bias of a trained head": (BERT, {"target_modules": ["query"], "bias": "all", "task_type": "SEQ_CLS"}),
    "tied embeddings, saved whole": (
        TIED,
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "a router": ("Qwen3MoeForCausalLM", {"target_modules": ["q_proj"], "target_parameters": ["mlp.gate.weight"]}),
    "a tower": (("CLIPModel", "clip", {}), {"target_modules": ["q_proj", "fc1"]}),
}
"""Family and options of PEFT."""

BOTH = ["experts.gate_up_proj", "experts.down_proj"]
FUSED = {
    "both parameters": ("MixtralForCausalLM", {"target_parameters": BOTH}),
    "both, in the other order": ("MixtralForCausalLM", {"target_parameters": BOTH[::-1]}),
    "the second alone": ("MixtralForCausalLM", {"target_parameters": BOTH[1:]}),
    "the first alone": ("Qwen3MoeForCausalLM", {"target_parameters": BOTH[:1]}),
    "of one layer": ("Qwen3MoeForCausalLM", {"target_parameters": ["layers.1.mlp.experts.down_proj", BOTH[0]]}),
    "transposed": ("GptOssForCausalLM", {"target_parameters": BOTH}),
    "with rslora and patterns": (
        "MixtralForCausalLM",
        {
            "target_parameters": BOTH,
            "use_rslora": True,
            "alpha_pattern": {"experts.down_proj": 32},
            "rank_pattern": {"experts.gate_up_proj": 3},
        },
    ),
    "beside attention": ("Qwen3MoeForCausalLM", {"target_parameters": BOTH, "target_modules": ["q_proj"]}),
}
"""Class and options of adapters over the fused experts of a mixture."""

TRANSFORMERS_4 = {
    "ViT": ("ViTForImageClassification", "query|value", {}),
    "DeiT": ("DeiTForImageClassification", "query|value", {}),
    "DINOv2": ("Dinov2ForImageClassification", "query|value", {}),
    "BEiT": ("BeitForImageClassification", "query|value", {}),
    "LLaVA": ("LlavaForConditionalGeneration", "q_proj|v_proj", {}),
    "PaliGemma": ("PaliGemmaForConditionalGeneration", "q_proj|v_proj", {}),
    "Qwen-VL": ("Qwen2VLForConditionalGeneration", r"q_proj|v_proj|attn\.qkv", {}),
    "experts, plain": ("MixtralForCausalLM", r"experts\.", {}),
    "experts, rslora": ("MixtralForCausalLM", r"experts\.", {"use_rslora": True}),
    "experts, patterns": ("MixtralForCausalLM", r"experts\.", {"alpha_pattern": {"w2": 9, r"experts\.1\.w3": 1}}),
    "experts, w1 alone": ("MixtralForCausalLM", r"experts\.[03]\.w1", {}),
    "experts and shared expert": ("Qwen2MoeForCausalLM", r"experts\.|shared_expert\.|mlp\.gate", {"use_rslora": True}),
    "experts and dense layers": ("DeepseekV3ForCausalLM", r"mlp\.", {"use_rslora": True}),
    "experts of another family": ("OlmoeForCausalLM", r"experts\.|q_proj", {}),
}
"""Class, targets and options of adapters whose module paths are those of transformers 4, which are those of files."""


def model(name: str, family: str = "", seed: int = 0, **more: object) -> transformers.PreTrainedModel:
    """A tiny model of one of the classes above."""
    if family:
        return build(name, family, seed, **more)
    if name.endswith(("MoeForCausalLM", "MixtralForCausalLM", "OssForCausalLM", "V3ForCausalLM", "OlmoeForCausalLM")):
        return mixture(name, seed)
    if name.endswith(("ImageClassification", "VisionModel")):
        torch.manual_seed(seed)
        cls = getattr(transformers, name)
        return cls(cls.config_class(**VISION)).eval()
    return model_of(name, seed)


def trained(model: nn.Module, options: Mapping[str, object], seed: int = 1) -> PeftModel:
    """A PEFT model whose every trainable number was moved."""
    peft = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 8, **options}))
    generator = torch.Generator().manual_seed(seed)
    for parameter in peft.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return peft


def saved(folder: Path, family, options, seed: int = 1):
    """A base and an adapter in folders, and the weights after PEFT's own merge."""
    name, kind, more = family if not isinstance(family, str) else (family, "", {})
    base = model(name, kind, **more)
    base.save_pretrained(folder / "base")
    adapter = folder / f"adapter{seed}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's advice on embeddings, ties and biases of factors
        trained(base, options, seed).save_pretrained(adapter)
        reloaded = PeftModel.from_pretrained(model(name, kind, **more), adapter)
        return folder / "base", adapter, reloaded.merge_and_unload().eval().state_dict()


def in_old_names(folder: Path, name: str, targets: str, options: Mapping[str, object]):
    """A base and an adapter with the module paths of transformers 4; and the weights of the base's edited file."""
    base, adapter, truth = folder / "base", folder / "adapter", folder / "truth"
    model(name).save_pretrained(base)
    file, generator, tensors = load_file(base / "model.safetensors"), torch.Generator().manual_seed(1), {}
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, **options}
    for key in sorted(name for name in file if name.endswith(".weight") and re.search(targets, name)):
        if file[key].ndim == 2:
            module, (rows, columns) = key.removesuffix(".weight"), file[key].shape
            a, b = (torch.randn(size, generator=generator) * 0.3 for size in ((2, columns), (rows, 2)))
            patterns = config.get("alpha_pattern", {})
            alpha = next((v for k, v in patterns.items() if re.match(rf"(.*\.)?({k})$", module)), 3)
            file[key] += (alpha / 2**0.5 if "use_rslora" in config else alpha / 2) * b @ a
            tensors |= {f"base_model.model.{module}.lora_{x}.weight": t for x, t in (("A", a), ("B", b))}
    adapter.mkdir()
    save_file(tensors, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    shutil.copytree(base, truth)
    save_file(file, truth / "model.safetensors", {"format": "pt"})
    return base, adapter, getattr(transformers, name).from_pretrained(truth).eval().state_dict()


def of_mlx(folder: Path, targets: str, family=LLAMA, *, dora: bool = False, backbone: str = ""):
    """A base and an adapter as mlx-lm writes it (Conv1D transposed), and the weights as its `fuse` computes them."""
    base, tensors, scale = model(*family[:2], **family[2]), {}, 20.0
    base.save_pretrained(folder / "base")
    expected = base.state_dict()
    generator = torch.Generator().manual_seed(0)
    for path, module in base.named_modules():
        if path.rpartition(".")[2] in targets.split("|"):
            embedding, turned = isinstance(module, nn.Embedding), isinstance(module, Conv1D)
            held = module.weight.detach().T if turned else module.weight.detach()
            rows = len(held)
            inputs, outputs = held.shape if embedding else held.T.shape
            a, b = (0.05 * torch.randn(size, generator=generator) for size in ((inputs, 3), (3, outputs)))
            changed = held + scale * (a @ b if embedding else (a @ b).T)
            name = f"{backbone}.{path.partition('.')[2]}" if backbone else path
            tensors |= {f"{name}.lora_a": a, f"{name}.lora_b": b}
            if dora:
                tensors[f"{name}.m"] = torch.rand(rows, generator=generator) + 0.5
                changed = changed * (tensors[f"{name}.m"] / changed.norm(dim=1))[:, None]
            expected[f"{path}.weight"] = changed.T if turned else changed
            if family[2].get("tie_word_embeddings"):
                expected["lm_head.weight"] = changed
    adapter = folder / "adapter"
    adapter.mkdir()
    save_file(tensors, adapter / "adapters.safetensors")
    options = {"fine_tune_type": "dora" if dora else "lora", "num_layers": 2, "model": "mlx-community/tiny-4bit"}
    options["lora_parameters"] = {"rank": 3, "dropout": 0.0, "scale": scale}
    (adapter / "adapter_config.json").write_text(json.dumps(options))
    return folder / "base", adapter, expected


def of_mlx_mixture(folder: Path, name: str, words: Mapping[str, str], flat: bool):
    """A mixture and factors of all its experts, stacked as mlx-lm does; and the weights as its `fuse` computes them."""
    base, truth, tensors = folder / "base", folder / "truth", {}
    model(name).save_pretrained(base)
    file, generator = load_file(base / "model.safetensors"), torch.Generator().manual_seed(3)
    for theirs, ours in words.items():
        for first in [key for key in file if key.endswith(f".experts.0.{ours}.weight")]:
            names = [first.replace("experts.0", f"experts.{e}") for e in range(16)]
            names = [one for one in names if one in file]
            rows, columns = file[first].shape
            a = torch.randn(len(names), 2, columns, generator=generator) * 0.1
            b = torch.randn(len(names), rows, 2, generator=generator) * 0.1
            for one, change in zip(names, 5.0 * b @ a, strict=True):
                file[one] += change
            path = f"{first.partition('.experts.')[0]}.switch_mlp.{theirs}"
            tensors |= {f"{path}.lora_a": a.flatten(0, 1) if flat else a, f"{path}.lora_b": b}
    shutil.copytree(base, truth)
    save_file(file, truth / "model.safetensors", {"format": "pt"})
    adapter = folder / "adapter"
    adapter.mkdir()
    save_file(tensors, adapter / "adapters.safetensors")
    options = {"num_layers": 2, "model": "tiny", "lora_parameters": {"rank": 2, "dropout": 0.0, "scale": 5.0}}
    (adapter / "adapter_config.json").write_text(json.dumps(options))
    return base, adapter, getattr(transformers, name).from_pretrained(truth).eval().state_dict()


def experts_of(base: Path, **adapters: Path):
    """Base and adapters, opened."""
    opened = open_checkpoint(str(base))
    return from_checkpoints(opened, {name: open_expert(str(place), opened) for name, place in adapters.items()})


def moved(base: nn.Module, seed: int) -> nn.Module:
    """A complete checkpoint a little away from the base."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return base


def inputs_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Something that the module reads."""
    ids = torch.tensor([[3, 9, 4, 7, 5]])
    kind = type(module).__name__
    if kind.endswith(("ImageClassification", "VisionModel")):
        return {"pixel_values": torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)}
    if kind == "CLIPModel":
        return {"input_ids": ids, "pixel_values": torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)}
    return {"input_ids": ids, **({"decoder_input_ids": ids} if kind.startswith("T5") else {})}


def one_hot_logits(experts, task: str) -> torch.Tensor:
    """The logits of the merge in which one expert has the coefficient 1 and all others 0."""
    vectors = task_vectors(experts, experts.shared)
    groups, k = task_wise(experts.shared), list(experts.tasks).index(task)
    coefficients = torch.zeros(1, len(experts.tasks))
    coefficients[0, k] = 1
    expert = experts.tasks[task]
    state = {name: expert.weights[name] for name in expert.weights.headers}
    state |= {n: vectors.combine_exactly(n, coefficients, groups.rows[n]).float() for n in experts.shared}
    return logits(expert.module, state)


@torch.no_grad()
def logits(module: nn.Module, state: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Logits on a few inputs."""
    out = functional_call(module, dict(state), (), inputs_of(module))
    return next(out[key] for key in ("logits", "logits_per_image", "pooler_output") if key in out)
