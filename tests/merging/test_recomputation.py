"""Modules that run again in the backward pass are switched off or refused, and never give a wrong gradient."""

from functools import partial

import pytest
import torch
from support.families import build
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from adamerge import ConfigError, Expert, Merge
from adamerge.merging.recomputation import backward

pytestmark = [
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad"),  # passes without gradient
    pytest.mark.filterwarnings("ignore:.(is_)?gradient_checkpointing(_enable)?. is deprecated"),
]

QUICK = {"method": "adamerging", "trainer": {"max_steps": 3}}
INPUTS = torch.randn(12, 4, generator=torch.Generator().manual_seed(1))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.scale = nn.Linear(4, 4), nn.Parameter(torch.rand(4) + 0.5)

    def forward(self, x):
        return torch.tanh(self.layer(x) * self.scale)


class Reversed(torch.autograd.Function):
    """A recomputation of its own, as reversible layers have."""

    @staticmethod
    def forward(ctx, x, block):
        ctx.block = block
        ctx.save_for_backward(x)
        with torch.no_grad():
            return block(x)

    @staticmethod
    def backward(ctx, gradient):
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            out = ctx.block(x)
        torch.autograd.backward(out, gradient)
        return x.grad, None


WAYS = {
    "module": lambda block, x, how: checkpoint(block, x, use_reentrant=how),
    "function": lambda block, x, how: checkpoint(lambda y: 2 * block(y), x, use_reentrant=how),
    "sequential": lambda block, x, how: checkpoint_sequential(nn.Sequential(block, nn.Tanh()), 2, x, use_reentrant=how),
    "part": lambda block, x, how: checkpoint(block.layer, x, use_reentrant=how),
    "parameter": lambda block, x, how: checkpoint(lambda y: y * block.scale, x, use_reentrant=how),
    "function of parameters": lambda block, x, how: checkpoint(
        lambda y: nn.functional.linear(y, block.layer.weight), x, use_reentrant=how
    ),
    "own": lambda block, x, how: Reversed.apply(x, block),
}


class Net(nn.Module):
    def __init__(self, seed, way=None, near=None):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.block, self.last = nn.Linear(4, 4), Block(), nn.Linear(4, 3)
        self.way = way
        if near is not None:
            with torch.no_grad():
                for own, start in zip(self.parameters(), near.parameters(), strict=True):
                    own.mul_(0.3).add_(start)

    def forward(self, x):
        x = self.first(x)
        return self.last(self.way(self.block, x) if self.way else self.block(x))


def learned(way):
    base = Net(0, way)
    experts = [Expert(Net(seed, way, base), task=f"t{seed}", calibration=INPUTS) for seed in (1, 2)]
    return Merge(base, experts, **QUICK).learn().coefficients


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_a_module_that_recomputes_is_refused(way, reentrant):
    with pytest.raises(ConfigError, match=r"backward pass.*data-free method"):
        learned(lambda block, x: WAYS[way](block, x, reentrant))


def test_a_layer_that_gets_no_gradient_is_refused():
    class First(Net):
        def forward(self, x):
            return self.last(self.block(checkpoint(self.first, x, use_reentrant=True)))

    experts = [Expert(First(seed, near=Net(0)), task=f"t{seed}", calibration=INPUTS) for seed in (1, 2)]
    with pytest.raises(ConfigError, match=r"First: expected a gradient for every layer.*data-free method"):
        Merge(First(0), experts, **QUICK).learn()


@pytest.mark.parametrize("reentrant", [True, False])
def test_what_has_no_parameters_may_recompute(reentrant):
    def way(block, x):
        return checkpoint(nn.Tanh(), block.layer(x) * block.scale, use_reentrant=reentrant)

    assert torch.equal(learned(way), learned(None))


def test_data_free_methods_need_no_gradient():
    base = Net(0, lambda block, x: checkpoint(block, x, use_reentrant=False))
    experts = {"one": Net(1, base.way, base)}
    assert Merge(base, experts, method="task_arithmetic").learn().coefficients.tolist() == [[pytest.approx(0.3)]]


@pytest.mark.parametrize(
    "family", [("BertForSequenceClassification", "bert"), ("LlamaForSequenceClassification", "llama")]
)
def test_checkpointing_of_transformers_changes_nothing(family):
    rows = {"input_ids": torch.arange(3, 27).view(4, 6), "attention_mask": torch.ones(4, 6, dtype=torch.long)}

    def merged(switched_on):
        models = [build(*family, seed) for seed in range(3)]
        with torch.no_grad():
            for expert in models[1:]:
                for own, start in zip(expert.parameters(), models[0].parameters(), strict=True):
                    own.mul_(0.3).add_(start)
        for model in models if switched_on else ():
            model.gradient_checkpointing_enable()
            model.train()
        experts = [Expert(model, task=f"t{i}", calibration=rows) for i, model in enumerate(models[1:])]
        result = Merge(models[0], experts, **QUICK).learn()
        assert all(model.is_gradient_checkpointing is switched_on for model in models)
        assert all(model.training is switched_on for model in models)
        return result.coefficients

    assert torch.equal(merged(True), merged(False))


class Flagged(Net):
    """Checkpoints by transformers' flag, in eval mode too."""

    def __init__(self, seed, way=None, near=None):
        super().__init__(seed, way, near)
        self.gradient_checkpointing = True

    def forward(self, x):
        x = self._maybe(self.block, self.first(x))
        return self.last(x)

    def _maybe(self, block, x):
        return checkpoint(block, x, use_reentrant=False) if self.gradient_checkpointing else block(x)


def test_the_flag_of_transformers_is_off_while_the_model_runs():
    base = Flagged(0)
    experts = [Expert(Flagged(seed, None, base), task=f"t{seed}", calibration=INPUTS) for seed in (1, 2)]
    result = Merge(base, experts, **QUICK).learn()
    assert torch.equal(result.coefficients, learned(None))
    assert all(module.gradient_checkpointing for module in (base, *(expert.model for expert in experts)))
    assert result.module("t1").gradient_checkpointing


def test_no_hook_is_left_behind():
    layer = nn.Linear(2, 2)
    x = torch.ones(1, 2)
    backward(layer(x).sum())
    with pytest.raises(ConfigError):
        backward(checkpoint(layer, x, use_reentrant=False).sum())
    assert layer(x).shape == (1, 2)
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_a_class_that_asserts_training_mode_is_refused_in_words():
    class Asserts(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise AssertionError("make sure to use `model.train()`")

    x = torch.ones(1, requires_grad=True)
    with pytest.raises(
        ConfigError, match=r"backward pass failed \(make sure to use `model.train\(\)`\).*data-free method"
    ):
        backward(Asserts.apply(x).sum())


def test_a_backward_pass_that_fails_is_found_before_anything_is_computed(monkeypatch):
    """`check` finds it so too, and `fit` has written nothing."""
    way = partial(WAYS["own"], how=None)
    experts = [Expert(Net(seed, way), task=f"t{seed}", calibration=INPUTS) for seed in (1, 2)]
    monkeypatch.setattr("adamerge.merge.settled", None)
    with pytest.raises(ConfigError, match=r"^t1: .*backward pass.*data-free method"):
        Merge(Net(0, way), experts, **QUICK).learn()
