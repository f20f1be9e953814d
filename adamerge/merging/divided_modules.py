"""All tasks' modules, divided among processes by PyTorch's `fully_shard`: blocks by themselves, and the rest as one.

A block's parameters are gathered when it runs, in the forward and in the backward pass, and freed after it. What
belongs to no block (embeddings, norms, heads of language models) is gathered from the beginning of a pass to its end.
"""

# pyright: standard

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.utils._pytree import tree_map
from typing_extensions import override

from adamerge.merging.blocks import find_blocks
from adamerge.merging.common_modules import CommonModules
from adamerge.merging.merged_model import MergedModel
from adamerge.types import ConfigError


class DividedModules(nn.Module):
    """Runs the module of any task, after `place`.

    Heads are each task's own and whole on every process, and so are scalars. Values are not set.

    Args:
        model: Experts and task vectors, and paths of blocks if they are not to be found.
        gathered: Dtype in which parameters are gathered and used; by default that of the task vectors.

    Attributes:
        units: What is gathered together: every block, and the rest.
        tensors: The tensors of each merged or fixed parameter: one, or several where modules are not alike.
        order: Numbers of the blocks that have run, in their order.
    """

    def __init__(self, model: MergedModel, gathered: torch.dtype | None = None) -> None:
        super().__init__()
        if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
            raise ConfigError(
                f"trainer.strategy: expected a PyTorch that reduces gradients of unused parameters (2.13 does) for "
                f"fsdp2, found {torch.__version__}. Install it, or set strategy: ddp."
            )
        common = frozenset([*model.vectors.shapes, *model.fixed])
        heads = frozenset(name for expert in model.experts.models.values() for name in expert.whole_head)
        joined = CommonModules(model.experts, common, common | heads)
        self._numbers = {task: number for number, task in enumerate(joined.modules)}
        self._own = {task: list(_own_tensors(model, task, joined.names[task])) for task in joined.modules}
        self.tasks = nn.ModuleList(joined.modules.values())
        names = {place: name for place, name in joined.merged.items() if name in common}
        known = {id(own): names[owner, leaf] for owner, leaf, own in _places(self) if (owner, leaf) in names}
        blocks = list(_blocks(model, joined))
        self.order: list[int] = []
        self._then: dict[int, list[int]] = {}
        for number, block in enumerate(blocks):
            block.register_forward_pre_hook(partial(self._before, number))
            block.register_forward_hook(partial(self._after, number))
        self.units = _divide([*blocks, self], model, known, gathered)
        self.tensors: dict[str, list[nn.Parameter]] = {}
        for owner, leaf, own in _places(self):
            if (owner, leaf) in names:
                found = self.tensors.setdefault(names[owner, leaf], [])
                found += [own] if all(own is not one for one in found) else []

    @override
    def forward(self, task: str, arguments: Mapping[str, object]) -> Any:
        """Run a task's module as `place` has left it.

        Raises:
            RuntimeError: It changes its parameters.
        """
        module = self.tasks[self._numbers[task]]
        self._before(-1, self)
        return self._after(-1, self, (), module(**arguments))

    def _after(self, number: int, module: nn.Module, inputs: object, output: Any) -> Any:  # noqa: ANN401
        """Note that a block has run, and return what it returns."""
        if _versions(module) != self._then[number]:
            raise RuntimeError("it changes its parameters in place")
        self.order.append(number)
        return _without_views(output)

    def _before(self, number: int, module: nn.Module, inputs: object = None) -> None:
        self._then[number] = _versions(module)

    def place(self, task: str) -> None:
        """Give a task's module its own head and buffers; passes change copies of the latter."""
        module = self.tasks[self._numbers[task]]
        for path, kind, leaf, tensor in self._own[task]:
            module.get_submodule(path).__dict__[kind][leaf] = tensor.clone() if kind == "_buffers" else tensor


def _blocks(model: MergedModel, joined: CommonModules) -> Iterator[nn.Module]:
    """Yield every block that shares no parameter with what is outside of it."""
    seen: set[int] = set()
    users = _users(joined)
    for task, expert in model.experts.models.items():
        for path in find_blocks(expert.module, [expert.prefix + own for own in model.blocks or ()]):
            block = joined.modules[task].get_submodule(path)
            inside = {id(part) for part in block.modules()}
            if id(block) not in seen and all(users[id(own)] <= inside for own in block.parameters()):
                seen.add(id(block))
                yield block


def _users(joined: CommonModules) -> dict[int, set[int]]:
    """Map every parameter to the modules that have it, all by id."""
    users: dict[int, set[int]] = {}
    for module in joined.modules.values():
        for part in module.modules():
            for own in part.parameters(recurse=False):
                users.setdefault(id(own), set()).add(id(part))
    return users


def _divide(
    parts: Iterable[nn.Module], model: MergedModel, names: Mapping[int, str], gathered: torch.dtype | None
) -> list[FSDPModule]:
    """Divide modules, the inner ones first; each exists as a whole only until it is divided."""
    device, dtype = model.vectors.device, model.vectors.dtype
    policy = MixedPrecisionPolicy(param_dtype=gathered, reduce_dtype=dtype if gathered else None)
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    parts = list(parts)
    whole = {own for own in parts[-1].parameters() if id(own) not in names}
    made: dict[nn.Parameter, nn.Parameter] = {}
    units: list[FSDPModule] = []
    for part in parts:
        for owner, leaf, own in _places(part):
            if id(own) in names:
                if own not in made:
                    empty = torch.empty(own.shape, dtype=dtype, device=device)
                    made[own] = nn.Parameter(empty, requires_grad=names[id(own)] in model.vectors.shapes)
                owner._parameters[leaf] = made[own]
        whole |= {own for own in part.parameters() if own.ndim == 0}
        units.append(fully_shard(part, mesh=mesh, mp_policy=policy, ignored_params=whole))
        units[-1].set_reduce_scatter_unused_params(True)
    return units


def _versions(module: nn.Module) -> list[int]:
    return [own._version for own in module.parameters()]


def _without_views(output: Any) -> Any:  # noqa: ANN401 - whatever a module returns
    """Copy views: where one is changed in place, PyTorch would not gather the parameters for the backward pass."""
    return tree_map(lambda one: one.clone() if isinstance(one, Tensor) and one._base is not None else one, output)


def _places(module: nn.Module) -> list[tuple[nn.Module, str, nn.Parameter]]:
    """List every parameter inside a module with the module and the name that it has there."""
    return [
        (owner, leaf, own) for owner in module.modules() for leaf, own in owner._parameters.items() if own is not None
    ]


def _own_tensors(model: MergedModel, task: str, names: Mapping[str, str]) -> Iterator[tuple[str, str, str, Tensor]]:
    """Yield paths, kinds, names and values of the head and of the buffers of a task's module."""
    expert = model.experts.models[task]
    head = set(expert.whole_head)
    for alias, _ in expert.module.named_parameters(remove_duplicate=False):
        path, _, leaf = alias.rpartition(".")
        if names.get(alias) in head:
            value = nn.Parameter(model.own(expert.weights[names[alias]]), requires_grad=False)
            yield path, "_parameters", leaf, value
    for alias, buffer in expert.module.named_buffers(remove_duplicate=False):
        path, _, leaf = alias.rpartition(".")
        name = names.get(alias)
        if name in head:
            yield path, "_buffers", leaf, model.own(expert.weights[name])
        elif name is not None:
            yield path, "_buffers", leaf, model.own(model.experts.base[name])
        else:
            yield path, "_buffers", leaf, buffer
