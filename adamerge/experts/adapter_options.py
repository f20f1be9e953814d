"""Which modules an adapter's options name, by PEFT's rules."""

import re
from collections.abc import Mapping

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from adamerge.experts.heads import head_names


def texts(value: object) -> list[str]:
    """Return the texts of an option that is a list of names; none of another."""
    return [str(one) for one in value] if isinstance(value, list) else []


def targeted(path: str, options: Mapping[str, object]) -> bool:
    r"""Return whether target_modules names a module, and no other option takes it out.

    A text is a pattern of whole paths, a list has ends of paths, of layers of some numbers if there are any.

    Example:
        >>> targeted("model.layers.1.self_attn.q_proj", {"target_modules": ["q_proj"], "layers_to_transform": [0]})
        False
        >>> targeted("model.layers.0.self_attn.q_proj", {"target_modules": r".*\.(q|k)_proj"})
        True
    """
    if _names(options.get("exclude_modules"), path) or _in_saved(path, texts(options.get("modules_to_save"))):
        return False
    targets = options.get("target_modules")
    return _names(targets, path) and (isinstance(targets, str) or _of_layer(path, options))


def within(path: str, name: str) -> bool:
    """Return whether a path ends with a name, or is it.

    Example:
        >>> within("layers.0.norm", "norm"), within("layers.0.layernorm", "norm")
        (True, False)
    """
    return f".{path}".endswith(f".{name}")


def linear(module: nn.Module) -> list[str]:
    """List the layers that `all-linear` means: all that are linear, but for the output and heads."""
    outputs = {name.rpartition(".")[0] for name in head_names(module)}
    output = module.get_output_embeddings() if isinstance(module, PreTrainedModel) else None
    layers = ((path, layer) for path, layer in module.named_modules() if isinstance(layer, (nn.Linear, Conv1D)))
    return [path for path, layer in layers if layer is not output and path not in outputs]


def _names(value: object, path: str) -> bool:
    if isinstance(value, str):
        return _match(rf"(?:{value})$", path) is not None
    return any(within(path, name) for name in texts(value))


def _in_saved(path: str, saved: list[str]) -> bool:
    """Return whether a module is one of modules_to_save or inside one; there are no factors then."""
    return any(_match(rf"(^|.*\.){name}($|\..*)", path) for name in saved)


def _of_layer(path: str, options: Mapping[str, object]) -> bool:
    """Return whether layers_to_transform has the layer that a module is in; the first number counts."""
    numbers = options.get("layers_to_transform")
    if numbers is None or numbers == []:
        return True
    lists = options.get("layers_pattern") or [r"[^.]*"]
    patterns = [
        rf"(?:^|.*?\.){one}\.(?P<number>\d+)\." for one in ([lists] if isinstance(lists, str) else texts(lists))
    ]
    found = next((match for one in patterns if (match := _match(one, path))), None)
    return found is not None and int(found["number"]) in (numbers if isinstance(numbers, list) else [numbers])


def _match(pattern: str, path: str) -> re.Match[str] | None:
    """Match the start of a path; a pattern that is none matches nothing."""
    try:
        return re.match(pattern, path)
    except re.error:
        return None
