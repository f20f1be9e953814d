"""Damaged adapters in every layout: one error that names the adapter, whatever is missing, cut or of a wrong shape."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.adapters import (
    BERT,
    BOTH,
    KINDS,
    TIED,
    TRANSFORMERS_4,
    experts_of,
    in_old_names,
    of_mlx,
    of_mlx_mixture,
    saved,
)

from adamerge.cli import main
from adamerge.types import ConfigError, IncompatibleExpertsError

FUSED = {"target_modules": [], "target_parameters": BOTH}
LAYOUTS = {
    "embeddings": lambda folder: saved(folder, *KINDS["embeddings"]),
    "Conv1D": lambda folder: saved(folder, *KINDS["Conv1D"]),
    "bias of factors": lambda folder: saved(folder, *KINDS["bias of factors"]),
    "fused experts": lambda folder: saved(
        folder, "MixtralForCausalLM", {"target_modules": [], "target_parameters": BOTH}
    ),
    "experts one by one": lambda folder: in_old_names(folder, *TRANSFORMERS_4["experts, plain"]),
    "mlx": lambda folder: of_mlx(folder, "q_proj|embed_tokens"),
    "experts of mlx": lambda folder: of_mlx_mixture(folder, "MixtralForCausalLM", {"gate_proj": "w1"}, False),
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


def test_factors_of_a_head_that_the_base_lacks(tmp_path):
    """PEFT saves the factors alone, so what they were added to is unknown."""
    base, adapter, _ = saved(tmp_path, BERT, {"target_modules": ["query", "classifier"]})
    file = base / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if not k.startswith("classifier")}, file, {"format": "pt"})
    with pytest.raises(IncompatibleExpertsError, match=r"changes classifier.weight, which the base lacks.*merge the"):
        experts_of(base, a=adapter)


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_factors_on_one_side_of_tied_embeddings(tmp_path, target):
    base, adapter, _ = saved(tmp_path, TIED, {"target_modules": [target]})
    with pytest.raises(IncompatibleExpertsError, match=r"is tied to .* one side only.*tie_word_embeddings=False"):
        experts_of(base, a=adapter)


FILES = {
    "cut off": (
        lambda file: file.write_bytes(file.read_bytes()[:-9]),
        "adapter_model.safetensors: expected a complete",
    ),
    "no JSON": (
        lambda file: file.with_name("adapter_config.json").write_text("{"),
        "expected the options of an adapter",
    ),
    "a list": (lambda file: file.with_name("adapter_config.json").write_text("[]"), "expected a mapping of options"),
}


@pytest.mark.parametrize("kind", FILES)
def test_damaged_files_give_one_error_and_nothing_is_written(tmp_path, capfd, monkeypatch, kind):
    damage, words = FILES[kind]
    base, adapter, _ = saved(tmp_path, *KINDS["plain"])
    damage(adapter / "adapter_model.safetensors")
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    before = sorted(tmp_path.rglob("*"))
    models = json.dumps([{"model": str(adapter)}])
    assert main(["fit", "--base_model", str(base), "--models", models, "--method", "average", "--run_dir", "run"]) == 2
    error = capfd.readouterr().err
    assert words in error
    assert error.count(words) == 1
    assert sorted(tmp_path.rglob("*")) == before
