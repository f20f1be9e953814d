"""A network whose layers share an input, and what its layers see of rows with padding."""

import numpy as np
import torch
from torch import nn

from adamerge.data.rows import TensorRows
from adamerge.experts.from_modules import from_modules
from adamerge.merging.grouping import row_blocks, task_wise, tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors

TASKS = ("a", "b", "c")
GROUPINGS = {
    "task": lambda shapes: task_wise(list(shapes)),
    "tensor": lambda shapes: tensor_wise(list(shapes)),
    "rows": lambda shapes: row_blocks(shapes, 2),
}


class Net(nn.Module):
    """Two layers that share an input, one after them, and a vector."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.query, self.key, self.out = nn.Linear(5, 4), nn.Linear(5, 4, bias=False), nn.Linear(4, 3)
        self.double()

    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.out(torch.tanh(self.query(x)) + self.key(x))


def inputs(task: str, rows: int = 6) -> torch.Tensor:
    return torch.randn(rows, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(ord(task)))


def mask(rows: int = 6) -> torch.Tensor:
    return torch.arange(7).expand(rows, 7) < torch.tensor([7, 3, 5, 1, 6, 4])[:rows, None]


def merged_model(grouping: str = "tensor", tasks=TASKS, shift: int = 0) -> tuple[MergedModel, dict[str, Net]]:
    nets = {task: Net(number + shift) for number, task in enumerate(tasks, 1)}
    experts = from_modules(Net(0), nets)
    vectors = task_vectors(experts, experts.shared, resident=False, dtype=torch.float64)
    return MergedModel(experts, vectors, GROUPINGS[grouping](vectors.shapes)), nets


def rows_of(tasks=TASKS) -> dict[str, TensorRows]:
    return {task: TensorRows({"x": inputs(task), "attention_mask": mask()}) for task in tasks}


def seen(net: Net, task: str, parameters: dict[str, torch.Tensor] | None = None) -> dict[str, np.ndarray]:
    """Inputs of the layers at the positions that are no padding, (N, D)."""
    x, parameters = inputs(task), parameters or dict(net.named_parameters())
    hidden = torch.tanh(x @ parameters["query.weight"].T + parameters["query.bias"]) + x @ parameters["key.weight"].T
    first, second = (part[mask()].detach().numpy() for part in (x, hidden))
    return {"query.weight": first, "key.weight": first, "out.weight": second}
