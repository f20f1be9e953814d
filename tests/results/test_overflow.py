"""Numbers that the dtype on disk cannot hold are refused by the name of their tensor."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from support.families import build, save_family

from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.merging.factor_algebra import Svd
from adamerge.merging.grouping import tensor_wise
from adamerge.merging.mapped_task_vectors import Mapped
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.merging.rounding import Rounding
from adamerge.results.adapter_export import round_factors
from adamerge.results.adapter_factors import LowRankChange
from adamerge.results.export import export
from adamerge.results.module_weights import Blend, blended
from adamerge.storage.weights import InMemory
from adamerge.types import ConfigError


@pytest.mark.parametrize("where", ["backbone", "head", "rest of the base"])
def test_numbers_that_overflow_are_refused_by_name_and_nothing_is_written(tmp_path, where):
    backbone = "BertForMaskedLM" if where == "rest of the base" else "BertModel"
    base = build(backbone, "bert", 0)
    models = {name: build("BertForSequenceClassification", "bert", seed) for seed, name in enumerate("ab", 1)}
    name, owner = {
        "backbone": ("pooler.dense.weight", models["a"].bert),
        "head": ("classifier.weight", models["b"]),
        "rest of the base": ("cls.predictions.bias", base),
    }[where]
    with torch.no_grad():
        owner.get_parameter(name).view(-1)[3] = 3e5
    paths = save_family(tmp_path, base, models)
    experts = from_checkpoints(open_checkpoint(paths.pop("")), {n: open_checkpoint(p) for n, p in paths.items()})
    vectors = task_vectors(experts, inspect_weights(experts).changed, resident=False)
    model = MergedModel(experts, vectors, tensor_wise(tuple(vectors.shapes)))
    halves = torch.full((len(model.grouping), 2), 0.5)
    with pytest.raises(ConfigError, match=rf"{name}: expected numbers of at most 65504, which float16 can hold"):
        export(model, halves, tmp_path / "merged", dtype=torch.float16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "base"]
    export(model, halves, tmp_path / "merged", dtype=torch.bfloat16)


def test_modules_and_factors_that_overflow_are_refused_too(tmp_path):
    """Of sentence-transformers modules, which are merged beside the transformer, and of an adapter's factors."""
    base, own = ({"linear.weight": torch.full((2, 2), value)} for value in (1.0, 3e5))
    for name, tensors in (("base", base), ("a", own)):
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
    weights = {name: InMemory({"w": torch.full((2, 2), value)}) for name, value in (("base", 0.0), ("a", 1.0))}
    experts = SimpleNamespace(base=weights["base"], tasks={}, models={})
    vectors = Mapped({"a": weights["a"]}, ("w",), weights["base"], weights["base"])
    model = MergedModel(experts, vectors, tensor_wise(("w",)), Rounding(heads=torch.float16))
    blend = Blend(tmp_path / "base/model.safetensors", {"a": tmp_path / "a/model.safetensors"})
    with pytest.raises(ConfigError, match=r"linear.weight: expected numbers of at most 65504"):
        blended("2_Dense/model.safetensors", blend, model, torch.ones(1, 1))
    svd = Svd(torch.full((1, 1), 1.0), torch.tensor([1e12]), torch.full((1, 1), 1.0))
    with pytest.raises(ConfigError, match=r"factor w left: expected numbers of at most 65504"):
        round_factors(model.rounding, "w", LowRankChange((svd,), 0.0))
