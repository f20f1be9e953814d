"""Factors in combine, inner and export; notes on adapters; adapters over complete checkpoints."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.adapters import BERT, KINDS, LLAMA, TIED, experts_of, logits, model, moved, one_hot_logits, saved
from support.families import build

from adamerge.experts.adapter import open_expert
from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.experts.low_rank import Adapted
from adamerge.merging.factored_task_vectors import Factored
from adamerge.merging.grouping import row_blocks, task_wise, tensor_wise
from adamerge.merging.mapped_task_vectors import Mapped
from adamerge.merging.merged_model import task_vectors
from adamerge.storage.weights import InMemory
from adamerge.types import ConfigError, IncompatibleExpertsError


@pytest.mark.parametrize("over", ["base", "another centre"])
@pytest.mark.parametrize("grouping", [task_wise, tensor_wise, None])
def test_factors_combine_and_project_as_dense_task_vectors_do(tmp_path, grouping, over):
    """Adapters of several kinds and a full checkpoint in one pool, against the dense differences, in fp64."""
    base, first, _ = saved(tmp_path, LLAMA, KINDS["all linear"][1], 1)
    _, second, _ = saved(tmp_path, LLAMA, KINDS["patterns"][1], 2)
    _, third, _ = saved(tmp_path, LLAMA, KINDS["dora"][1], 3)
    full = build(*LLAMA[:2], 7, **LLAMA[2])
    full.save_pretrained(tmp_path / "full")
    experts = experts_of(base, a=first, b=second, c=third, d=tmp_path / "full")
    names = experts.shared
    centre = experts.base
    if over != "base":
        centre = InMemory({name: experts.base[name] + 0.01 * torch.randn(experts.base.shape(name)) for name in names})
    factored = Factored(experts.weights, names, centre, experts.base, torch.float64)
    dense_experts = {
        task: InMemory({name: weights[name].double() for name in names}) for task, weights in experts.weights.items()
    }
    dense = Mapped(dense_experts, names, centre, centre, torch.float64)
    groups = row_blocks(factored.shapes, 3) if grouping is None else grouping(names)
    coefficients = torch.randn(len(groups), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    merged, expected = factored.combine(coefficients, groups), dense.combine(coefficients, groups)
    gradients = {name: torch.randn(shape, dtype=torch.float64) for name, shape in factored.shapes.items()}
    for name in names:
        torch.testing.assert_close(merged[name], expected[name], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(factored.stack(name), dense.stack(name), rtol=1e-5, atol=1e-7)
        exact = factored.combine_exactly(name, coefficients, groups.rows[name])
        torch.testing.assert_close(exact, expected[name], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(factored.inner(gradients, groups), dense.inner(gradients, groups), rtol=1e-4, atol=1e-4)


def test_no_dense_change_exists_while_learning(tmp_path, monkeypatch):
    base, adapter, _ = saved(tmp_path, LLAMA, KINDS["all linear"][1])
    experts = experts_of(base, a=adapter)
    vectors = task_vectors(experts, experts.tasks["a"].weights.changed, resident=None, room=10**12)
    monkeypatch.setattr(Adapted, "__getitem__", lambda *_: pytest.fail("a dense tensor was read"))
    groups = tensor_wise(tuple(vectors.shapes))
    merged = vectors.combine(torch.full((len(groups), 1), 0.5), groups)
    vectors.inner(merged, groups)


def test_one_hot_and_zeros_are_exact(tmp_path):
    base, adapter, _ = saved(tmp_path, LLAMA, KINDS["patterns"][1])
    experts = experts_of(base, a=adapter)
    vectors = task_vectors(experts, experts.shared)
    groups = task_wise(experts.shared)
    for name in experts.shared:
        zero = vectors.combine_exactly(name, torch.zeros(1, 1), groups.rows[name])
        assert torch.equal(zero.float(), experts.base[name])
        one = vectors.combine_exactly(name, torch.ones(1, 1), groups.rows[name])
        torch.testing.assert_close(one.float(), experts.tasks["a"].weights[name], rtol=1e-6, atol=1e-7)


def test_an_adapter_is_no_base(tmp_path):
    _, adapter, _ = saved(tmp_path, LLAMA, KINDS["plain"][1])
    with pytest.raises(ConfigError, match=r"base must be complete"):
        open_checkpoint(str(adapter))


def test_alpha_patterns_that_contradict_each_other_are_said(tmp_path):
    base, adapter, _ = saved(tmp_path, LLAMA, KINDS["patterns"][1])
    assert any(
        "alpha_pattern" in note and "layers.1.mlp.down_proj" in note for note in experts_of(base, a=adapter).notes
    )


def over(folder, family=LLAMA, options=None):
    """A base, a complete checkpoint near it, an adapter over that, and the state dict of both together."""
    base, adapter, merged = saved(folder, family, options or KINDS["plain"][1])
    full = moved(model(family[0], family[1], **family[2]), 5)
    full.save_pretrained(folder / "full")
    before = open_checkpoint(str(base)).tensors
    state = full.state_dict()
    return base, adapter, {name: value + merged[name] - before[name] for name, value in state.items() if name in before}


def test_an_adapter_over_a_complete_checkpoint(tmp_path):
    base, adapter, expected = over(tmp_path)
    opened = open_checkpoint(str(base))
    place = {"model": str(tmp_path / "full"), "adapter": str(adapter)}
    expert = open_expert(place["model"], opened, adapter=place["adapter"])
    experts = from_checkpoints(opened, {"a": expert})
    for name, value in expected.items():
        torch.testing.assert_close(experts.tasks["a"].weights[name], value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        one_hot_logits(experts, "a"), logits(experts.tasks["a"].module, expected), rtol=1e-4, atol=1e-5
    )


def test_an_adapter_beside_a_checkpoint_is_added_to_it_as_transformers_does(tmp_path):
    base, adapter, expected = over(tmp_path)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(adapter / name, tmp_path / "full")
    experts = experts_of(base, a=tmp_path / "full")
    theirs = type(model(*LLAMA[:2], **LLAMA[2])).from_pretrained(tmp_path / "full").eval()
    ours = one_hot_logits(experts, "a")
    torch.testing.assert_close(ours, logits(experts.tasks["a"].module, expected), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(ours, theirs(input_ids=torch.tensor([[3, 9, 4, 7, 5]])).logits, rtol=1e-4, atol=1e-5)
    assert any("adapter_config.json is beside config.json" in note for note in experts.notes)


def test_weights_that_contain_the_adapter_beside_them_are_refused(tmp_path):
    base, adapter, expected = over(tmp_path)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(adapter / name, tmp_path / "full")
    save_file({n: t.contiguous() for n, t in expected.items()}, tmp_path / "full/model.safetensors", {"format": "pt"})
    with pytest.raises(
        IncompatibleExpertsError, match=r"they contain it already.*(0\.9|1\.).* times the adapter's change"
    ):
        experts_of(base, a=tmp_path / "full")


def test_a_configuration_alone_beside_an_adapter_makes_no_checkpoint_of_it(tmp_path):
    base, adapter, expected = saved(tmp_path, *KINDS["plain"])
    shutil.copy(base / "config.json", adapter)
    (adapter / "training_args.bin").write_bytes(b"")
    found = experts_of(base, a=adapter).tasks["a"].weights
    for name in found.headers:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)


def test_the_base_itself_may_be_named_as_the_model_below_an_adapter(tmp_path):
    base, adapter, _ = saved(tmp_path, *KINDS["plain"])
    opened = open_checkpoint(str(base))
    found = open_expert(str(base), opened, adapter=str(adapter)).tensors
    assert isinstance(found, Adapted)
    assert found.over_base


@pytest.mark.parametrize("grouping", [task_wise, tensor_wise])
def test_a_pool_of_adapters_over_several_checkpoints(tmp_path, grouping):
    """Combine, inner and export over the base, with one adapter over it and one over another checkpoint."""
    base, adapter, _ = over(tmp_path, options=KINDS["all linear"][1])
    opened = open_checkpoint(str(base))
    both = {"a": open_expert(str(adapter), opened)}
    both["b"] = open_expert(str(tmp_path / "full"), opened, adapter=str(adapter))
    experts = from_checkpoints(opened, both)
    names, vectors = experts.shared, task_vectors(experts, experts.shared, dtype=torch.float64)
    dense = {task: InMemory({n: weights[n].double() for n in names}) for task, weights in experts.weights.items()}
    expected = Mapped(dense, names, experts.base, experts.base, torch.float64)
    groups = grouping(names)
    coefficients = torch.randn(len(groups), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gradients = {name: torch.randn(shape, dtype=torch.float64) for name, shape in vectors.shapes.items()}
    one, other = vectors.combine(coefficients, groups), expected.combine(coefficients, groups)
    for name in names:
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(vectors.stack(name), expected.stack(name), rtol=1e-5, atol=1e-7)
        exact = vectors.combine_exactly(name, coefficients, groups.rows[name])
        torch.testing.assert_close(exact, other[name], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(
        vectors.inner(gradients, groups), expected.inner(gradients, groups), rtol=1e-4, atol=1e-4
    )


def test_what_an_adapter_holds_is_said(tmp_path):
    base, adapter, _ = saved(tmp_path, *KINDS["head"])
    said = experts_of(base, a=adapter).notes[0]
    for word in ("LoRA adapter, rank 4, scale 2", "changes 2 tensors (query)", "head classifier.", "key"):
        assert word in said


def test_a_head_that_was_not_saved_is_said(tmp_path):
    base, adapter, _ = saved(tmp_path, BERT, {"target_modules": ["query"]})
    assert any(
        "holds no head, though BertForSequenceClassification has one" in n for n in experts_of(base, a=adapter).notes
    )


COMPUTED = {"plain": 0, "bias": 0, "norms of their own": 0, "dora": 4, "token rows": 1, "module of its own": 0}


@pytest.mark.parametrize("kind", COMPUTED)
def test_what_is_computed_whole_while_learning_is_said(tmp_path, kind):
    base, adapter, _ = saved(tmp_path, *KINDS[kind])
    said = [note for note in experts_of(base, a=adapter).notes if "each is computed whole in every step" in note]
    count = COMPUTED[kind]
    assert [note for note in said if f": {count} of the tensors" in note] == said
    assert bool(said) == bool(count)


@pytest.mark.parametrize("sides", [1, 2])
def test_whole_embeddings_of_a_tied_model(tmp_path, sides):
    """Both sides must be in the file and agree: PEFT's model has two matrices where config.json has one."""
    base, adapter, _ = saved(tmp_path, TIED, KINDS["plain"][1])
    file = adapter / "adapter_model.safetensors"
    new = torch.randn(40, 16)
    names = ("base_model.model.model.embed_tokens.weight", "base_model.model.lm_head.weight")[:sides]
    save_file({**load_file(file), **{name: new.clone() for name in names}}, file)
    if sides == 1:
        with pytest.raises(IncompatibleExpertsError, match=r"is tied to lm_head.weight"):
            experts_of(base, a=adapter)
        return
    torch.testing.assert_close(experts_of(base, a=adapter).tasks["a"].weights["model.embed_tokens.weight"], new)


