"""Adapters of a pool: one module for all of a class, tied embeddings beside untied ones, folders on the hub."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.adapters import KINDS, LLAMA, TIED, experts_of, logits, model, moved, one_hot_logits, saved

from adamerge.experts import checkpoint
from adamerge.experts.adapter import open_expert
from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.low_rank import Adapted
from adamerge.types import ConfigError


def test_adapters_of_one_class_share_their_module(tmp_path):
    """Without sharing, a pool of many adapters would take a module's memory for each."""
    base, first, _ = saved(tmp_path, *KINDS["plain"])
    _, second, _ = saved(tmp_path, *KINDS["plain"], 2)
    experts = experts_of(base, a=first, b=second)
    assert experts.tasks["a"].module is experts.tasks["b"].module
    base, first, _ = saved(tmp_path / "heads", *KINDS["head"])
    other = tmp_path / "other"
    shutil.copytree(first, other)
    tensors = load_file(first / "adapter_model.safetensors")
    more = {key: torch.cat([t, t])[:5] for key, t in tensors.items() if "classifier" in key}
    more["base_model.model.classifier.original_module.weight"] = torch.randn(4, 16)  # random where training began
    save_file({**tensors, **more}, other / "adapter_model.safetensors")
    experts = experts_of(base, a=first, b=other)
    for task, labels in (("a", experts.base.shape("classifier.weight")[0]), ("b", 4)):
        assert one_hot_logits(experts, task).shape[-1] == labels


@pytest.mark.parametrize("kind", ["plain", "all linear", "token rows"])
def test_an_adapter_of_tied_embeddings_beside_an_untied_checkpoint(tmp_path, kind):
    """The adapter's model has one matrix where the pool has two: both get what it learned."""
    base, adapter, expected = saved(tmp_path, TIED, KINDS[kind][1])
    full = moved(model(*LLAMA[:2], **LLAMA[2]), 5)
    full.save_pretrained(tmp_path / "full")
    experts = experts_of(base, a=adapter, b=tmp_path / "full")
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= set(experts.shared)
    weights = experts.tasks["a"].weights
    assert torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])
    for task, state in (("a", expected), ("b", full.state_dict())):
        module = experts.tasks[task].module
        torch.testing.assert_close(one_hot_logits(experts, task), logits(module, state), rtol=1e-5, atol=1e-5)


def test_folders_of_a_repository_on_the_hub(tmp_path, monkeypatch):
    """An adapter, or a checkpoint below one, may be in a folder of its repository; a revision stands at the end."""
    base, adapter, _ = saved(tmp_path, *KINDS["plain"])
    shutil.copytree(adapter, tmp_path / "hub/news/final")
    asked = []

    def download(name, revision, allow_patterns):
        asked.append((name, revision, all(pattern.startswith("news/") for pattern in allow_patterns)))
        return str(tmp_path / "hub")

    monkeypatch.setattr(checkpoint, "snapshot_download", download)
    opened = open_checkpoint(str(base))
    assert isinstance(open_expert("org/adapters/news/final@v2", opened).tensors, Adapted)
    assert asked == [("org/adapters", "v2", True)]
    with pytest.raises(ConfigError, match=r"Give one of them: org/adapters/news/final@v2"):
        open_expert("org/adapters/news@v2", opened)
    with pytest.raises(ConfigError, match=r"org/adapters on the Hugging Face hub has no folder other"):
        open_expert("org/adapters/other", opened)
    with pytest.raises(ConfigError, match=r"there is no such folder"):
        open_expert("org/adapters/../other", opened)
