"""Parameters that a class of models changes in its forward passes, found once per class and configuration.

They are found in a pass during which copies of all parameters are kept. If every task did that in its own first pass,
there would be copies beside the gradients of the tasks before it.
"""

import json
from weakref import WeakKeyDictionary

from torch import nn

_OF_LABELS = frozenset({"id2label", "label2id", "num_labels", "problem_type", "_name_or_path", "dtype"})
"""Keys of a configuration that decide on no more than the head, or on nothing in a pass."""

_FOUND: WeakKeyDictionary[type[nn.Module], dict[str, frozenset[str]]] = WeakKeyDictionary()


def known_writes(module: nn.Module) -> frozenset[str] | None:
    """Name the parameters that a pass of a like module has changed; None if none has run."""
    return _FOUND.get(type(module), {}).get(like(module))


def remember_writes(module: nn.Module, names: frozenset[str]) -> None:
    """Remember what a pass has changed, for modules of the same class and configuration; others may all differ."""
    if getattr(module, "config", None) is not None:
        _FOUND.setdefault(type(module), {})[like(module)] = names


def like(module: nn.Module) -> str:
    """Describe what the passes of a module depend on besides its class and its numbers: equal texts, equal passes."""
    convert = getattr(getattr(module, "config", None), "to_dict", dict[str, object])
    return json.dumps({key: value for key, value in convert().items() if key not in _OF_LABELS}, default=str)
