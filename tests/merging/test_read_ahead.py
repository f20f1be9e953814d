"""The parameters that come next are asked for: of blocks, in the order of the step before."""

import threading

import torch
from support.block_nets import inputs, model_of
from support.streamed import logits_of_rows

from adamerge.batch import Batch
from adamerge.merging.execution import Work, execution_of
from adamerge.merging.read_ahead import ReadAhead
from adamerge.results.backbone import exact_parameters


class Recorded:
    """Task vectors of which it is noted what was asked for ahead, and what was merged."""

    def __init__(self, monkeypatch, vectors):
        self.asked, self.merged, combine = [], [], vectors.combine

        def merge(coefficients, grouping, names):
            self.merged.append(list(names))
            return combine(coefficients, grouping, names)

        monkeypatch.setattr(vectors, "combine", merge)
        monkeypatch.setattr(ReadAhead, "ask", lambda ahead, names: self.asked.append(names))


def test_a_step_asks_for_each_block_when_the_one_before_is_merged(monkeypatch):
    model = model_of(blocks=())
    seen = Recorded(monkeypatch, model.vectors)
    execution, coefficients = execution_of(model), torch.full((len(model.grouping), len(model.vectors.experts)), 0.3)
    work = {task: [Work(Batch({"x": inputs(task)}, torch.arange(2)), logits_of_rows)] for task in model.tasks}
    execution.losses_and_gradient(coefficients, work)
    assert seen.asked == []  # no step was before
    first = list(seen.merged)
    assert len(first) > 4
    seen.merged.clear()
    execution.losses_and_gradient(coefficients, work)
    assert seen.merged == first
    assert [names for names in seen.asked if names] == first[1:]


def test_an_export_asks_for_each_parameter_while_the_one_before_is_merged(monkeypatch):
    model = model_of()
    asked = []
    monkeypatch.setattr(ReadAhead, "ask", lambda ahead, names: asked.extend(names))
    coefficients = torch.full((len(model.grouping), len(model.vectors.experts)), 0.3)
    names = [name for name, _ in exact_parameters(model, coefficients)]
    assert asked == names[1:]


def test_asking_waits_for_nothing(monkeypatch):
    model, began, free = model_of(), threading.Event(), threading.Event()

    def slow(names, most):
        began.set()
        assert free.wait(10)

    monkeypatch.setattr(model.vectors, "read_ahead", slow)
    ReadAhead(model.vectors).ask(list(model.vectors.shapes)[:1])  # returns, though `slow` does not
    assert began.wait(10)
    free.set()
