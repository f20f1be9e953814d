"""The head of a large vocabulary with its loss, some positions at a time, against all logits at once."""

import weakref
from functools import partial

import pytest
import torch
from support.families import build
from support.streamed import apart, inputs_of, near
from torch import nn

from adamerge.batch import Batch, Outputs
from adamerge.experts.from_modules import from_modules
from adamerge.learning.loss_in_chunks import in_chunks
from adamerge.merging import step_losses
from adamerge.merging.execution import Work, execution_of
from adamerge.merging.grouping import tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.objectives import CrossEntropy, Entropy, HiddenAlignment, LogitAlignment, Sum

OBJECTIVES = {
    "entropy": Entropy(),
    "divergence": LogitAlignment(temperature=2.0),
    "squares": LogitAlignment(form="mse"),
    "labels": CrossEntropy(),
    "hidden states too": Sum([LogitAlignment(), HiddenAlignment(chosen=[1, -1])], [1.0, 0.5]),
}
LLAMA = ("LlamaForCausalLM", "llama", {"tie_word_embeddings": True})
T5 = ("T5ForConditionalGeneration", "t5", {})


def model_of(architecture, family, more):
    def make(seed):
        return build(architecture, family, seed, **more)

    experts = from_modules(make(0), {"a": near(make(0), make, 1), "b": near(make(0), make, 2)})
    vectors = task_vectors(experts, experts.shared, resident=False)
    return MergedModel(experts, vectors, tensor_wise(experts.shared), blocks=())


def work_of(objective, batch, targets, seen):
    def loss(outputs, own):
        seen.append(outputs.logits.shape[1])
        return 0.7 * objective(outputs, own, targets)

    def chunks(outputs, own, size):
        found = in_chunks(objective, 0.7, outputs, own, targets, size)
        seen.append("chunks")
        return found

    return [Work(batch, loss, chunks)]


@pytest.mark.parametrize(("of", "name"), [*((LLAMA, name) for name in OBJECTIVES), (T5, "divergence")])
def test_loss_and_gradient_are_those_of_all_positions(of, name, monkeypatch):
    model, objective = model_of(*of), OBJECTIVES[name]
    inputs = inputs_of(of[0], None, 2, 1)
    length = 7 if of is T5 else 12
    draw = torch.Generator().manual_seed(0)
    positions = torch.rand(2, length, generator=draw) < 0.6
    positions[:, :3] = False  # the first part has no position that counts
    labels = torch.randint(0, 40, (2, length), generator=draw)
    hidden = tuple(torch.randn(2, 12, 16, generator=draw) for _ in objective.layers)
    targets = Outputs(torch.randn(2, length, 40, generator=draw), hidden)
    seen = []
    work = {task: work_of(objective, Batch(inputs, torch.arange(2), positions, labels), targets, seen) for task in "ab"}
    coefficients = torch.linspace(0.1, 0.6, len(model.grouping) * 2).view(-1, 2)
    expected = execution_of(model).losses_and_gradient(coefficients, work, objective.layers)
    assert seen == [length, length]
    monkeypatch.setattr(step_losses, "CHUNK", 2 * 40 * 3)
    for _ in range(2):  # the second step knows which block is the last
        found = execution_of(model).losses_and_gradient(coefficients, work, objective.layers)
        assert apart(found.gradient, expected.gradient) < 1e-5
        assert all(apart(found.losses[task], value) < 1e-5 for task, value in expected.losses.items())
    assert seen[2:] == ["chunks"] * 4


def test_what_a_part_made_is_gone_before_the_next_one(monkeypatch):
    model, seen, alive = model_of(*LLAMA), [], []

    def chunks(outputs, own, size):
        rest, parts = in_chunks(Entropy(), 1.0, outputs, own, None, size)

        def watched(loss_of, logits):
            seen.append(weakref.ref(logits))
            return loss_of(logits)

        return rest, [(cut, partial(watched, loss_of)) for cut, loss_of in parts]

    monkeypatch.setattr(step_losses, "CHUNK", 2 * 40 * 3)
    batch = Batch(inputs_of(LLAMA[0], None, 2, 1), torch.arange(2))
    coefficients = torch.full((len(model.grouping), 2), 0.3)
    head = model.experts.tasks["a"].module.lm_head
    head.register_forward_pre_hook(lambda *_: alive.append(sum(one() is not None for one in seen)))
    execution_of(model).losses_and_gradient(coefficients, {"a": [Work(batch, lambda *_: None, chunks)]})
    assert len(seen) == 4
    assert alive[-4:] == [0] * 4


class Capped(nn.Module):
    """A model that changes what its head returns."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.head = nn.Embedding(5, 4), nn.Linear(4, 5)

    def forward(self, input_ids):
        return self.head(self.embed(input_ids)).tanh()


def test_logits_that_are_changed_after_the_head_are_taken_whole():
    experts = from_modules(Capped(0), {"a": Capped(1)})
    assert step_losses.head_of(experts.tasks["a"], {"input_ids": torch.ones(1, 3, dtype=torch.long)}) is None
    model = model_of(*LLAMA)
    inputs = inputs_of("LlamaForCausalLM", None)
    assert step_losses.head_of(model.experts.tasks["a"], inputs) == "lm_head"
