"""A forward pass leaves module, buffers, parameters and random numbers unchanged; gradients are those of the merge."""

import copy
from types import SimpleNamespace

import pytest
import torch
from families.table import TABLE
from torch import nn

from adamerge.batch import Batch
from adamerge.experts.from_modules import from_modules
from adamerge.experts.known_writes import remember_writes
from adamerge.experts.module_contents import unchanged
from adamerge.experts.stateless import Stateless
from adamerge.merging.execution import Work, execution_of
from adamerge.merging.grouping import task_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.types import ConfigError


class Restless(nn.Module):
    """Changes something of every kind in each pass, and answers with what it was before."""

    def __init__(self, change):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("calls", torch.zeros(()))
        self.count, self.past, self.by_name, self.kinds = 0, [], {"seen": 0}, set()
        self.loose = torch.zeros(2)
        self.change = change

    def forward(self, x):
        before = self.count + self.calls + len(self.past) + self.by_name["seen"] + len(self.kinds) + self.loose.sum()
        self.change(self)
        return self.layer(x) + before + getattr(self, "later", 0)


CHANGES = {
    "attribute": lambda m: setattr(m, "count", m.count + 1),
    "new attribute": lambda m: setattr(m, "later", getattr(m, "later", 0) + 1),
    "buffer": lambda m: m.calls.add_(1),
    "buffer anew": lambda m: m.register_buffer("calls", m.calls + 1),
    "list": lambda m: m.past.append(1),
    "dict": lambda m: m.by_name.update(seen=m.by_name["seen"] + 1),
    "set": lambda m: m.kinds.add(len(m.kinds)),
    "loose tensor": lambda m: m.loose.add_(1),
    "loose tensor's data": lambda m: setattr(m, "loose", m.loose + 1),
    "submodule": lambda m: setattr(m, "layer", nn.Linear(2, 2)) if m.count else setattr(m, "count", 1),
    "parameter": lambda m: m.layer.weight.data.mul_(2),
    "hook": lambda m: m.layer.register_forward_hook(lambda layer, inputs, output: output + 1),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_every_pass_is_the_first(kind):
    module = Restless(CHANGES[kind])
    state = {name: p.detach().clone() for name, p in module.named_parameters()}
    kept = {name: tensor.clone() for name, tensor in state.items()}
    x = torch.ones(1, 2)
    with torch.no_grad():
        first = copy.deepcopy(module)(x)
        run = Stateless(module)
        for _ in range(3):
            torch.testing.assert_close(run(state, (x,)), first, rtol=0, atol=0)
    assert run.changed
    assert all(torch.equal(state[name], kept[name]) for name in kept)
    assert (module.count, module.past, module.by_name, module.kinds) == (0, [], {"seen": 0}, set())
    assert not module.calls
    assert not module.loose.any()
    assert not module.layer._forward_hooks
    assert not hasattr(module, "later")


class Doubles(nn.Linear):
    """Doubles its weight in every pass, without a new version; has a configuration as models of transformers do."""

    def __init__(self, labels, size=2):
        super().__init__(size, labels)
        settings = {"size": size, "num_labels": labels}
        self.config = SimpleNamespace(to_dict=lambda: settings)

    def forward(self, x):
        self.weight.data.mul_(2)
        return super().forward(x)


def test_what_passes_change_is_found_once_for_a_class_and_configuration(monkeypatch):
    """Copies of all parameters are kept while it is found: later tasks would keep them beside gradients."""
    found = []

    def remember(module, written):
        found.append(module)
        remember_writes(module, written)

    monkeypatch.setattr("adamerge.experts.stateless.remember_writes", remember)
    modules = [Doubles(2), Doubles(2), Doubles(3), Doubles(2, size=4)]
    for module in modules:
        state = {name: p.detach().clone() for name, p in module.named_parameters()}
        x, run = torch.ones(1, module.in_features), Stateless(module)
        for _ in range(2):
            expected = nn.functional.linear(x, 2 * module.weight, module.bias)
            torch.testing.assert_close(run(state, (x,)), expected)
        assert all(torch.equal(state[name], p) for name, p in module.named_parameters())
    assert found == [modules[0], modules[3]]


def test_a_module_that_changes_nothing_is_said_to():
    run = Stateless(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    run(dict(nn.Linear(2, 2).named_parameters(prefix="0")), (torch.ones(3, 2),))
    assert (run.changed, run.random) == (set(), False)


def test_a_pass_formats_no_stack(monkeypatch):
    def formatted(*given, **more):
        raise AssertionError("a stack is formatted")

    run = Stateless(nn.Linear(2, 2))
    state = dict(nn.Linear(2, 2).named_parameters())
    monkeypatch.setattr("traceback.format_stack", formatted)
    run(state, (torch.ones(1, 2),))
    if not torch.cuda.is_initialized():
        with torch.random.fork_rng([]), pytest.raises(AssertionError, match="a stack is formatted"):
            torch.manual_seed(0)


def test_what_is_changed_between_passes_stays():
    """Hooks, attributes and buffers that others set are no changes of a pass."""
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    state = {name: tensor.detach() for name, tensor in module.named_parameters()}
    run, seen = Stateless(module), []
    run(state, (torch.ones(3, 2),))
    module[0].register_forward_hook(lambda layer, inputs, output: seen.append(1))
    module[1].running_mean = torch.ones(2)
    module.word = "new"
    first = run(state, (torch.ones(3, 2),))
    again = run(state, (torch.ones(3, 2),))
    torch.testing.assert_close(first, module(torch.ones(3, 2)))
    assert torch.equal(first, again)
    assert (len(seen), module.word, run.changed) == (3, "new", set())


def test_passes_draw_the_same_random_numbers_and_leave_the_state_alone():
    run = Stateless(nn.Sequential(nn.Identity()))
    noisy = Stateless(nn.RReLU())
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)

    class Noise(nn.Module):
        def forward(self, x):
            return x + torch.rand(1)

    drawn = Stateless(Noise())
    assert torch.equal(drawn({}, (torch.zeros(1),)), drawn({}, (torch.zeros(1),)))
    assert (drawn.random, run.random, noisy.random) == (True, False, False)
    assert torch.equal(torch.rand(2), expected)


def test_an_exception_restores_too():
    module = nn.Sequential(nn.Linear(1, 1))
    with pytest.raises(KeyError), unchanged(module) as changed:  # noqa: PT012
        module[0].scale = 1
        raise KeyError
    assert changed == ["0.scale"]
    assert not hasattr(module[0], "scale")


def test_a_change_that_is_no_factor_has_no_gradient():
    class Shifts(nn.Linear):
        def forward(self, x):
            with torch.no_grad():
                self.weight.add_(1)
            return super().forward(x)

    state = {"weight": torch.tensor([[1.0, 2.0]], requires_grad=True), "bias": torch.zeros(1)}
    with pytest.raises(ConfigError, match=r"Shifts: .*weight in place, by more than a factor"):
        Stateless(Shifts(2, 1))(state, (torch.ones(1, 2),))


def rwkv(**more):
    family = next(family for family in TABLE if family.architecture == "RwkvForCausalLM")
    return [type(family)(family.architecture, {**family.options, **more}).build(seed) for seed in (0, 1)]


def losses_and_gradient(models, ids):
    experts = from_modules(models[0], {"a": models[1]})
    model = MergedModel(experts, task_vectors(experts, experts.shared), task_wise(experts.shared))
    batch = Batch({"input_ids": ids}, torch.arange(len(ids)))
    work = [Work(batch, lambda outputs, _: outputs.logits.log_softmax(-1)[..., 5].sum())] * 2
    step = execution_of(model).losses_and_gradient(torch.full((1, 1), 0.3), {"a": work})
    return step.losses["a"], step.gradient


def test_the_gradient_of_a_model_that_halves_its_matrices_is_that_of_one_that_does_not():
    """RWKV halves matrices and hidden states alike, so without halving the function is the same."""
    ids = torch.randint(4, 40, (2, 6), generator=torch.Generator().manual_seed(0))
    loss, gradient = losses_and_gradient(rwkv(), ids)
    expected_loss, expected_gradient = losses_and_gradient(rwkv(rescale_every=0), ids)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-4, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=0)
