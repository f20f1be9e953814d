"""Pools of state dicts alone: merged without a class, refused where rows would run through one."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from adamerge import ConfigError, Expert, IncompatibleExpertsError, Merge


def normalised(seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    return {name: tensor + 3 if "running" in name else tensor for name, tensor in net.state_dict().items()}


def alone(*names, rows=None):
    """State dicts of experts: all of their tensors, or those that are named."""
    states = {task: normalised(seed) for seed, task in enumerate(("one", "two"), start=1)}
    own = {task: {n: t for n, t in state.items() if not names or n in names} for task, state in states.items()}
    return own if rows is None else {task: Expert(state, calibration=rows) for task, state in own.items()}


@pytest.mark.parametrize("method", ["average", "ties", "wudi"])
@pytest.mark.filterwarnings("ignore:.*(another (base|checkpoint)|BatchNorm)")
def test_state_dicts_alone_are_merged_as_modules_are(method, tmp_path):
    base, experts = normalised(0), alone()
    result = Merge(base, experts, method=method).learn()
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    net.load_state_dict(base)
    expected = Merge(net, experts, method=method).learn().module("one").state_dict()
    places = result.export(tmp_path / "merged").checkpoints
    for found in (result.module("two").state_dict(), load_file(places["two"] / "model.safetensors")):
        assert found.keys() == base.keys()
        assert all(torch.equal(found[name], expected[name]) for name in base)
    with pytest.raises(ConfigError, match=r"expected a module to run on rows"):
        result.module("one")(torch.ones(1, 4))


@pytest.mark.filterwarnings("ignore:.*(another (base|checkpoint)|BatchNorm)")
def test_each_state_dict_keeps_a_head_of_its_own_shape(tmp_path):
    wide = {**normalised(2), "2.weight": torch.ones(5, 3), "2.bias": torch.ones(5)}
    experts = {"one": normalised(1), "wide": {f"module.{name}": tensor for name, tensor in wide.items()}}
    with pytest.warns(UserWarning, match=r"every name begins with module\., which a wrapper added"):
        result = Merge(normalised(0), experts, method="average", parameters={"head": ["2.*"]}).learn()
    places = result.export(tmp_path / "merged").checkpoints
    states = {task: load_file(place / "model.safetensors") for task, place in places.items()}
    assert {task: len(state["2.bias"]) for task, state in states.items()} == {"one": 2, "wide": 5}
    assert torch.equal(states["one"]["0.weight"], (normalised(1)["0.weight"] + wide["0.weight"]) / 2)


ALONE = {
    "rows": (alone(rows=torch.ones(4, 4)), {"method": "average"}, "one: expected a module to run on rows, found state"),
    "an objective": (alone(), {"method": "adamerging"}, "Give the base or one expert as an nn.Module or a path, or"),
    "a tensor that one expert lacks": (
        {**alone(), "one": alone("0.weight")["one"]}, {"method": "average"}, "every expert to have the parameter",
    ),
    "a name that no module can have": (
        {"one": {"0.weight": torch.ones(3, 4), "0": torch.ones(1)}}, {"method": "average"}, "one: expected names of",
    ),
    "a backbone's prefix in the experts": (
        {"one": {f"bert.{n}": t for n, t in normalised(1).items()} | {"head.bias": torch.ones(2)}},
        {"method": "average"}, r"only the expert's have the prefix 'bert\.'\. .*\{'bert\.' \+ name: .* in base\.items",
    ),
    "a prefix in the base": (
        {"one": {n[2:]: t for n, t in normalised(1).items() if n[0] == "0"}}, {"method": "average"},
        r"only the base's have the prefix '0\.'\. .* in expert\.items",
    ),
    "no name of the base's": ({"one": {"a": torch.ones(1)}}, {"method": "average"}, "experts share, found none"),
}  # fmt: skip


@pytest.mark.parametrize("what", ALONE)
def test_what_state_dicts_alone_cannot_do_is_refused(what):
    experts, settings, words = ALONE[what]
    with pytest.raises((ConfigError, IncompatibleExpertsError), match=words):
        Merge(normalised(0), experts, **settings).learn()


@pytest.mark.filterwarnings("ignore:.*another (base|checkpoint)")
def test_what_only_the_base_of_state_dicts_has_is_said():
    with pytest.warns(UserWarning, match=r"base: 0\.bias, 1\.weight, 1\.bias and 5 more are in no expert"):
        found = Merge(normalised(0), alone("0.weight"), method="average").learn().module("one").state_dict()
    assert found.keys() == {"0.weight"}
