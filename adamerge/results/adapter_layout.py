"""Where the factors of a parameter stand in a PEFT adapter, and the options that go with them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from adamerge.experts.adapter import AUTO_CLASSES
from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.experts import Expert
from adamerge.experts.tied import tied_names

PREFIX = "base_model.model."
"""Begins every name in an adapter's file."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Slot:
    """Place of a parameter's factors.

    Attributes:
        module: Path of the module.
        kind: What layer it is.
        shape: Shape of the parameter.
    """

    module: str
    kind: type[nn.Module]
    shape: torch.Size

    def tensors(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        """Lay factors out as PEFT does, by name in the file.

        Args:
            left: (R, r).
            right: (r, M).
        """
        path, rank = f"{PREFIX}{self.module}", len(right)
        if self.kind is nn.Embedding:
            return {f"{path}.lora_embedding_A": left.T, f"{path}.lora_embedding_B": right.T}
        if self.kind is Conv1D:  # its weight is (inputs, outputs)
            first, second = left.T, right.T
        else:
            ones = [1] * (len(self.shape) - 2)
            first, second = right.reshape(rank, *self.shape[1:]), left.reshape(len(left), rank, *ones)
        return {f"{path}.lora_A.weight": first, f"{path}.lora_B.weight": second}


def slot_of(module: nn.Module, name: str) -> Slot | str:
    """Find the place of a parameter's factors, or say why plain LoRA has none.

    Args:
        module: The model.
        name: The parameter.
    """
    if any(name in names for names in tied_names(module) if len(names) > 1):
        return "it is tied to another parameter, which LoRA would not change"
    path, _, word = name.rpartition(".")
    owner = module.get_submodule(path)
    kinds = (nn.Linear, Conv1D, nn.Embedding, *_CONVOLUTIONS)
    kind = next((kind for kind in kinds if isinstance(owner, kind)), None)
    if word != "weight" or kind is None:
        return f"plain LoRA has no factors for {word} of {type(owner).__name__}"
    if isinstance(owner, _CONVOLUTIONS) and owner.groups > 1:
        return "it is a grouped convolution"
    return Slot(path, kind, module.get_parameter(name).shape)


def targets(module: nn.Module, chosen: Collection[str]) -> list[str]:
    """Name modules as shortly as PEFT's suffixes allow: the last word where all modules that end so are chosen.

    Example:
        >>> model = nn.ModuleDict({"a": nn.ModuleDict({"q": nn.Linear(1, 1), "k": nn.Linear(1, 1)}), "k": nn.ReLU()})
        >>> targets(model, ["a.q", "a.k"])
        ['a.k', 'q']
    """
    paths = [path for path, _ in module.named_modules()]
    found: set[str] = set()
    for word in {path.rpartition(".")[2] for path in chosen}:
        every = {path for path in paths if path == word or path.endswith(f".{word}")}
        own = {path for path in chosen if path in every}
        found |= {word} if own == every else own
    return sorted(found)


def adapter_options(base: Checkpoint, expert: Expert, rank: int, slots: Sequence[Slot]) -> dict[str, object]:
    """Build adapter_config.json: plain LoRA with the scale 1, and the expert's head, if it has one.

    Args:
        base: What the adapter is applied to.
        expert: Whose model it makes.
        rank: Rank of all factors.
        slots: Where they are.
    """
    heads = sorted({name.rpartition(".")[0] for name in expert.whole_head})
    name, revision = _named(base)
    return {
        "peft_type": "LORA",
        **_class_of(expert.own_module),
        "base_model_name_or_path": name,
        "revision": revision,
        "r": rank,
        "lora_alpha": rank,
        "target_modules": targets(expert.own_module, [slot.module for slot in slots]),
        "modules_to_save": heads or None,
        "bias": "none",
        "fan_in_fan_out": any(slot.kind is Conv1D for slot in slots),
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "lora_dropout": 0.0,
        "inference_mode": True,
    }


def _class_of(module: nn.Module) -> Mapping[str, object]:
    """Name the model's class: by PEFT's task where one stands for it, else by itself."""
    kind, config = type(module), getattr(module, "config", None)
    for task, auto in AUTO_CLASSES.items():
        mapping = getattr(transformers, auto)._model_mapping
        known = mapping[type(config)] if type(config) in mapping else ()
        if kind in (known if isinstance(known, tuple) else (known,)):
            return {"task_type": task, "auto_mapping": None}
    parent = {"base_model_class": kind.__name__, "parent_library": kind.__module__}
    return {"task_type": None, "auto_mapping": parent}


def _named(base: Checkpoint) -> tuple[str, str | None]:
    """Name the base as PEFT will look for it: a folder, or a hub id and its revision."""
    if Path(base.source).expanduser().exists():
        return str(Path(base.source).expanduser().absolute()), None
    name, _, revision = base.source.partition("@")
    return name, revision or None
