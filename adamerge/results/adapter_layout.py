"""Where the factors of a parameter stand in a PEFT adapter, and the options that go with them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import transformers
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from adamerge.experts.adapter_class import AUTO_CLASSES
from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.experts import Expert
from adamerge.experts.tied import tied_names
from adamerge.results.adapter_targets import misread, saved_apart, saved_modules, targets
from adamerge.storage.file_names import at_home, is_there

PREFIX = "base_model.model."
"""Begins every name in an adapter's file."""

OUT_PROJ = "out_proj.weight"
"""The output's projection in nn.MultiheadAttention."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Slot:
    """Place of a parameter's factors.

    Attributes:
        module: Path of the module that is targeted.
        kind: What layer it is; nn.Module if the parameter is targeted by its own name.
        shape: Shape of the parameter.
        parameter: Its name in the module, where that is not its only matrix.
        depth: Number of wrappers between the module's own and that of a parameter that is targeted by its name.
        transposed: Whether the module holds experts as (E, in, out).
    """

    module: str
    kind: type[nn.Module]
    shape: torch.Size
    parameter: str = "weight"
    depth: int = 0
    transposed: bool = False

    def tensors(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        """Lay factors out as PEFT does, by name in the file.

        Args:
            left: (R, r), or (E, R, r).
            right: (r, M), or (E, r, M).
        """
        path, rank = f"{PREFIX}{self.module}{'.base_layer' * self.depth}", right.shape[-2]
        if self.kind is nn.Embedding:
            return {f"{path}.lora_embedding_A": left.T, f"{path}.lora_embedding_B": right.T}
        if self.kind is Conv1D:  # its weight is (inputs, outputs)
            first, second = left.T, right.T
        elif left.ndim == 3:
            first, second = _of_experts(left, right, transposed=self.transposed)
        elif self.parameter == OUT_PROJ:  # PEFT adds these twice
            path, first, second = f"{path}.base_layer.out_proj", right, left / 2
        else:
            ones = [1] * (len(self.shape) - 2)
            first, second = right.reshape(rank, *self.shape[1:]), left.reshape(len(left), rank, *ones)
        return {f"{path}.lora_A.weight": first, f"{path}.lora_B.weight": second}


def _of_experts(left: Tensor, right: Tensor, *, transposed: bool) -> tuple[Tensor, Tensor]:
    """Lay out factors of a mixture's experts: the expert's number is outer in lora_A and inner in lora_B."""
    first, second = (left.mT, right.mT) if transposed else (right, left)  # (E, r, in) and (E, out, r)
    return first.reshape(-1, first.shape[-1]), second.permute(1, 2, 0).reshape(second.shape[1], -1)


_TIED = (
    "it is tied to another parameter, and PEFT has no factors for both at once: without ensure_weight_tying its live "
    "model changes one of them only, with it merge_and_unload adds the factors twice. Save the base untied, "
    "tie_word_embeddings: false, to export an adapter of that"
)


def slots_of(module: nn.Module, names: Iterable[str]) -> dict[str, Slot | str]:
    """Find the places of parameters' factors, or say why PEFT has none.

    Args:
        module: The model.
        names: The parameters.
    """
    tied = {name for aliases in tied_names(module) if len(aliases) > 1 for name in aliases}
    return {name: _TIED if name in tied else _slot_of(module, name) for name in names}


def _slot_of(module: nn.Module, name: str) -> Slot | str:
    path, _, word = name.rpartition(".")
    owner, shape = module.get_submodule(path), module.get_parameter(name).shape
    above = module.get_submodule(path.rpartition(".")[0])
    if isinstance(above, nn.MultiheadAttention) and word == "weight":
        return Slot(path.rpartition(".")[0], nn.MultiheadAttention, shape, OUT_PROJ)
    if isinstance(owner, nn.MultiheadAttention) and word == "in_proj_weight":
        return Slot(path, nn.MultiheadAttention, shape, word)
    kinds = (nn.Linear, Conv1D, nn.Embedding, *_CONVOLUTIONS)
    kind = next((kind for kind in kinds if isinstance(owner, kind)), None) if word == "weight" else None
    if isinstance(owner, _CONVOLUTIONS) and owner.groups > 1:
        return "it is a grouped convolution, which PEFT cannot merge"
    if kind is not None:
        return Slot(path, kind, shape)
    if len(shape) not in (2, 3):
        return f"LoRA has no factors for {word} of {type(owner).__name__}, {tuple(shape)}"
    if len(shape) == 3 and shape[0] == 1:
        return "PEFT has no factors for the experts of a mixture that has one"
    return Slot(path, nn.Module, shape, word, transposed=bool(getattr(owner, "is_transposed", False)))


def nested(module: nn.Module, slots: Mapping[str, Slot]) -> dict[str, Slot]:
    """Target by the parameter's name what PEFT would misread, and number the wrappers of parameters of one module.

    Of several parameters of a module that are targeted by name the first is innermost.
    """
    others = misread(module, [slot.module for slot in slots.values() if slot.kind is nn.Linear])
    slots = {name: replace(slot, kind=nn.Module) if slot.module in others else slot for name, slot in slots.items()}
    order = [name for name, _ in module.named_parameters() if name in slots and slots[name].kind is nn.Module]
    beside = {name: [one for one in order if slots[one].module == slots[name].module] for name in order}
    depths = {name: len(own) - 1 - own.index(name) for name, own in beside.items()}
    return {name: replace(slot, depth=depths.get(name, 0)) for name, slot in slots.items()}


def partners(module: nn.Module, slots: Mapping[str, Slot], rank: int) -> dict[str, Tensor]:
    """Return factors of zeros for the other projection of an attention of which PEFT must have both.

    Args:
        module: The model.
        slots: Where there are factors.
        rank: Of the zeros.
    """
    found: dict[str, Tensor] = {}
    for one in slots.values():
        for name in ("in_proj_weight", OUT_PROJ) if one.kind is nn.MultiheadAttention else ():
            path = f"{one.module}.{name}"
            if path not in slots:
                rows, columns = module.get_parameter(path).shape
                slot = replace(one, shape=torch.Size([rows, columns]), parameter=name)
                found |= slot.tensors(torch.zeros(rows, rank), torch.zeros(rank, columns))
    return found


def adapter_options(base: Checkpoint, expert: Expert, rank: int, slots: Sequence[Slot]) -> dict[str, object]:
    """Build adapter_config.json: plain LoRA with the scale 1, and the expert's head, if it has one.

    Args:
        base: What the adapter is applied to.
        expert: Whose model it makes.
        rank: Rank of all factors.
        slots: Where they are.
    """
    heads = sorted(saved_modules(expert.own_module, expert.whole_head))
    name, revision = _named(base)
    by_name = [f"{slot.module}.{slot.parameter}" for slot in slots if slot.kind is nn.Module]
    return {
        "peft_type": "LORA",
        **_class_of(expert.own_module, heads),
        "base_model_name_or_path": name,
        "revision": revision,
        "r": rank,
        "lora_alpha": rank,
        "target_modules": targets(expert.own_module, [slot.module for slot in slots if slot.kind is not nn.Module]),
        "target_parameters": by_name or None,
        "modules_to_save": heads or None,
        "bias": "none",
        "fan_in_fan_out": any(slot.kind is Conv1D for slot in slots) and not by_name,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "lora_dropout": 0.0,
        "inference_mode": True,
    }


def _class_of(module: nn.Module, heads: Sequence[str]) -> Mapping[str, object]:
    """Name the model's class: by PEFT's task where one stands for it and saves no other modules, else by itself."""
    kind, config = type(module), getattr(module, "config", None)
    for task, auto in AUTO_CLASSES.items():
        mapping = getattr(transformers, auto)._model_mapping
        known = mapping[type(config)] if type(config) in mapping else ()
        known = known if isinstance(known, tuple) else (known,)
        if kind in known and not saved_apart(module, task, heads):
            return {"task_type": task, "auto_mapping": None}
    parent = {"base_model_class": kind.__name__, "parent_library": kind.__module__}
    return {"task_type": None, "auto_mapping": parent}


def _named(base: Checkpoint) -> tuple[str, str | None]:
    """Name the base as PEFT will look for it: a folder, or a hub id and its revision."""
    if is_there(base.source):
        return str(at_home(base.source).absolute()), None
    name, _, revision = base.source.partition("@")
    return name, revision or None
