"""FeatCal against least squares on stacked features, block after block, by NumPy."""

import numpy as np
import pytest
import torch
from support.block_nets import TASKS, Net, filled, inputs, inside, model_of, nets, of_experts, rows_of

from adamerge.calibration.calibrated_merge import kept_merge
from adamerge.calibration.esm import Esm
from adamerge.calibration.feat_cal import FeatCal
from adamerge.storage.weights import InMemory
from adamerge.types import ConfigError

BASE = {name: value.detach() for name, value in Net(0).named_parameters()}


def task_arithmetic() -> dict[str, torch.Tensor]:
    return {name: value + 0.3 * sum(own - value for own in of_experts(name)) for name, value in BASE.items()}


def linear(name, settings, merged, xs, ts):
    """Weight, and bias if there is one, by the published order: first the weight, then the bias to it."""
    anchor = BASE[name] + settings.anchor * (merged[name] - BASE[name])
    sizes = [np.linalg.norm(x.T @ x / len(x)) for x in xs]
    tall = [x / np.sqrt(len(x) * size) for x, size in zip(xs, sizes, strict=True)]
    left = sum(x.T @ x for x in tall) + settings.ridge * np.eye(xs[0].shape[1])
    right = settings.ridge * anchor.numpy().T
    for x, t, weight, size in zip(xs, ts, of_experts(name), sizes, strict=True):
        right = right + x.T @ (t @ weight.numpy().T) / len(x) / size
    weight = np.linalg.solve(left, right).T
    found = {name: torch.tensor(weight)}
    bias = name.replace("weight", "bias")
    if bias in BASE:
        anchor = BASE[bias] + settings.anchor * (merged[bias] - BASE[bias])
        asked, total = settings.ridge * anchor.numpy(), settings.ridge
        for x, t, own, shift, size in zip(xs, ts, of_experts(name), of_experts(bias), sizes, strict=True):
            asked = asked + (t @ own.numpy().T + shift.numpy() - x @ weight.T).mean(0) / size
            total += 1 / size
        found[bias] = torch.tensor(asked / total)
    return found


def norm(name, settings, merged, xs):
    """Least squares of each feature's weight and bias, stacked over experts and the anchor."""
    bias = name.replace("weight", "bias")
    weight, shift = np.empty(4), np.empty(4)
    zs = [(x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) for x in xs]
    for feature in range(4):
        tall, right = [], []
        for z, own, other in zip(zs, of_experts(name), of_experts(bias), strict=True):
            column = np.stack([z[:, feature], np.ones(len(z))], 1)
            tall.append(column / np.sqrt(len(z)))
            right.append(column @ [own[feature].item(), other[feature].item()] / np.sqrt(len(z)))
        for key, row in ((name, [1.0, 0.0]), (bias, [0.0, 1.0])):
            anchor = BASE[key] + settings.anchor * (merged[key] - BASE[key])
            tall.append(np.sqrt(settings.ridge) * np.array([row]))
            right.append(np.sqrt(settings.ridge) * np.array([anchor[feature].item()]))
        weight[feature], shift[feature] = np.linalg.lstsq(np.concatenate(tall), np.concatenate(right), rcond=None)[0]
    return {name: torch.tensor(weight), bias: torch.tensor(shift)}


@torch.no_grad()
def by_hand(settings, merged):
    experts = list(nets().values())

    def mixed(own, theirs):
        return [settings.teacher * t + (1 - settings.teacher) * x for x, t in zip(own, theirs, strict=True)]

    rows = [inputs(task).numpy() for task in TASKS]
    merged |= linear("embed.weight", settings, merged, rows, rows)
    own = [filled(merged).embed(inputs(task)) for task in TASKS]
    theirs = [net.embed(inputs(task)) for net, task in zip(experts, TASKS, strict=True)]
    for number in (0, 1):
        seen = [inside(filled(merged).layers[number], x) for x in own]
        wanted = [inside(net.layers[number], x) for net, x in zip(experts, theirs, strict=True)]
        found = norm(f"layers.{number}.norm.weight", settings, merged, [part["norm"].numpy() for part in seen])
        for layer in ("up", "down"):
            xs, ts = ([part[layer].numpy() for part in parts] for parts in (seen, wanted))
            found |= linear(f"layers.{number}.{layer}.weight", settings, merged, xs, mixed(xs, ts))
        merged |= found
        own = [filled(merged).layers[number](x) for x in own]
        theirs = [net.layers[number](x) for net, x in zip(experts, theirs, strict=True)]
    xs, ts = ([x.numpy() for x in states] for states in (own, theirs))
    return merged | linear("out.weight", settings, merged, xs, mixed(xs, ts))


@pytest.mark.parametrize("blocks", [None, ()], ids=["in memory", "one block at a time"])
@pytest.mark.parametrize("settings", [FeatCal(), FeatCal(ridge=0.3, anchor=1.0, teacher=0.8)], ids=["default", "other"])
def test_it_is_its_definition(tmp_path, settings, blocks):
    found = kept_merge(model_of(blocks), rows_of(), settings, tmp_path / "centre.safetensors", 20)
    for name, expected in by_hand(settings, task_arithmetic()).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-8, err_msg=name)
    for name in ("unused.weight", "conv.weight"):
        torch.testing.assert_close(found[name], task_arithmetic()[name])


def test_it_refits_the_merge_that_it_is_given(tmp_path):
    average = {name: torch.stack(of_experts(name)).mean(0) for name in BASE}
    places = []

    def start(place):
        places.append(place)
        place.write_bytes(b"")
        return InMemory(average)

    settings = FeatCal(after=Esm())
    found = kept_merge(model_of(), rows_of(), settings, tmp_path / "centre.safetensors", 20, start=start)
    for name, expected in by_hand(settings, dict(average)).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-8, err_msg=name)
    assert len(places) == 1
    assert not places[0].exists()


@pytest.mark.parametrize("options", [{"rows": 0}, {"ridge": 0.0}, {"anchor": float("inf")}, {"teacher": 1.5}])
def test_bad_options_are_named(options):
    with pytest.raises(ConfigError, match=f"centre.{next(iter(options))}"):
        FeatCal(**options)
