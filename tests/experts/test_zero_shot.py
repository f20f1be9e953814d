"""Zero-shot heads: text features of the base in place of a classifier."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.families import build, save_family, save_tokenizer

from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.experts.summary import describe
from adamerge.experts.zero_shot import ZeroShot
from adamerge.merging.grouping import tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.results.export import export
from adamerge.types import IncompatibleExpertsError

WORDS = {"a": ZeroShot(["red", "blue", "old"], ["a {} book", "the {} film"]), "b": ZeroShot(["loud", "calm"])}


@pytest.fixture(params=["CLIPModel", "CLIPVisionModel"])
def opened(tmp_path, request):
    """Open a CLIP base and two experts: whole models, or vision towers alone."""
    base = build("CLIPModel", "clip", 0)
    experts = {}
    for seed, name in enumerate("ab", 1):
        expert = build("CLIPModel", "clip", seed)
        if request.param == "CLIPVisionModel":
            tower = build("CLIPVisionModel", "clip_vision", seed)
            tower.load_state_dict(expert.vision_model.state_dict(), strict=False)
            expert = tower
        experts[name] = expert
    paths = save_family(tmp_path, base, experts)
    save_tokenizer(tmp_path / "base")
    opened = {name: open_checkpoint(path) for name, path in paths.items()}
    return base, from_checkpoints(opened.pop(""), opened, None, WORDS), tmp_path


def test_logits_are_scaled_cosines_with_text_features(opened):
    base, experts, folder = opened
    model = MergedModel(experts, task_vectors(experts, inspect_weights(experts).changed), tensor_wise(experts.shared))
    pixels = torch.randn(4, 3, 16, 16)
    zero = {name: experts.base[name] for name in model.vectors.shapes}
    found = model.forward("a", zero, {"pixel_values": pixels}).logits

    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    rows = []
    with torch.no_grad():
        for name in WORDS["a"].classes:
            texts = [template.format(name) for template in WORDS["a"].templates]
            tokens = tokenizer(texts, return_tensors="pt", padding="max_length", truncation=True)
            features = base.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output
            rows.append((features / features.norm(dim=-1, keepdim=True)).mean(0))
        images = base.get_image_features(pixels).pooler_output
        expected = torch.cosine_similarity(images[:, None], torch.stack(rows)[None], dim=-1) * base.logit_scale.exp()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_text_tower_and_scale_are_kept_from_the_base(opened):
    _, experts, _ = opened
    assert "logit_scale" in experts.kept
    (kept,) = (line for line in describe(experts) if line.startswith("kept from the base: "))
    assert "logit_scale, text_model.* (36), text_projection.weight" in kept
    assert not experts.warnings
    assert not any(name.startswith("text_") for name in experts.shared)
    assert "vision_model.embeddings.patch_embedding.weight" in experts.shared
    assert all(expert.head == () for expert in experts.tasks.values())


def test_export_writes_one_clip_model(opened):
    base, experts, folder = opened
    vectors = task_vectors(experts, inspect_weights(experts).changed)
    model = MergedModel(experts, vectors, tensor_wise(tuple(vectors.shapes)))
    exported = export(model, torch.full((len(model.grouping), 2), 0.3), folder / "merged")
    loaded = type(base).from_pretrained(exported.checkpoints["a"])
    assert torch.equal(loaded.text_projection.weight, base.text_projection.weight)
    assert not torch.equal(loaded.vision_model.post_layernorm.weight, base.vision_model.post_layernorm.weight)


def test_a_base_without_text_is_rejected(tmp_path):
    paths = save_family(tmp_path, build("ViTModel", "vit", 0), {"a": build("ViTModel", "vit", 1)})
    opened = {name: open_checkpoint(path) for name, path in paths.items()}
    with pytest.raises(IncompatibleExpertsError, match="zero_shot needs a CLIP-like base"):
        from_checkpoints(opened.pop(""), opened, None, WORDS)


def test_a_base_with_a_missing_tensor_and_a_quantised_expert_are_rejected(tmp_path):
    paths = save_family(tmp_path, build("CLIPModel", "clip", 0), {"a": build("CLIPModel", "clip", 1)})
    save_tokenizer(tmp_path / "base")
    for place in ("a", "base"):
        tensors = load_file(tmp_path / place / "model.safetensors")
        name = "vision_model.post_layernorm.weight"
        tensors[name] = tensors[name].to(torch.int8)
        if place == "base":
            del tensors[name]
        save_file(tensors, tmp_path / place / "model.safetensors", {"format": "pt"})
        opened = {name: open_checkpoint(path) for name, path in paths.items()}
        words = {"a": "a: .* is quantised .torch.int8", "base": "base: the file has no tensor for vision_model"}
        with pytest.raises(IncompatibleExpertsError, match=words[place]):
            from_checkpoints(opened.pop(""), opened, None, WORDS)
