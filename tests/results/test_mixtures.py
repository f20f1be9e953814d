"""Mixtures of experts: read, merged and written through transformers' conversions."""

import pytest
import torch
import transformers
from safetensors.torch import load_file
from support.families import save_family
from support.mixtures import MIXTURES, mixture, near

from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.merging.grouping import row_blocks, tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.results.export import export


def opened(paths):
    checkpoints = {name: open_checkpoint(path) for name, path in paths.items()}
    return from_checkpoints(checkpoints.pop(""), checkpoints)


@pytest.mark.parametrize("architecture", MIXTURES)
def test_a_mixture_is_merged_as_its_loaded_models_would_be_and_written_as_transformers_writes_it(
    tmp_path, architecture
):
    base = mixture(architecture, 0)
    models = {"a": near(base, 1), "b": near(base, 2)}
    paths = save_family(tmp_path, base, models)
    loaded = {n: getattr(transformers, architecture).from_pretrained(path).state_dict() for n, path in paths.items()}
    experts = opened(paths)
    for name, value in loaded["a"].items():
        if name in experts.weights["a"]:
            assert torch.equal(experts.weights["a"][name], value), name
    assert set(experts.shared) == {name for name, _ in base.named_parameters()}
    vectors = task_vectors(experts, inspect_weights(experts).changed, resident=False)
    model = MergedModel(experts, vectors, tensor_wise(tuple(vectors.shapes)))
    exported = export(model, torch.full((len(model.grouping), 2), 0.3), tmp_path / "merged", shard_bytes=20_000)
    naive = {n: v + 0.3 * sum(loaded[task][n] - v for task in "ab") for n, v in loaded[""].items()}
    base.load_state_dict({**naive, **{n: b for n, b in base.named_buffers() if n in naive}})
    found, info = getattr(transformers, architecture).from_pretrained(exported.folder, output_loading_info=True)
    assert not any(info.values()), info
    ids = torch.randint(3, 40, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(found(ids).logits, base(ids).logits, rtol=1e-4, atol=1e-5)
    names = {name for file in exported.folder.glob("*.safetensors") for name in load_file(file)}
    assert names == load_file(tmp_path / "base/model.safetensors").keys()


@pytest.mark.parametrize("architecture", ["MixtralForCausalLM", "Qwen3MoeForCausalLM"])
def test_a_backbone_is_the_base_of_language_models(tmp_path, architecture):
    base = mixture(architecture, 0)
    paths = save_family(tmp_path, base.model, {"a": near(base, 1), "b": near(base, 2)})
    experts = opened(paths)
    assert set(experts.shared) == {name for name, _ in base.named_parameters()} - {"lm_head.weight"}
    assert experts.tasks["a"].head == ("lm_head.weight",)
    for name, value in base.model.named_parameters():
        assert torch.equal(experts.base[f"model.{name}"], value), name


@pytest.mark.parametrize("architecture", MIXTURES)
def test_rows_of_a_stack_are_whole_experts(tmp_path, architecture):
    base = mixture(architecture, 0)
    models = {"a": near(base, 1), "b": near(base, 2)}
    experts = opened(save_family(tmp_path, base, models))
    stacks = [name for name, parameter in base.named_parameters() if parameter.ndim == 3 and ".experts." in name]
    assert stacks
    vectors = task_vectors(experts, tuple(stacks), resident=False)
    grouping = row_blocks(vectors.shapes, 4)  # four experts
    coefficients = torch.rand(len(grouping), 2)
    merged = vectors.combine(coefficients, grouping)
    state, states = base.state_dict(), [model.state_dict() for model in models.values()]
    for name in stacks:
        assert len(grouping.rows[name]) == 4
        for number, row in enumerate(grouping.rows[name]):
            own = state[name][number]
            expected = own + sum(c * (s[name][number] - own) for c, s in zip(coefficients[row], states, strict=True))
            torch.testing.assert_close(merged[name][number], expected)
