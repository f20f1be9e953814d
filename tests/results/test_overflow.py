"""Numbers that the dtype on disk cannot hold are refused by the name of their tensor."""

import pytest
import torch
from support.families import build, save_family

from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.merging.grouping import tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.results.export import export
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
