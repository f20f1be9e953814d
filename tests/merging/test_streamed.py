"""One block at a time against everything in memory: losses, gradients and outputs; and what is refused."""

import gc
import threading
import weakref
from typing import ClassVar

import pytest
import torch
from families.table import GROUPED, TOKENS, Family
from streamed_families import LLAVA, WHISPER
from support.families import build
from support.streamed import both, compared, inputs_of, logits_of_rows
from torch import nn

from adamerge import ConfigError
from adamerge.batch import Batch
from adamerge.experts.from_modules import from_modules
from adamerge.merging import calls
from adamerge.merging.execution import Work, execution_of, expert_of
from adamerge.merging.expert_cosines import ExpertCosines
from adamerge.merging.grouping import tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors

SAMPLE = [
    Family("CLIPForImageClassification", {"text_config": TOKENS, "vision_config": {"image_size": 16, "patch_size": 8,
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}}),
    Family("LlamaForCausalLM", {**TOKENS, "tie_word_embeddings": True}),
    Family("MixtralForCausalLM", {**TOKENS, **GROUPED}),
    Family("T5ForConditionalGeneration", {"d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 32, "d_kv": 8,
        "vocab_size": 40, "decoder_start_token_id": 0}),
    Family("WhisperForConditionalGeneration", WHISPER),
    Family("LlavaForConditionalGeneration", LLAVA),
]  # fmt: skip


@pytest.mark.parametrize("family", SAMPLE, ids=lambda family: family.architecture)
def test_streamed_is_in_memory(family):
    found = compared(family)
    assert not found.refused
    assert found.worst < 1e-5


class Net(nn.Module):
    """A plain module with a parameter outside of its blocks, and one that is read from outside its block."""

    def __init__(self, seed, step=None):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.scale = nn.Linear(4, 6), nn.Parameter(torch.rand(6) + 0.5)
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.last = nn.Linear(6, 3)
        self.step = step or (lambda net, layer, x: layer(x))

    def forward(self, x):
        x = self.first(x) * self.scale
        for layer in self.layers:
            x = torch.tanh(self.step(self, layer, x))
        return self.last(x) + self.last.weight.square().mean()


X = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
PARTS = {"t1": [X], "t2": [2 * X[:2], 2 * X[2:]]}
WORK = {
    task: [Work(Batch({"x": part}, torch.arange(len(part))), logits_of_rows) for part in parts]
    for task, parts in PARTS.items()
}


def waiting_threads():
    return [one for one in threading.enumerate() if one.name.startswith("a pass of")]


def steps(step=None, work=WORK, blocks=(), cosines=False):
    models = both(lambda seed: Net(seed, step), blocks=blocks)
    coefficients = torch.linspace(0.1, 0.6, len(models[0].grouping) * 2).view(-1, 2)
    scores = [ExpertCosines(one.vectors, one.grouping) if cosines else None for one in models]
    return [
        execution_of(one).losses_and_gradient(coefficients, work, (), own)
        for one, own in zip(models, scores, strict=True)
    ]


def check_equal(step=None, **options):
    expected, found = steps(step, **options)
    torch.testing.assert_close(found.gradient, expected.gradient, rtol=1e-5, atol=1e-6)
    for task, loss in expected.losses.items():
        torch.testing.assert_close(found.losses[task], loss)
    assert expected.gradient.abs().max() > 0
    return expected, found


WAYS = {
    "as it is": None,
    "changed in place between blocks": lambda net, layer, x: layer(x).mul_(2).add_(x),
    "one block twice": lambda net, layer, x: layer(net.layers[0](x)),
    "a weight read from outside": lambda net, layer, x: layer(x) + x @ layer.weight,
    "random numbers between blocks": lambda net, layer, x: layer(x) * torch.rand(6),
    "without gradient": lambda net, layer, x: layer(x) + torch.no_grad()(layer)(x),
    "an argument by name": lambda net, layer, x: layer(input=x),
    "parts of a batch": lambda net, layer, x: torch.cat([layer(part) for part in x.split(1)]),
}


@pytest.mark.parametrize("way", WAYS)
def test_whatever_a_model_does_between_blocks(way):
    check_equal(WAYS[way])


def test_blocks_that_the_user_names():
    check_equal(blocks=["first", "layers"])


def test_cosines_are_of_complete_gradients():
    expected, found = check_equal(WAYS["one block twice"], cosines=True)
    torch.testing.assert_close(found.cosines, expected.cosines, rtol=1e-4, atol=1e-5)


def test_mixed_precision_gives_the_same_gradient():
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = steps()
    torch.testing.assert_close(found.gradient, expected.gradient, rtol=1e-5, atol=1e-6)


def changed_argument(net, layer, x):
    return layer(x, [])


class Adds(nn.Linear):
    def forward(self, input, seen=None):
        if seen is not None:
            seen.append(input)
        return super().forward(input)


