"""State dicts whose heads have other shapes than the base's module are merged, exported and read back."""

import pytest
import torch
from safetensors.torch import load_file
from support.families import build
from torch import nn
from transformers import AutoModelForSequenceClassification

from adamerge import Expert, Merge
from adamerge.experts.state_shapes import in_shapes_of
from adamerge.storage.weights import InMemory

KEPT = {"method": "average", "parameters": {"head": ["head.*"]}}
LAYERS = {
    "linear": lambda size: nn.Linear(4, size),
    "convolution": lambda size: nn.Conv1d(4, size, 1),
    "bilinear": lambda size: nn.Bilinear(4, 4, size),
    "matrix": lambda size: nn.ParameterDict({"weight": nn.Parameter(torch.randn(size, 4))}),
}


def net(seed, layer, size):
    torch.manual_seed(seed)
    return nn.ModuleDict({"body": nn.Linear(4, 4), "head": LAYERS[layer](size)})


@pytest.mark.filterwarnings("ignore:.*another (base|checkpoint)")
@pytest.mark.parametrize("layer", LAYERS)
def test_a_plain_module_takes_the_shapes_of_each_state_dict(tmp_path, layer):
    states = {
        "a": net(1, layer, 5).state_dict(),
        "b": net(2, layer, 3).state_dict(),
        "c": net(3, layer, 1).state_dict(),
    }
    result = Merge(net(0, layer, 3), [Expert(state, task=task) for task, state in states.items()], **KEPT).learn()
    exported = result.export(tmp_path / "merged")
    mean = sum(state["body.weight"].double() for state in states.values()) / 3
    for task, state in states.items():
        found = load_file(exported.checkpoints[task] / "model.safetensors")
        assert all(torch.equal(found[name], state[name]) for name in state if name.startswith("head"))
        torch.testing.assert_close(found["body.weight"].double(), mean, rtol=0, atol=1e-7)
    module = result.module("a")
    if layer == "linear":
        assert module["head"](torch.ones(2, 4)).shape == (2, module["head"].out_features) == (2, 5)


@pytest.mark.filterwarnings("ignore:.*another (base|checkpoint)")
def test_a_classifier_of_transformers_gets_as_many_labels(tmp_path):
    base = build("BertForSequenceClassification", "bert", 0, num_labels=2)
    experts = [
        Expert(build("BertForSequenceClassification", "bert", n, num_labels=n).state_dict(), task=f"t{n}")
        for n in (3, 4)
    ]
    exported = Merge(base, experts, method="average").learn().export(tmp_path / "merged")
    for n in (3, 4):
        module = AutoModelForSequenceClassification.from_pretrained(exported.checkpoints[f"t{n}"])
        assert module.config.num_labels == n
        assert torch.equal(module.classifier.weight, experts[n - 3].model["classifier.weight"])


def test_tied_parameters_stay_tied():
    with torch.device("meta"):
        module = nn.ModuleDict({"a": nn.Linear(4, 4, bias=False), "b": nn.Linear(4, 4, bias=False)})
    module["b"].weight = module["a"].weight
    found = in_shapes_of(module, InMemory({"a.weight": torch.zeros(6, 4)}), ["a.weight"])
    assert found["b"].weight is found["a"].weight
    assert found["b"].weight.shape == (6, 4)
    assert found["b"].out_features == 6
