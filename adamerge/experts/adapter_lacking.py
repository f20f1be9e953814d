"""What an adapter's options say that it trained, and its file has no tensors of: the base's values are used there."""

import re
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from adamerge.experts.adapter_config import CONFIG
from adamerge.experts.adapter_reader import AdapterReader
from adamerge.experts.low_rank import Adapted
from adamerge.experts.name_patterns import several

_LAYERS = (nn.Linear, Conv1D, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers that LoRA has factors for."""


def lacking(reader: AdapterReader, weights: Adapted, options: Mapping[str, object]) -> Iterator[str]:
    """Say what the options name, and the file lacks.

    Args:
        reader: Has read the adapter.
        weights: The model with the adapter.
        options: The content of adapter_config.json.
    """
    parts = {part for modules in reader.keys.modules for part in modules.names}
    found = [
        *([] if "token rows" in parts or not options.get("trainable_token_indices") else ["trainable_token_indices"]),
        *([] if "B bias" in parts or options.get("lora_bias") is not True else ["lora_bias"]),
        *_biases(reader, options),
        *(f"modules_to_save ({name})" for name in _texts(options.get("modules_to_save")) if _lacks(reader, name)),
        *_targets(reader, options),
        *_parameters(reader.module, weights, _texts(options.get("target_parameters"))),
    ]
    if found:
        yield (
            f"{reader.config.source}: {CONFIG} names {', '.join(found)}, but the file has no tensors of it: the base's "
            "values are used there. If they were trained, the file is incomplete; save or copy the adapter again."
        )


def _texts(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else []


def _biases(reader: AdapterReader, options: Mapping[str, object]) -> Iterator[str]:
    """Yield the option by which biases were trained, if the model has some and the file has none."""
    trained = options.get("bias") in ("all", "lora_only")
    if trained and not any(name.endswith("bias") for name in reader.keys.whole):
        there = [name for name, _ in reader.module.named_parameters() if name.endswith("bias")]
        if options["bias"] == "all":
            yield from [f"bias ({options['bias']})"] if there else []
        elif any(name.rpartition(".")[0] in reader.paths for name in there):
            yield f"bias ({options['bias']})"


def _lacks(reader: AdapterReader, name: str) -> bool:
    """Return whether the model has modules to save of a name, with parameters, and the file holds nothing of them.

    PEFT saves all modules whose names end with these letters: `norm` means `input_layernorm` too.
    """
    paths = [path for path, _ in reader.module.named_modules() if path.endswith(name)]
    own = {f"{path}.{leaf}" for path in paths for leaf, _ in reader.module.get_submodule(path).named_parameters()}
    return bool(own) and own.isdisjoint({*reader.whole.own, *reader.whole.replaced, *reader.whole.unchanged})


def _targets(reader: AdapterReader, options: Mapping[str, object]) -> Iterator[str]:
    """Yield targets of which some layers, or all, have no factors."""
    chosen = any(options.get(key) for key in ("layers_to_transform", "layers_pattern", "exclude_modules"))
    saved = _texts(options.get("modules_to_save"))
    changed = {id(weight) for path in reader.paths if (weight := _weight(reader.module, path)) is not None}
    for target in _texts(options.get("target_modules")):
        layers = [path for path in _named(reader.module, target) if _weight(reader.module, path) is not None]
        layers = [path for path in layers if path.startswith(reader.part) and not _excluded(path, options)]
        layers = [path for path in layers if not any(_within(path, name) for name in saved)]
        bare = [path for path in layers if id(_weight(reader.module, path)) not in changed]
        if bare and (len(bare) == len(layers) or not chosen):
            yield f"target_modules ({several(bare)})"


def _excluded(path: str, options: Mapping[str, object]) -> bool:
    """Return whether exclude_modules names a layer, by PEFT's rule: a pattern of whole paths, or ends of paths."""
    excluded = options.get("exclude_modules")
    if isinstance(excluded, str):
        return re.fullmatch(excluded, path) is not None
    return any(_within(path, name) for name in _texts(excluded))


def _parameters(module: nn.Module, weights: Adapted, targets: Sequence[str]) -> Iterator[str]:
    """Yield targeted parameters without factors: of several of one module, PEFT's file may hold one."""
    for target in targets:
        bare = [name for name, _ in module.named_parameters() if _within(name, target) and name not in weights.changed]
        if bare:
            yield f"target_parameters ({several(bare)})"


def _named(module: nn.Module, name: str) -> Sequence[str]:
    return [path for path, _ in module.named_modules() if _within(path, name)]


def _within(path: str, name: str) -> bool:
    return f".{path}".endswith(f".{name}")


def _weight(module: nn.Module, path: str) -> Tensor | None:
    """Return the matrix of a layer that LoRA has factors for; None of another module."""
    layer = module.get_submodule(path)
    if isinstance(layer, nn.MultiheadAttention):
        return layer.in_proj_weight
    return layer.weight if isinstance(layer, _LAYERS) else None
