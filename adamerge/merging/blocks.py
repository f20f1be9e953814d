"""Find a model's blocks: modules that run one after another, so that a pass can stop between two of them.

Nothing here knows an architecture. A block is an entry of a list of like modules (the layers of an encoder, of a
decoder, of a vision tower), or what the user names. Every other module with parameters that the model calls
(embeddings, norms, heads) is run by itself too; modules around blocks only pass on what blocks return.
"""

# pyright: standard

from collections import Counter
from collections.abc import Iterator, Sequence

from torch import nn

from adamerge.types import ConfigError


def find_blocks(module: nn.Module, given: Sequence[str] = ()) -> tuple[str, ...]:
    """Find the paths of a module's blocks; empty if it has no list of like modules.

    Of lists inside lists, the outer ones count.

    Args:
        module: The module.
        given: Paths of blocks, or of containers (nn.Sequential, nn.ModuleList) of blocks, instead of a search.

    Raises:
        ConfigError: There is no module with parameters at a given path, or one given block is inside another.

    Example:
        >>> net = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]), "head": nn.Linear(2, 1)})
        >>> find_blocks(net), find_blocks(net, ["head"])
        (('layers.0', 'layers.1'), ('head',))
    """
    if not given:
        return tuple(_searched(module, ""))
    blocks = [block for path in given for block in _given(module, path)]
    inside = [one for one in blocks for other in blocks if one.startswith(f"{other}.")]
    if inside:
        raise ConfigError(f"memory.blocks: expected blocks beside each other, but {inside[0]} is inside another one.")
    return tuple(dict.fromkeys(blocks))


def frames(blocks: Sequence[str]) -> frozenset[str]:
    """Return the paths of the modules around blocks, whose own code runs between blocks.

    Example:
        >>> sorted(frames(["encoder.layers.0", "encoder.layers.1"]))
        ['', 'encoder', 'encoder.layers']
    """
    return frozenset(
        ".".join(parts[:end]) for block in blocks for parts in [block.split(".")] for end in range(len(parts))
    )


def _searched(module: nn.Module, prefix: str) -> Iterator[str]:
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList) and _alike(child):
            yield from (f"{prefix}{name}.{number}" for number in range(len(child)))
        else:
            yield from _searched(child, f"{prefix}{name}.")


def _alike(modules: nn.ModuleList) -> bool:
    """Return whether all entries of a list have parameters, and half of them or more are of one class."""
    classes = Counter(type(module) for module in modules)
    return bool(classes) and all(map(_has_parameters, modules)) and 2 * max(classes.values()) >= len(modules)


def _given(module: nn.Module, path: str) -> list[str]:
    """Return the path of a block, or the paths of the entries of a container that have parameters."""
    try:
        found = module.get_submodule(path) if path else None
    except AttributeError:
        found = None
    if found is None or not _has_parameters(found):
        lists = [
            name for name, part in module.named_modules() if name and isinstance(part, nn.ModuleList | nn.Sequential)
        ]
        raise ConfigError(
            f"memory.blocks: expected the path of a module with parameters in {type(module).__name__}, found {path!r}. "
            f"Its lists of modules: {', '.join(lists[:8]) or 'none'}."
        )
    if isinstance(found, nn.ModuleList | nn.Sequential):
        return [f"{path}.{name}" for name, part in found.named_children() if _has_parameters(part)]
    return [path]


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())
