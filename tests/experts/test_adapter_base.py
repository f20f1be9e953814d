"""The base that an adapter names, in a folder or in the hub's cache, is compared with the one that it is applied to."""

import json
import shutil

import huggingface_hub.constants
import pytest
from safetensors.torch import load_file, save_file
from support.adapters import KINDS, LLAMA, experts_of, model, moved, saved

from adamerge.types import IncompatibleExpertsError


def named(adapter, base):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": str(base)}))


def test_the_base_that_an_adapter_names(tmp_path):
    """The same folder, or an equal copy, is passed over; a name alone is warned of; other weights are refused."""
    base, adapter, _ = saved(tmp_path, *KINDS["plain"])
    shutil.copytree(base, tmp_path / "copy")
    moved(model(*LLAMA[:2], **LLAMA[2]), 3).save_pretrained(tmp_path / "other")
    for same in (base, tmp_path / "copy"):
        named(adapter, same)
        assert not any("the adapter names" in n or "trained on" in n for n in experts_of(base, a=adapter).notes)
    named(adapter, "somebody/Llama")
    assert any("names the base somebody/Llama, this base is" in note for note in experts_of(base, a=adapter).notes)
    named(adapter, tmp_path / "other")
    with pytest.raises(IncompatibleExpertsError, match=r"other, expected .*has other numbers.*adapter: "):
        experts_of(base, a=adapter)


def test_a_base_that_differs_in_one_number_is_another_one(tmp_path):
    base, adapter, _ = saved(tmp_path, *KINDS["plain"])
    shutil.copytree(base, tmp_path / "other")
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"].view(-1)[13] += 0.01
    save_file(tensors, tmp_path / "other/model.safetensors", {"format": "pt"})
    named(adapter, tmp_path / "other")
    with pytest.raises(IncompatibleExpertsError, match=r"layers.1.mlp.up_proj.weight has other numbers there than"):
        experts_of(base, a=adapter)


QUANTISED = [
    *("unsloth/base-bnb-4bit", "TheBloke/base-GPTQ", "org/Base-AWQ", "mlx-community/base-8bit", "org/base-GPTQ-Int4"),
    *("mlx-community/base-6bit", "org/base-quantized.w4a16", "org/base-FP8-dynamic", "org/base-NVFP4", "org/base-EXL2"),
    *("org/base.Q4_K_M", "org/base-GGUF", "org/base-mxfp4", "org/base-w8a8"),
]


def test_a_quantised_base_is_said(tmp_path):
    base, adapter, _ = saved(tmp_path, *KINDS["plain"])
    for name in QUANTISED:
        named(adapter, name)
        said = [note for note in experts_of(base, a=adapter).notes if "trained on a quantised base" in note]
        assert ["full-precision" in note for note in said] == [True], name
    named(adapter, "org/base-instruct-q1-2b-v4")
    assert not any("trained on a quantised" in note for note in experts_of(base, a=adapter).notes)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Puts a folder into the cache of the hub under an id, at a commit that its main branch or none leads to."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(folder, commit, *, main=True):
        repository = tmp_path / "hub/models--org--llama"
        shutil.copytree(folder, repository / "snapshots" / commit)
        (repository / "refs").mkdir(exist_ok=True)
        if main:
            (repository / "refs/main").write_text(commit)

    return put


def said(base, adapter):
    return [note for note in experts_of(base, a=adapter).notes if "names the base" in note]


def test_a_base_in_the_cache_of_the_hub_is_compared(tmp_path, cache):
    base, adapter, _ = saved(tmp_path, *KINDS["plain"])
    named(adapter, "org/llama")
    assert said(base, adapter)  # nothing is known of it
    cache(base, "a" * 40)
    assert not said(base, adapter)
    moved(model(*LLAMA[:2], **LLAMA[2]), 3).save_pretrained(tmp_path / "other")
    cache(tmp_path / "other", "b" * 40)
    with pytest.raises(IncompatibleExpertsError, match=r"trained on org/llama, expected .*has other numbers"):
        experts_of(base, a=adapter)
    named(adapter, f"org/llama@{'a' * 40}")
    assert not said(base, adapter)


def test_the_revision_that_an_adapter_names_counts(tmp_path, cache):
    base, adapter, _ = saved(tmp_path, *KINDS["plain"])
    moved(model(*LLAMA[:2], **LLAMA[2]), 3).save_pretrained(tmp_path / "other")
    cache(tmp_path / "other", "b" * 40)
    cache(base, "a" * 40, main=False)
    named(adapter, "org/llama")
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "revision": "a" * 40}))
    assert not said(base, adapter)


def test_of_a_cached_configuration_alone_nothing_is_known(tmp_path, cache):
    base, adapter, _ = saved(tmp_path, *KINDS["plain"])
    (tmp_path / "part").mkdir()
    shutil.copy(base / "config.json", tmp_path / "part")
    cache(tmp_path / "part", "a" * 40)
    named(adapter, "org/llama")
    assert said(base, adapter)
