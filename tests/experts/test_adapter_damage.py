"""Damaged adapters in every layout: one error that names the adapter, whatever is missing, cut or of a wrong shape."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.adapters import BOTH, KINDS, TRANSFORMERS_4, experts_of, in_old_names, of_mlx, saved

from adamerge.types import ConfigError, IncompatibleExpertsError

LAYOUTS = {
    "embeddings": lambda folder: saved(folder, *KINDS["embeddings"]),
    "Conv1D": lambda folder: saved(folder, *KINDS["Conv1D"]),
    "bias of factors": lambda folder: saved(folder, *KINDS["bias of factors"]),
    "fused experts": lambda folder: saved(
        folder, "MixtralForCausalLM", {"target_modules": [], "target_parameters": BOTH}
    ),
    "experts one by one": lambda folder: in_old_names(folder, *TRANSFORMERS_4["experts, plain"]),
    "mlx": lambda folder: of_mlx(folder, "q_proj|embed_tokens"),
}
A, B = ("lora_A", "lora_a", "embedding_A"), ("lora_B.weight", "lora_b", "embedding_B")


def is_one(key, words):
    return any(word in key for word in words)


def without(tensors, words):
    key = next(key for key in tensors if is_one(key, words))
    return {name: tensor for name, tensor in tensors.items() if name != key}


def cut(tensors, words, dim):
    key = next(key for key in tensors if is_one(key, words))
    return {**tensors, key: tensors[key].narrow(dim, 0, tensors[key].shape[dim] - 1).contiguous()}


def emptied(tensors):
    """Factors of rank 0: PEFT's A is (0, in), mlx-lm's (in, 0)."""
    found = {}
    for key, tensor in tensors.items():
        dim = (0 if is_one(key, A) else 1) ^ ("lora_a" in key or "lora_b" in key)
        found[key] = tensor.narrow(dim, 0, 0).contiguous() if is_one(key, (*A, *B)) else tensor
    return found


DAMAGES = {
    "no A": lambda tensors: without(tensors, A),
    "no B": lambda tensors: without(tensors, B),
    "A with fewer rows": lambda tensors: cut(tensors, A, 0),
    "A with fewer columns": lambda tensors: cut(tensors, A, 1),
    "B with fewer rows": lambda tensors: cut(tensors, B, 0),
    "B with fewer columns": lambda tensors: cut(tensors, B, 1),
    "rank 0": emptied,
    "integers": lambda tensors: {key: tensor.to(torch.int32) for key, tensor in tensors.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_damage_is_refused_by_name(tmp_path, layout):
    base, adapter, _ = LAYOUTS[layout](tmp_path)
    file = next(adapter.glob("*.safetensors"))
    tensors = load_file(file)
    experts_of(base, a=adapter)
    for kind, damage in DAMAGES.items():
        save_file(damage(tensors), file)
        with pytest.raises((ConfigError, IncompatibleExpertsError)) as refused:
            experts_of(base, a=adapter)
        assert str(adapter) in str(refused.value), kind
    save_file(tensors, file)
    content = file.read_bytes()
    for size in (0, 4, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:size])
        with pytest.raises(IncompatibleExpertsError, match=file.name):
            experts_of(base, a=adapter)
