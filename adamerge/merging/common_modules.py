"""The modules of all tasks with one backbone: a part that several of them have is one object in all of them.

So one forward pass of any task runs through the same blocks, and what belongs to a block exists once, not per task.
"""

# pyright: standard

import copy
import json
from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import Any, TypeAlias

import torch
from torch import nn

from adamerge.experts.experts import Experts
from adamerge.merging.rounds import merge_names

Key: TypeAlias = tuple[type[nn.Module], tuple[tuple[str, str], ...]]
"""Class of a module, and the names of its parameters in it and in the merge."""

_PLAIN = (bool, int, float, str, tuple, type(None), FunctionType, torch.dtype)

_OF_NO_PASS = frozenset(
    "id2label label2id num_labels problem_type _name_or_path dtype architectures transformers_version use_cache "
    "finetuning_task bos_token_id eos_token_id".split()
)
"""Keys of a configuration that change nothing in a pass through the backbone."""


class CommonModules:
    """Copies of all tasks' modules, in which like parts without a head are one object.

    Two parts are alike if they have the same class, attributes, configuration, and the same parameters of the merge.

    Args:
        experts: Base and experts; their modules are not altered.
        common: Parameters that all tasks have in common.
        known: All parameters of the merge, heads too.

    Attributes:
        modules: The copies by task.
        names: Names in the merge by task and by name in its module.
        merged: Names in the merge by module and name in it.
    """

    def __init__(self, experts: Experts, common: frozenset[str], known: frozenset[str]) -> None:
        self._common, self._parts = common, dict[Key, nn.Module]()
        copies: dict[int, nn.Module] = {}
        self.modules: dict[str, nn.Module] = {}
        self.names: dict[str, dict[str, str]] = {}
        for task, expert in experts.models.items():
            self.names[task] = merge_names(expert, known)
            if id(expert.module) not in copies:
                copies[id(expert.module)] = _copy(expert.module)
                self._join(copies[id(expert.module)], "", self.names[task])
            self.modules[task] = copies[id(expert.module)]
        self.merged = {
            (self.modules[task].get_submodule(alias.rpartition(".")[0]), alias.rpartition(".")[2]): name
            for task, names in self.names.items()
            for alias, name in names.items()
        }

    def _join(self, owner: nn.Module, path: str, names: Mapping[str, str]) -> None:
        """Replace parts of a module by like parts that other tasks have."""
        for child, part in list(owner.named_children()):
            own = _within(part, f"{path}{child}.", names)
            first = self._parts.get((type(part), own)) if own else None
            if not own or any(name not in self._common for _, name in own):
                self._join(part, f"{path}{child}.", names)
            elif first is None or not _alike(first, part):
                self._join(part, f"{path}{child}.", names)
                self._parts.setdefault((type(part), own), part)
            else:
                owner._modules[child] = first


def _copy(module: nn.Module) -> nn.Module:
    copied = copy.deepcopy(module).eval()
    for part in copied.modules():
        if part.__dict__.get("gradient_checkpointing") is True:
            part.__dict__["gradient_checkpointing"] = False
    return copied


def _within(part: nn.Module, path: str, names: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Pair the names of a part's parameters in it with their names in the merge; empty if it has none."""
    own = [name for name, _ in part.named_parameters(remove_duplicate=False)]
    return tuple((name, names.get(path + name, "")) for name in sorted(own))


def _alike(one: nn.Module, other: nn.Module) -> bool:
    """Return whether two modules differ in nothing but the values of parameters and buffers."""
    inside, others = dict(one.named_modules()), dict(other.named_modules())
    return inside.keys() == others.keys() and all(_same(inside[path], others[path]) for path in inside)


def _same(one: nn.Module, other: nn.Module) -> bool:
    return type(one) is type(other) and dict(_settings(one)) == dict(_settings(other))


def _settings(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for key, value in module.__dict__.items():
        convert = getattr(value, "to_dict", None)
        if isinstance(value, _PLAIN) and key != "training":
            yield key, value
        elif convert is not None:
            own = {name: own for name, own in convert().items() if name not in _OF_NO_PASS}
            yield key, json.dumps(own, default=str, sort_keys=True)
