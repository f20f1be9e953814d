"""Whatever a module's attributes hold, every forward pass is the first; what no pass can restore is found."""

import copy
import random
from collections import defaultdict, deque
from functools import partial
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from adamerge.calibration.probe import Model, settle
from adamerge.data.rows import TensorRows
from adamerge.experts.stateless import Stateless


class Slots:
    """An object without a dictionary of attributes."""

    __slots__ = ("number", "tensor")

    def __init__(self):
        self.number, self.tensor = 0, torch.zeros(())


class Smooths:
    """A helper that is called as a function, and remembers."""

    def __init__(self):
        self.mean, self.past = torch.zeros(()), {"seen": []}

    def __call__(self):
        self.mean = 0.9 * self.mean + 1
        self.past["seen"].append(1)
        return self.mean + len(self.past["seen"])


def grown(found):
    found.append(1)
    return len(found)


def written(tensor):
    tensor.data.add_(1)
    return tensor.clone()


def through_numpy(array):
    array += 1
    return float(array.sum())


def counted(one, name="number"):
    setattr(one, name, getattr(one, name) + 1)
    return getattr(one, name)


MEMORIES = {  # what an attribute holds, and what a pass makes of it
    "list in a dict": (lambda: {"past": []}, lambda own: grown(own["past"])),
    "list of a new key": (lambda: defaultdict(list), lambda own: grown(own["past"])),
    "tensor in a list": (lambda: [torch.zeros(())], lambda own: own[0].add_(1).clone()),
    "tensor in a tuple": (lambda: (torch.zeros(()),), lambda own: own[0].add_(1).clone()),
    "tensor in a dict of dicts": (lambda: {"a": {"b": torch.zeros(())}}, lambda own: own["a"]["b"].add_(1).clone()),
    "a tensor's data": (lambda: torch.zeros(()), written),
    "a tensor through numpy": (lambda: torch.zeros(2), lambda own: through_numpy(own.numpy())),
    "deque": (lambda: deque([1], maxlen=9), grown),
    "bytes": (bytearray, grown),
    "array": (lambda: np.zeros(2), through_numpy),
    "object in an object": (lambda: SimpleNamespace(one=SimpleNamespace(number=0)), lambda own: counted(own.one)),
    "object in a list": (lambda: [SimpleNamespace(number=0)], lambda own: counted(own[0])),
    "tensor of an object": (lambda: SimpleNamespace(mean=torch.zeros(())), lambda own: own.mean.add_(1).clone()),
    "slot": (Slots, counted),
    "tensor in a slot": (Slots, lambda own: own.tensor.add_(1).clone()),
    "callable object": (Smooths, lambda own: own()),
    "argument of a partial function": (lambda: partial(grown, []), lambda own: own()),
    "module in a list": (lambda: [nn.BatchNorm1d(1)], lambda own: own[0].running_mean.add_(1).clone()),
    "generator of torch": (lambda: torch.Generator().manual_seed(3), lambda own: torch.rand(1, generator=own)),
    "generator of Python": (lambda: random.Random(3), lambda own: own.random()),
    "generator of numpy": (lambda: np.random.default_rng(3), lambda own: own.random()),
    "former generator of numpy": (lambda: np.random.RandomState(3), lambda own: own.rand()),
    "Python's random numbers": (lambda: None, lambda own: random.random()),
    "numpy's random numbers": (lambda: None, lambda own: np.random.rand()),
    "normal numbers of numpy": (lambda: None, lambda own: np.random.randn()),  # every second one is kept for later
}


class Remembers(nn.Linear):
    def __init__(self, make, change):
        super().__init__(2, 2)
        self.own, self.change = make(), change

    def forward(self, x):
        return super().forward(x) + float(self.change(self.own))


@pytest.mark.parametrize("kind", MEMORIES)
def test_whatever_an_attribute_holds_every_pass_is_the_first(kind):
    module, x = Remembers(*MEMORIES[kind]), torch.ones(1, 2)
    state = {name: p.detach().clone() for name, p in module.named_parameters()}
    with torch.no_grad():
        plain = copy.deepcopy(module)
        assert not torch.equal(plain(x), plain(x))
        run, before = Stateless(module), (random.getstate(), np.random.get_state()[1].tobytes())
        answers = [run(state, (x,)).clone() for _ in range(12)]
    assert all(torch.equal(answers[0], again) for again in answers)
    assert run.changed or run.random
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == before


OUT_OF_REACH = {
    "class attribute": (lambda: type("Counts", (), {"number": 0}), counted),
    "iterator": (count, next),
    "closure": (lambda: (lambda past: lambda: grown(past))([]), lambda own: own()),
}


@pytest.mark.parametrize("kind", OUT_OF_REACH)
def test_what_no_pass_can_restore_is_found_by_another_answer(kind):
    run = Stateless(module := Remembers(*OUT_OF_REACH[kind]))
    state = {name: p.detach() for name, p in module.named_parameters()}
    model = Model("Remembers", lambda inputs: run(state, (inputs["x"],)), lambda *given: None, lambda: ())
    verdict = settle(model, TensorRows({"x": torch.ones(3, 2)}))
    assert "otherwise when it is asked again. Expected a model whose passes leave" in verdict.problem
