"""How an adapter's options name the modules that it changes, and which names PEFT would take for others."""

from collections.abc import Collection, Iterable, Mapping
from types import ModuleType

from torch import nn


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


SAVED_BY_TASK: Mapping[str | None, tuple[str, ...]] = {
    **dict.fromkeys(("SEQ_CLS", "TOKEN_CLS"), ("classifier", "score")),
    "QUESTION_ANS": ("qa_outputs",),
}
"""Ends of the names of modules that PEFT saves whole because of an adapter's task."""


def saved_modules(module: nn.Module, head: Collection[str]) -> list[str]:
    """Name the modules that hold parts of a head and nothing else, each as large as it can be: PEFT saves modules.

    Args:
        module: The model.
        head: Names of the head's parameters.

    Example:
        >>> head = nn.ModuleDict({"dense": nn.Linear(1, 1, bias=False), "out": nn.Linear(1, 1, bias=False)})
        >>> saved_modules(nn.ModuleDict({"body": nn.Linear(1, 1), "top": head}), ["top.dense.weight", "top.out.weight"])
        ['top']
    """
    found: list[str] = []
    for path, part in module.named_modules():  # a module comes before those in it
        own = {f"{path}.{name}" for name, _ in part.named_parameters()}
        if path and own and own <= {*head} and not is_in(path, found):
            found.append(path)
    return found


def is_in(name: str, modules: Iterable[str]) -> bool:
    """Return whether a parameter or module is in one of some modules."""
    return any(name.startswith(f"{path}.") for path in modules)


def saved_apart(module: nn.Module, task: str, saved: Collection[str]) -> bool:
    """Return whether PEFT would, because of the task, save a part of a saved module, or a module around one, too.

    It wraps both (0.21), and finds the tensors of neither.
    """
    paths = [path for path, _ in module.named_modules() if path.endswith(SAVED_BY_TASK.get(task, ()))]
    return any(is_in(path, saved) or any(is_in(one, [path]) for one in saved) for path in paths)


def misread(module: nn.Module, paths: Iterable[str]) -> set[str]:
    """Find the modules that PEFT would take for experts of transformers 4 because of their last word.

    In mixtures with dense layers or shared experts, PEFT (0.21) takes every `gate_proj` among the targets for one of
    the fused experts.

    Args:
        module: The model.
        paths: Of the modules.
    """
    conversion = _conversion()
    if conversion is None:
        return set()
    by_word: dict[str, list[str]] = {}
    for path in paths:
        by_word.setdefault(path.rpartition(".")[2], []).append(path)
    return {path for own in by_word.values() if not _kept(conversion, module, own[0]) for path in own}


def _conversion() -> ModuleType | None:
    try:
        from peft.utils import transformers_weight_conversion
    except ImportError:  # no PEFT, or one that converts nothing
        return None
    return transformers_weight_conversion


def _kept(conversion: ModuleType, module: nn.Module, path: str) -> bool:
    """Return whether PEFT leaves a target as it is."""
    from peft import LoraConfig

    options = LoraConfig(target_modules=[path])
    try:
        conversion.convert_peft_config_for_transformers(options, module, None)
    except ValueError:  # it misses the other half of what it takes for gate and up
        return False
    return path in (options.target_modules or ())
