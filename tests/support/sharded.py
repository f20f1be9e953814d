"""A model divided between two processes against the same model in memory, as run by each of them."""

import json
import os
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from support.families import build
from support.processes import FORKS, free_ports, launched
from support.streamed import apart, inputs_of, logits_of_rows, near
from torch import distributed, nn

from adamerge.batch import Batch
from adamerge.experts.from_modules import from_modules
from adamerge.merging.execution import Work, execution_of
from adamerge.merging.grouping import row_blocks, tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.merging.rounding import Rounding
from adamerge.merging.sharded import ShardedExecution
from adamerge.merging.shards import Shards
from adamerge.types import ConfigError

CLASSES = {
    "LlamaForCausalLM": ("llama", {"tie_word_embeddings": True}),
    "T5ForConditionalGeneration": ("t5", {}),
    "ResNetForImageClassification": ("resnet", {}),
}
CHOOSY = "plain, blocks by row"


class Choice(nn.ModuleList):
    """A block of two layers, of which a batch runs one."""

    def __init__(self):
        super().__init__([nn.Linear(6, 6), nn.Linear(6, 6)])

    def forward(self, x):
        return self[len(x) % 2](x)


class Choosy(nn.Module):
    """A plain module with a scalar, one row, a loose parameter, and blocks that do not use all their parameters."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.scale, self.shift = nn.Linear(4, 6), nn.Parameter(torch.rand(())), nn.Parameter(torch.rand(6))
        self.layers = nn.ModuleList([Choice(), Choice()])
        self.last = nn.Linear(6, 1)

    def forward(self, x):
        x = self.scale * self.first(x) + self.shift
        return self.last(self.layers[1](torch.tanh(self.layers[0](x))))


class Reading(Choosy):
    """A module that reads a block's parameter from outside the block."""

    def forward(self, x):
        return super().forward(x) * self.layers[0][0].weight.sum()


class Wandering(Choosy):
    """A module that runs other blocks for other rows."""

    def forward(self, x):
        return self.last(self.layers[len(x) % 2](self.first(x)))


class Changing(Choosy):
    """A module that changes its own parameters."""

    def forward(self, x):
        with torch.no_grad():
            self.layers[0][0].weight.mul_(0.5)
        return super().forward(x)


def models():
    """Experts near a base, and the rows of two batches, by name."""
    for architecture, (family, more) in CLASSES.items():
        base, make = build(architecture, family, 0, **more), partial(build, architecture, family, **more)
        rows = [inputs_of(architecture, base.config, rows, rows) for rows in (2, 3)]
        yield architecture, base, {task: near(base, make, seed) for seed, task in enumerate("ab", 1)}, rows
    several = {"a": build("BertForTokenClassification", "bert", 1, num_labels=3)}
    several["b"] = build("BertForTokenClassification", "bert", 2, num_labels=5)
    rows = [inputs_of("Bert", None, rows, rows) for rows in (2, 3)]
    yield "two heads", build("BertModel", "bert", 0), several, rows
    x = [{"x": torch.randn(rows, 4, generator=torch.Generator().manual_seed(rows))} for rows in (2, 3)]
    yield CHOOSY, Choosy(0), {"a": Choosy(1), "b": Choosy(2)}, x


def loss(outputs, batch):
    return logits_of_rows(outputs, batch)


def both(base, experts, by_row=False):
    """The model in memory and in shards."""
    found = from_modules(base, experts)
    vectors = task_vectors(found, found.shared, resident=False)
    grouping = row_blocks(vectors.shapes, 3) if by_row else tensor_wise(found.shared)
    rounding = Rounding("stochastic", dict.fromkeys(vectors.shapes, torch.bfloat16))
    model = MergedModel(found, vectors, grouping, rounding)
    return model, model.executed_by(partial(ShardedExecution, Shards(model)))


def differences(base, experts, rows, layers):
    """Relative differences of gradient and outputs; the first process has the first batch of the first task alone."""
    whole, sharded = both(base, experts, by_row=True)
    batches = [Batch(own, torch.arange(len(next(iter(own.values()))))) for own in rows]
    coefficients = torch.linspace(0.1, 0.6, len(whole.grouping) * 2).view(-1, 2)
    work = {task: [Work(one, loss) for one in batches] for task in whole.tasks}
    expected = execution_of(whole).losses_and_gradient(coefficients, work, layers)
    execution, mine = execution_of(sharded), distributed.get_rank()
    own = {task: [Work(batches[mine], loss)] for task in whole.tasks}
    for _ in range(2):
        found = execution.losses_and_gradient(coefficients, own, layers)
        total = found.gradient.clone()
        distributed.all_reduce(total)
        with execution_of(whole).at(0.5 * coefficients) as one, execution.at(0.5 * coefficients) as two:
            given = {task: batches[mine : mine + 1] for task in whole.tasks}
            pairs = list(zip(one.outputs(given, layers), two.outputs(given, layers), strict=True))
            name = next(iter(whole.vectors.shapes))
            assert torch.equal(one.parameter(name), two.parameter(name))
    outputs = max(apart(right.outputs.logits, left.outputs.logits) for left, right in pairs)
    return apart(total, expected.gradient), outputs


def refusal(kind):
    """The words in which a model is refused."""
    x = {"x": torch.ones(2 + distributed.get_rank(), 4)}
    _, sharded = both(kind(0), {"a": kind(1)})
    work = {"a": [Work(Batch(x, torch.arange(len(x["x"]))), loss)]}
    try:
        execution_of(sharded).losses_and_gradient(torch.full((len(sharded.grouping), 1), 0.3), work)
    except ConfigError as error:
        return str(error)


def _compare(variables, file):
    os.environ.update(variables)
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
    found = {name: differences(*given, () if name == CHOOSY else (0, -1)) for name, *given in models()}
    Path(file).write_text(
        json.dumps({**found, **{kind.__name__: refusal(kind) for kind in (Reading, Wandering, Changing)}})
    )
    distributed.destroy_process_group()


def compared(folder):
    """What each of two processes found, from files in a folder."""
    (port,) = free_ports(1)
    started = [
        FORKS.Process(target=_compare, args=(launched(rank, 2, port), str(folder / f"{rank}.json"))) for rank in (0, 1)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0, 0]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]
