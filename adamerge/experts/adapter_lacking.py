"""What an adapter's options say that it trained, and its file has no tensors of: the base's values are used there."""

import re
from collections.abc import Iterator, Mapping

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from adamerge.experts.adapter_config import CONFIG
from adamerge.experts.adapter_options import linear, targeted, texts, within
from adamerge.experts.adapter_reader import AdapterReader
from adamerge.experts.conversion import Conversion, Origin
from adamerge.experts.low_rank import Adapted
from adamerge.experts.name_patterns import several

_BLOCK = re.compile(r"(?P<stem>.+?)\.\d+\.(?P<key>.+)")
"""A module in a block, as mlx-lm names it."""
_LAYERS = (nn.Linear, Conv1D, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers that LoRA has factors for."""


def lacking(
    reader: AdapterReader, weights: Adapted, options: Mapping[str, object], files: Mapping[str, Origin]
) -> Iterator[str]:
    """Say what the options name, by PEFT's rules, and the file lacks: all of it or some.

    Args:
        reader: Has read the adapter.
        weights: The model with the adapter.
        options: The content of adapter_config.json.
        files: Name in the base's files, or computation, by name of the parameter.
    """
    found = list(_Lacking(reader, weights, options, files).found())
    if found:
        yield (
            f"{reader.config.source}: {CONFIG} names {', '.join(found)}, but the file has no tensors of it: the base's "
            "values are used there. If they were trained, the file is incomplete; save or copy the adapter again."
        )


def lacking_of_mlx(reader: AdapterReader, options: Mapping[str, object]) -> Iterator[str]:
    """Say which layers of the last `num_layers` blocks have no factors, though named or as in other blocks.

    Releases 0.19 to 0.21 of mlx-lm trained all blocks whatever `num_layers` says, so that more is no mistake.

    Args:
        reader: Has read the adapter.
        options: The content of adapter_config.json.
    """
    found = [_BLOCK.fullmatch(parts.module) for parts in reader.keys.modules]
    blocks = [one for one in found if one]
    if not blocks:
        return
    parameters, count = options.get("lora_parameters"), options.get("num_layers", options.get("lora_layers"))
    named = texts(parameters.get("keys")) if isinstance(parameters, dict) else ()
    stem, own = blocks[0]["stem"], {parts.module for parts in reader.keys.modules}
    text = getattr(getattr(reader.module, "config", None), "get_text_config", None)
    depth = getattr(text() if text else None, "num_hidden_layers", 0)
    last = range(depth - count if isinstance(count, int) and 0 < count < depth else 0, depth)
    paths = [f"{stem}.{n}.{key}" for n in last for key in dict.fromkeys([*named, *(one["key"] for one in blocks)])]
    absent = [path for path in paths if path not in own and reader.has(path)]
    if absent:
        yield (
            f"{reader.config.source}: {CONFIG} names {several(absent)} (num_layers, keys), or other blocks have their "
            "like, but the file has no factors of it: the base's values are used there. If they were trained, the file "
            "is incomplete; copy the adapter again."
        )


class _Lacking:
    def __init__(
        self,
        reader: AdapterReader,
        weights: Adapted,
        options: Mapping[str, object],
        files: Mapping[str, Origin],
    ) -> None:
        self._reader, self._weights, self._options, self._files = reader, weights, options, files
        self._modules = dict(reader.module.named_modules())
        self._parameters = dict(reader.module.named_parameters(remove_duplicate=False))
        held = {*weights.changed, *weights.own, *reader.whole.unchanged}
        self._held = {id(self._parameters[name]) for name in held if name in self._parameters}
        self._old = any(parts.module not in self._modules for parts in reader.keys.modules)

    def found(self) -> Iterator[str]:
        """Yield each option with what is absent."""
        for option, absent in (
            ("trainable_token_indices", self._rows()),
            ("lora_bias", self._biases_of_factors()),
            (f"bias {self._options.get('bias')}", self._biases()),
            ("modules_to_save", self._saved()),
            ("target_modules", self._targets()),
            ("target_parameters", self._targeted_parameters()),
        ):
            if absent:
                yield f"{option} ({several(absent)})"

    def _name(self, path: str) -> str:
        """Return the path of a module as the adapter would have it: its file may be of an older transformers."""
        found = self._files.get(f"{path}.weight") if self._old else None
        path = found.removesuffix(".weight") if isinstance(found, str) else path
        return path.removeprefix(f"{self._reader.part}.") if self._reader.part else path

    def _named(self, name: str) -> list[str]:
        return [path for path in self._modules if path and self._name(path).endswith(name)]

    def _rows(self) -> list[str]:
        """List embeddings whose rows were trained; tied ones have those of one side."""
        rows = self._options.get("trainable_token_indices")
        parts = [one for one in self._reader.keys.modules if "token rows" in one.names]
        if not isinstance(rows, dict):
            return ["of the input"] if rows and not parts else []
        names = [str(name) for name in rows]
        return [name for name in names if not any(id(self._weight(path)) in self._held for path in self._named(name))]

    def _biases_of_factors(self) -> list[str]:
        if self._options.get("lora_bias") is not True:
            return []
        return [one.module for one in self._reader.keys.modules if "A" in one.names and "B bias" not in one.names]

    def _biases(self) -> list[str]:
        """List biases that were trained: of all modules, or of those that have factors."""
        every = {"all": self._modules, "lora_only": self._reader.paths}.get(str(self._options.get("bias")), ())
        own = [f"{path}.bias" for path in sorted(every) if path.startswith(self._reader.part)]
        return [name for name in own if name in self._parameters and id(self._parameters[name]) not in self._held]

    def _saved(self) -> list[str]:
        """List parameters of modules that were saved.

        PEFT saves all modules whose names end with these letters: `norm` means `input_layernorm` too.
        """
        paths = {path: None for name in texts(self._options.get("modules_to_save")) for path in self._named(name)}
        own = {f"{path}.{leaf}": p for path in paths for leaf, p in self._modules[path].named_parameters()}
        return [name for name, parameter in own.items() if id(parameter) not in self._held]

    def _targets(self) -> list[str]:
        """List layers that were targeted and have no factors."""
        changed = {id(self._weight(path)) for path in self._reader.paths}
        options = dict(self._options)
        if str(options.get("target_modules")).lower() == "all-linear":
            options["target_modules"] = [self._name(path) for path in linear(self._reader.module)]
        layers = {path: weight for path in self._modules if (weight := self._weight(path)) is not None}
        inside = [path for path in layers if path.startswith(self._reader.part) and targeted(self._name(path), options)]
        return [*(path for path in inside if id(layers[path]) not in changed), *self._experts(options)]

    def _experts(self, options: Mapping[str, object]) -> list[str]:
        """List targeted layers of an older version that are parts of a tensor today, if the file has some of these."""
        own = {parts.module for parts in self._reader.keys.modules}
        computed = {id(one): one for one in self._files.values() if isinstance(one, Conversion)}
        parts = [[name.removesuffix(".weight") for name in one.names] for one in computed.values()]
        partly = dict.fromkeys(path for paths in parts if own & {*paths} for path in paths)
        return [path for path in partly if path not in own and targeted(path, options)]

    def _targeted_parameters(self) -> list[str]:
        """List targeted parameters without factors: of several of one module, PEFT's file may hold one."""
        targets = texts(self._options.get("target_parameters"))
        names = [name for name in self._parameters if any(within(name, target) for target in targets)]
        return [name for name in names if id(self._parameters[name]) not in self._held]

    def _weight(self, path: str) -> Tensor | None:
        """Return the matrix of a layer that LoRA has factors for; None of another module."""
        layer = self._modules[path]
        if isinstance(layer, nn.MultiheadAttention):
            return layer.in_proj_weight
        return layer.weight if isinstance(layer, _LAYERS) else None