def test_an_adapter_of_a_folder_with_weights_is_read_alone(tmp_path):
    base, adapter, _ = over(tmp_path)
    moved(model(*LLAMA[:2], **LLAMA[2]), 9).save_pretrained(tmp_path / "both")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(adapter / name, tmp_path / "both")
    opened = open_checkpoint(str(base))
    found, alone = (
        open_expert(str(tmp_path / "full"), opened, adapter=str(one)) for one in (tmp_path / "both", adapter)
    )
    assert all(torch.equal(found.tensors[name], alone.tensors[name]) for name in alone.tensors.headers)
    assert any("complete weights beside the adapter are not read" in note for note in found.notes)
    assert not any("beside the adapter" in note for note in alone.notes)


@pytest.mark.parametrize(
    "wrapped",
    [
        {"base_model.model.": "base_model.model._orig_mod."},  # torch.compile before PEFT
        {"base_model.": "_orig_mod.base_model."},  # and after it
        {"base_model.": "module.base_model.", "layers.1.": "layers.1._checkpoint_wrapped_module."},
    ],
)
def test_words_of_wrappers_in_names_of_adapters_are_removed_and_said(wrapped, tmp_path):
    base, folder, _ = saved(tmp_path, LLAMA, KINDS["all linear"][1], 1)
    expected = experts_of(base, a=folder).weights["a"]
    tensors = load_file(folder / "adapter_model.safetensors")
    for part, word in wrapped.items():
        tensors = {key.replace(part, word, 1): value for key, value in tensors.items()}
    other = shutil.copytree(folder, tmp_path / "wrapped")
    save_file(tensors, other / "adapter_model.safetensors")
    found = experts_of(base, a=other)
    assert all(torch.equal(found.weights["a"][name], expected[name]) for name in found.shared)
    assert any("which a wrapper added; it is removed." in note for note in found.notes)