class Counts(nn.Linear):
    calls = 0

    def forward(self, input):
        self.calls += 1
        return super().forward(input)


class InPlace(nn.Linear):
    def forward(self, input):
        return super().forward(input.mul_(2))


class Moody(nn.Linear):
    seen: ClassVar = []  # shared by all, so that nothing restores it

    def forward(self, input):
        self.seen.append(1)
        return super().forward(input) * len(self.seen)


REFUSED = {
    "changes its arguments": (Adds, changed_argument),
    "changes layers.0 when it runs": (Counts, None),
    "arguments that are changed in place": (InPlace, None),
    "something else when it runs again": (Moody, None),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_would_be_wrong_is_refused(words):
    kind, step = REFUSED[words]

    def made(seed):
        net = Net(seed, step)
        net.layers = nn.ModuleList(kind(6, 6) for _ in range(2))
        return net

    _, streamed = both(made)
    with pytest.raises(ConfigError, match=rf"{words}.*memory: mapped"):
        execution_of(streamed).losses_and_gradient(torch.full((len(streamed.grouping), 2), 0.3), WORK)
    assert not waiting_threads()


def test_a_model_without_lists_of_modules_is_refused():
    experts = from_modules(nn.Linear(4, 3), {"t1": nn.Linear(4, 3)})
    model = MergedModel(experts, task_vectors(experts, experts.shared), tensor_wise(experts.shared), blocks=())
    with pytest.raises(ConfigError, match=r"Linear has no list of like modules.*memory: mapped"):
        execution_of(model)


def test_a_step_merges_a_block_twice_and_the_last_one_once(monkeypatch):
    _, streamed = both(lambda seed: build("LlamaForCausalLM", "llama", seed))
    merged, held = [], []
    combine = type(streamed.vectors).combine

    def watched(coefficients, grouping, names=None):
        merged.extend(names)
        held.append(len(names))
        return combine(streamed.vectors, coefficients, grouping, names)

    monkeypatch.setattr(streamed.vectors, "combine", watched)
    inputs = inputs_of("LlamaForCausalLM", None)
    work = {task: [Work(Batch(inputs, torch.arange(2)), logits_of_rows)] * 3 for task in streamed.tasks}
    coefficients = torch.full((len(streamed.grouping), 2), 0.3)
    execution = execution_of(streamed)
    execution.losses_and_gradient(coefficients, work)
    counts = {name: merged.count(name) for name in streamed.vectors.shapes}
    assert counts.pop("lm_head.weight") == 1
    assert set(counts.values()) == {2}
    assert max(held) == sum(name.startswith("model.layers.0.") for name in counts)
    merged.clear()
    batches = {task: [Batch(inputs, torch.arange(2))] * 3 for task in streamed.tasks}
    with execution.at(coefficients) as now:
        assert [answer.task for answer in now.outputs(batches)] == ["t1"] * 3 + ["t2"] * 3
    assert sorted(merged) == sorted(streamed.vectors.shapes)


@pytest.mark.parametrize("way", ["as it is", "without gradient", "parts of a batch"])
def test_what_blocks_return_is_freed_without_a_collection(way, monkeypatch):
    made, begin = [], calls.Cut.__init__

    def noted(self, output):
        begin(self, output)
        made.append(weakref.ref(self.output))

    _, streamed = both(lambda seed: Net(seed, WAYS[way]))
    execution, coefficients = execution_of(streamed), torch.full((len(streamed.grouping), 2), 0.3)
    execution.losses_and_gradient(coefficients, WORK)  # finds out what is read from outside its block, and starts again
    monkeypatch.setattr(calls.Cut, "__init__", noted)
    gc.disable()
    try:
        execution.losses_and_gradient(coefficients, WORK)
        alive = [one for one in made if one() is not None]
    finally:
        gc.enable()
    assert made
    assert not alive


def test_an_expert_is_itself_one_block_at_a_time():
    plain, streamed = both(lambda seed: build("BertForSequenceClassification", "bert", seed))
    batches = [Batch(inputs_of("Bert", None, rows, rows), torch.arange(rows)) for rows in (3, 2)]
    expected = list(expert_of(plain, "t2").outputs(batches, (1,)))
    for one, two in zip(expected, expert_of(streamed, "t2").outputs(batches, (1,)), strict=True):
        torch.testing.assert_close(two.outputs.logits, one.outputs.logits)
        torch.testing.assert_close(two.outputs.hidden[0], one.outputs.hidden[0])
        assert torch.equal(two.batch.rows, one.batch.rows)


def test_answers_that_nobody_takes_leave_no_thread():
    _, streamed = both(Net)
    with execution_of(streamed).at(torch.full((len(streamed.grouping), 2), 0.3)) as merged:
        answers = merged.outputs({"t1": [Batch({"x": X}, torch.arange(5))] * 4})
        next(answers)
        answers.close()
    assert not waiting_threads()
