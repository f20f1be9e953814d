"""Executions against autograd through a naive merge in plain torch: losses, gradients, outputs and parameters."""

import pytest
import torch
from support.families import Tiny
from support.naive_merge import GROUPINGS, naive
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from adamerge.batch import Batch
from adamerge.experts.from_modules import from_modules
from adamerge.merging import mapped_task_vectors
from adamerge.merging.execution import Work, execution_of
from adamerge.merging.expert_cosines import ExpertCosines
from adamerge.merging.grouping import tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}


def batch(x, deep=False):
    inputs = {"x": x} | ({"deep": torch.ones(1)} if deep else {})
    return Batch(inputs, torch.arange(len(x)))


def batches_of(dtype):
    """Micro-batches of unequal size by task; the third task's model has a part that the others do not run."""
    torch.manual_seed(4)
    x = torch.randn(7, 6, dtype=dtype)
    return {"0": [batch(x[:4]), batch(x[4:])], "1": [batch(2 * x)], "2": [batch(x[:1], True), batch(x[1:], True)]}


def loss_of(outputs, batch):
    return outputs.logits.square().mean() + batch.inputs["x"].mean()


def model_of(dtype=torch.float32, resident=None, grouping="tensor"):
    modules = [Tiny(seed, dtype) for seed in range(4)]
    together = from_modules(modules[0], {str(k): expert for k, expert in enumerate(modules[1:])})
    vectors = task_vectors(together, together.shared, resident=resident, dtype=dtype)
    return MergedModel(together, vectors, GROUPINGS[grouping](vectors.shapes)), modules


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("scratch", [7, 2**20])
@pytest.mark.parametrize("grouping", GROUPINGS)
def test_losses_and_gradient_are_autograds_through_a_naive_merge(monkeypatch, dtype, resident, scratch, grouping):
    monkeypatch.setattr(mapped_task_vectors, "SCRATCH", scratch)  # small enough to cut rows and columns
    model, (base, *experts) = model_of(dtype, resident, grouping)
    batches = batches_of(dtype)
    coefficients = torch.randn(len(model.grouping), 3, dtype=dtype)
    work = {task: (Work(one, loss_of) for one in own) for task, own in batches.items()}
    step = execution_of(model).losses_and_gradient(coefficients, work)

    free = coefficients.clone().requires_grad_()
    parameters = naive(base, experts, free, model.grouping)
    losses = {
        task: sum(
            functional_call(base, parameters, (), one.inputs).square().mean() + one.inputs["x"].mean() for one in own
        )
        for task, own in batches.items()
    }
    sum(losses.values()).backward()
    assert free.grad.abs().max() > 0.01
    atol = TOLERANCE[dtype] * free.grad.abs().max().item()
    torch.testing.assert_close(step.gradient, free.grad, rtol=TOLERANCE[dtype], atol=atol)
    assert list(step.losses) == list(losses)
    assert step.cosines is None
    for task, loss in step.losses.items():
        assert not loss.requires_grad
        torch.testing.assert_close(loss, losses[task].detach(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_outputs_and_parameters_are_the_naive_merges(grouping):
    model, (base, *experts) = model_of(grouping=grouping)
    batches = batches_of(torch.float32)
    coefficients = torch.randn(len(model.grouping), 3)
    parameters = naive(base, experts, coefficients, model.grouping)
    with execution_of(model).at(coefficients) as merged:
        answers = list(merged.outputs(batches))
        for name, value in parameters.items():
            torch.testing.assert_close(merged.parameter(name), value, rtol=1e-5, atol=1e-5)
    assert [answer.task for answer in answers] == ["0", "0", "1", "2", "2"]
    for answer, one in zip(answers, [one for own in batches.values() for one in own], strict=True):
        expected = functional_call(base, parameters, (), one.inputs)
        torch.testing.assert_close(answer.outputs.logits, expected.detach(), rtol=1e-4, atol=1e-4)
        assert torch.equal(answer.batch.rows, one.rows)


def test_one_merge_serves_all_tasks_and_batches(monkeypatch):
    model, _ = model_of()
    merges = []
    combine = type(model.vectors).combine
    monkeypatch.setattr(model.vectors, "combine", lambda *args: merges.append(1) or combine(model.vectors, *args))
    coefficients, batches = torch.full((len(model.grouping), 3), 0.3), batches_of(torch.float32)
    with execution_of(model).at(coefficients) as merged:
        list(merged.outputs(batches))
        list(merged.outputs(batches))
    assert len(merges) == 1
    work = {task: [Work(one, loss_of) for one in own] for task, own in batches.items()}
    execution_of(model).losses_and_gradient(coefficients, work)
    assert len(merges) == 2


def test_mixed_precision_casts_a_merged_parameter_once_a_step():
    model, _ = model_of()
    shape, casts = model.vectors.shapes["first.weight"], []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten._to_copy.default and args[0].shape == shape and args[0].dtype == torch.float32:
                casts.append(1)
            return func(*args, **(kwargs or {}))

    work = {task: [Work(one, loss_of) for one in own] for task, own in batches_of(torch.float32).items()}
    with torch.autocast("cpu", torch.bfloat16), Watch():
        execution_of(model).losses_and_gradient(torch.full((len(model.grouping), 3), 0.3), work)
    assert len(casts) == 1


def test_nothing_merged_outlives_the_block():
    model, _ = model_of()
    with execution_of(model).at(torch.zeros(len(model.grouping), 3)) as merged:
        merged.parameter("first.weight")
    with pytest.raises(KeyError):
        merged.parameter("first.weight")


def test_the_same_execution_sees_changed_coefficients():
    model, _ = model_of()
    execution = execution_of(model)
    coefficients = torch.zeros(len(model.grouping), 3)
    work = {"0": [Work(batch(torch.ones(1, 6)), loss_of)]}
    first = execution.losses_and_gradient(coefficients, work)
    coefficients.fill_(0.5)  # in place, as an optimiser does
    second, fresh = (run.losses_and_gradient(coefficients, work) for run in (execution, execution_of(model)))
    assert not torch.equal(first.losses["0"], second.losses["0"])
    assert torch.equal(second.gradient, fresh.gradient)


def test_cosines_are_of_the_gradient_in_the_merged_parameters():
    model, (base, *experts) = model_of(torch.float64)
    coefficients, one = torch.full((len(model.grouping), 3), 0.2, dtype=torch.float64), batches_of(torch.float64)["1"]
    cosines = ExpertCosines(model.vectors, model.grouping)
    step = execution_of(model).losses_and_gradient(
        coefficients, {"1": [Work(own, loss_of) for own in one]}, cosines=cosines
    )
    merged = {
        name: value.detach().requires_grad_()
        for name, value in naive(base, experts, coefficients, model.grouping).items()
    }
    functional_call(base, merged, (), one[0].inputs).square().mean().backward()
    row = model.grouping.groups.index("first.weight")
    for k, whole in enumerate([*experts, base]):
        expected = torch.nn.functional.cosine_similarity(
            merged["first.weight"].grad.flatten(), whole.first.weight.detach().flatten(), dim=0
        )
        torch.testing.assert_close(step.cosines[row, k], expected)


def test_a_parameter_that_no_task_touches_has_gradient_zero():
    together = from_modules(Tiny(0), {"a": Tiny(1), "b": Tiny(2)})
    model = MergedModel(together, task_vectors(together, together.shared), tensor_wise(together.shared))
    work = {"a": [Work(batch(torch.ones(1, 6)), loss_of)]}
    step = execution_of(model).losses_and_gradient(torch.full((len(together.shared), 2), 0.3), work)
    gradient = dict(zip(model.grouping.groups, step.gradient, strict=True))
    assert gradient["side.weight"].tolist() == [0.0, 0.0]
    assert gradient["first.weight"].abs().min() > 0
