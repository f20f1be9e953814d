"""A small network of blocks, its experts and their rows, for merges that are made of rows."""

from functools import cache

import torch
from torch import nn

from adamerge.data.rows import TensorRows
from adamerge.experts.from_modules import from_modules
from adamerge.merging.grouping import task_wise
from adamerge.merging.merged_model import MergedModel, task_vectors

TASKS = ("a", "b")


class Block(nn.Module):
    """Two linear layers and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(4), nn.Linear(4, 6), nn.Linear(6, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.tanh(self.up(self.norm(x))))


class Net(nn.Module):
    """A linear embedding, two blocks, a layer that never runs, a convolution that never runs, and an output layer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Linear(3, 4)
        self.layers = nn.ModuleList([Block(), Block()])
        self.unused, self.conv = nn.Linear(4, 4), nn.Conv1d(4, 2, 3)
        self.out = nn.Linear(4, 2)
        for parameter in self.parameters():
            nn.init.normal_(parameter)
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.out(x)


def nets() -> dict[str, Net]:
    """The experts by task."""
    return {task: Net(number) for number, task in enumerate(TASKS, 1)}


def model_of(blocks: tuple[()] | None = None) -> MergedModel:
    """The experts over the base `Net(0)`, in memory or, for (), one block at a time."""
    experts = from_modules(Net(0), nets())
    vectors = task_vectors(experts, experts.shared, resident=False, dtype=torch.float64)
    return MergedModel(experts, vectors, task_wise(experts.shared), blocks=blocks)


def inputs(task: str) -> torch.Tensor:
    """A task's rows, (40, 3)."""
    return torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(ord(task)))


def rows_of() -> dict[str, TensorRows]:
    """All tasks' rows."""
    return {task: TensorRows({"x": inputs(task)}) for task in TASKS}


@cache
def _parameters() -> list[dict[str, torch.Tensor]]:
    return [{name: value.detach() for name, value in net.named_parameters()} for net in nets().values()]


def of_experts(name: str) -> list[torch.Tensor]:
    """A parameter of every expert."""
    return [own[name] for own in _parameters()]


def filled(weights: dict[str, torch.Tensor]) -> Net:
    """The network with these parameters."""
    net = Net(0)
    net.load_state_dict({name: torch.as_tensor(value) for name, value in weights.items()})
    return net


def inside(block: Block, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Inputs of a block's layers, by hand."""
    normed = block.norm(x)
    return {"norm": x, "up": normed, "down": torch.tanh(block.up(normed))}
