"""Adapters that are refused: options, tensors and files, with words of the message; and the message in the document."""

import json
from pathlib import Path

import torch
from peft import PeftType
from safetensors.torch import load_file, save_file
from support.adapter_mismatches import refusal_of
from support.adapters import KINDS, experts_of, saved

PROMPTS = {
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE", "ADAPTION_PROMPT",
    "POLY", "XLORA",
}  # fmt: skip
"""Kinds that PEFT cannot merge: it has no layer of theirs with a method `merge`."""
OTHER_TYPES = [kind.value for kind in PeftType if kind is not PeftType.LORA]
"""PEFT's names of all other kinds."""

OPTIONS = {
    "no kind": ({"peft_type": None}, "found no peft_type"),
    "AdapterHub": (
        {"peft_type": None, "model_class": "BertModel", "version": "adapters.1.0"},
        "found one of AdapterHub",
    ),
    "AdapterHub, an old version": (
        {"peft_type": None, "type": "text_task", "hidden_size": 768, "config": {"LN_after": False}},
        "found one of AdapterHub",
    ),
    "no alpha": ({"lora_alpha": None}, "expected lora_alpha, found none, so the scale is unknown"),
    "rank 0 in the options": ({"r": 0}, "expected r as a rank from 1, found 0"),
    "rank 0 in a pattern": ({"rank_pattern": {"q_proj": 0}}, "expected rank_pattern.q_proj as a rank from 1, found 0"),
    "activated, without tokens": ({"alora_invocation_tokens": []}, "activated LoRA .* cannot be merged"),
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
    "mlx, an unknown scale": (
        {"lora_layers": 2, "use_dora": False, "lora_parameters": {"rank": 8, "alpha": 16, "scale": 10.0}},
        r"up to 0.14.0 multiplies by 20, from 0.14.3 on by 10.*write the scale of the training \(20 or 10\)",
    ),
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
        for start in ("pissa", "pissa_niter_4", "olora", "corda", "lora_ga")
    },
    **{
        f"start {start}": ({"init_lora_weights": start}, f"init_lora_weights is '{start}', {words}")
        for start, words in {
            "eva": "which leaves the base as it was in PEFT.*write true",
            "loftq": "which replaced the base by a quantised one.*give the complete model",
            "Other": "which is not known here.*path_initial_model.*write true",
        }.items()
    },
}

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
    "factors that are no numbers": (
        lambda t: {k: v / 0 if "layers.1.self_attn.q_proj.lora_B" in k else v for k, v in t.items()},
        "expected finite numbers.*in base_model.*1.self_attn.q_proj.lora_B.weight: the training diverged",
    ),
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
    **{
        f"Kohya, pickled as {ending}": ({f"style{ending}": KOHYA}, ONLY, rf"style\{ending} in Kohya's format")
        for ending in (".pt", ".pth", ".ckpt", ".bin")
    },
    "diffusers, pickled under another name": (
        {"style.pt": {"unet.down_blocks.0.attn.to_q.lora_A.weight": torch.ones(2, 2)}},
        ONLY,
        "style.pt of diffusers",
    ),
    "PEFT, pickled without options": (
        {"adapter.pt": {"base_model.model.a.lora_A.weight": torch.ones(2, 2)}},
        ONLY,
        "adapter.pt, pickled factors without adapter_config.json.*allow_pickle",
    ),
    "factors without options": (
        {"flux.safetensors": {"transformer.x_embedder.lora_A.weight": torch.ones(2, 2)}},
        ONLY,
        "flux.safetensors, factors without adapter_config.json.*name it adapter_model.safetensors.*image generator",
    ),
    "diffusers, of attention alone": (
        {"style.safetensors": {"mid_block.attn1.processor.to_q_lora.down.weight": torch.ones(2, 2)}},
        ONLY,
        "style.safetensors of diffusers",
    ),
    "LyCORIS": (
        {"style.safetensors": {"lycoris_blocks_0_attn.lokr_w1": torch.ones(2, 2)}},
        ONLY,
        "style.safetensors in Kohya's format",
    ),
    "AdapterHub, a fusion": ({"adapter_fusion_config.json": b"{}"}, ONLY, "found one of AdapterHub"),
    "pickled, and damaged": ({"lora.pt": b"PK"}, ONLY, "has lora.pt, pickled; .* If it is a LoRA of Kohya's scripts"),
    "AdapterHub": ({"adapter.safetensors": {"a": torch.ones(2)}}, ONLY, "found one of AdapterHub"),
    "no options": ({}, (), "expected adapter_config.json beside the adapter's tensors"),
}
CASES = {
    **{name: ({"options": options}, words) for name, (options, words) in OPTIONS.items()},
    **{name: ({"options": {}, "change": change}, words) for name, (change, words) in TENSORS.items()},
    **{name: ({"files": files, "remove": remove}, words) for name, (files, remove, words) in FILES.items()},
    "pickled tensors": (
        {"options": {}, "files": {"adapter_model.bin": b"x"}, "remove": ONLY},
        "adapter_model.bin: expected safetensors, but the adapter is pickled.*allow_pickle",
    ),
    "no tensors": (
        {"options": {}, "remove": ONLY},
        "expected adapter_model.safetensors or adapters.safetensors, found neither",
    ),
    "an old mlx-lm": (
        {"options": {"lora_parameters": {"scale": 1}}, "files": {"adapters.npz": b"x"}, "remove": ONLY},
        "adapters.npz: expected adapters.safetensors, .*save_safetensors",
    ),
}
"""What is opened instead of a plain adapter, and words of the message."""


class Plain:
    """One base and one plain adapter, opened with other options, tensors and files.

    Args:
        folder: Where the base is written.
    """

    def __init__(self, folder: Path) -> None:
        self.base, adapter, _ = saved(folder, *KINDS["plain"])
        self.options = json.loads((adapter / "adapter_config.json").read_text())
        self.tensors = load_file(adapter / "adapter_model.safetensors")

    def open(self, folder: Path, options=None, **given):
        """Open the plain adapter with what is given instead."""
        self.prepare(folder, options, **given)
        return experts_of(self.base, a=folder)

    def prepare(self, folder: Path, options=None, change=None, files=None, remove=()) -> None:
        """Write the plain adapter with what is given instead."""
        folder.mkdir()
        if options is not None:
            (folder / "adapter_config.json").write_text(json.dumps({**self.options, **options}))
        save_file(change(self.tensors) if change else self.tensors, folder / "adapter_model.safetensors")
        for name, content in (files or {}).items():
            if isinstance(content, bytes):
                (folder / name).write_bytes(content)
            elif Path(name).suffix == ".safetensors":
                save_file(content, folder / name)
            else:
                torch.save(content, folder / name)
        for name in remove:
            (folder / name).unlink()

    def refusal(self, folder: Path, **given) -> str:
        """Return the message; see `refusal_of`."""
        self.prepare(folder, **given)
        return refusal_of(self.base, folder)
