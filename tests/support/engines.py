"""What vLLM accepts of an adapter, from its documentation (api/vllm/lora/peft_helper, config/lora, lora_model)."""

import json
import re
from pathlib import Path

from safetensors import safe_open

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of --max-lora-rank."""

_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.(lora_[AB]\.weight|lora_embedding_[AB])")


def vllm_problems(folder: Path, linear: set[str]) -> list[str]:
    """List what vLLM would refuse or ignore of an adapter.

    Args:
        folder: The adapter.
        linear: Last words of the model's linear layers, which vLLM expects.
    """
    options = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    rank, alpha = options["r"], options["lora_alpha"]
    problems = [] if isinstance(rank, int) and isinstance(alpha, int) else ["r and lora_alpha are integers"]
    problems += [] if options["target_modules"] else ["target_modules is required"]
    problems += ["only modules_to_save: null is supported"] if options["modules_to_save"] else []
    problems += ["DoRA is not supported"] if options["use_dora"] else []
    problems += ["bias is not supported"] if options["bias"] != "none" else []
    problems += [f"{key} is not read" for key in ("rank_pattern", "alpha_pattern") if options[key]]
    problems += [f"rank {rank} is greater than {RANKS[-1]}"] if rank > RANKS[-1] else []
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        for key in file.keys():
            problems += _problems_of(key, file.get_slice(key).get_shape(), rank, linear)
    return problems


def _problems_of(key: str, shape: list[int], rank: int, linear: set[str]) -> list[str]:
    found = _NAME.fullmatch(key)
    if found is None:
        return [f"{key} is unsupported LoRA weight"]
    if found["module"].rpartition(".")[2] not in linear:
        return [f"{key}: not one of the expected modules"]
    own = shape[0] if "_A" in key else shape[1]
    return [] if own == rank else [f"{key} has the rank {own}, and the configuration {rank}"]
