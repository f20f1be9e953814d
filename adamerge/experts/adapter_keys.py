"""Names of an adapter's tensors → module and part, as PEFT and mlx-lm write them."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple, TypeAlias

from adamerge.types import ConfigError

Part: TypeAlias = Literal["A", "B", "B bias", "embedding A", "embedding B", "magnitude", "token rows", "whole"]
"""What a tensor of an adapter is to its module; `whole` is a parameter of its own."""

_PREFIX = re.compile(r"^(base_model\.model\.)+")
_PARTS: Mapping[str, Part] = {
    r"lora_A(\.[^.]+)?\.weight|lora_a": "A",
    r"lora_B(\.[^.]+)?\.weight|lora_b": "B",
    r"lora_B(\.[^.]+)?\.bias": "B bias",
    r"lora_embedding_A(\.[^.]+)?": "embedding A",
    r"lora_embedding_B(\.[^.]+)?": "embedding B",
    r"lora_magnitude_vector(\.[^.]+)?(\.weight)?|m": "magnitude",
    r"(token_adapter\.)?trainable_tokens_delta(\.[^.]+)?": "token rows",
}
_PATTERNS: Mapping[re.Pattern[str], Part] = {
    re.compile(rf"(?P<module>.+?)\.({pattern})"): part for pattern, part in _PARTS.items()
}
_WRAPPERS = re.compile(r"\.(base_layer|modules_to_save(\.default)?)(?=\.)")
_WRAPPED = re.compile(r"(\.base_layer)+$")


class Place(NamedTuple):
    """Where a tensor of an adapter belongs.

    Attributes:
        module: Path of the module; of a whole tensor, the name of the parameter.
        part: What it is there.
        depth: Number of wrappers (base_layer) that it is within: the first of several wrapped parameters is innermost.
    """

    module: str
    part: Part
    depth: int = 0


def place_of(key: str) -> Place:
    """Read one name.

    Example:
        >>> place_of("base_model.model.model.layers.0.q_proj.lora_A.weight")
        Place(module='model.layers.0.q_proj', part='A', depth=0)
        >>> place_of("base_model.model.classifier.modules_to_save.default.weight").module
        'classifier.weight'
    """
    key = _PREFIX.sub("", key)
    for pattern, part in _PATTERNS.items():
        found = pattern.fullmatch(key)
        if found:
            module = found["module"]
            wrapped = _WRAPPED.search(module)
            depth = wrapped.group().count(".base_layer") if wrapped else 0
            return Place(_WRAPPERS.sub("", _WRAPPED.sub("", module)), part, depth)
    return Place(_WRAPPERS.sub("", key), "whole", key.count(".base_layer."))


class Parts(NamedTuple):
    """The tensors of one module that has factors, by part.

    Attributes:
        module: Path of the module as the adapter names it.
        names: Name in the file by part.
        depth: Number of wrappers that they are within.
    """

    module: str
    names: Mapping[Part, str]
    depth: int = 0

    @property
    def first(self) -> str:
        """A name in the file, for messages."""
        return next(iter(self.names.values()))

    @property
    def mlx(self) -> bool:
        """Whether mlx-lm wrote the factors: A is (in, r) and B (r, out)."""
        return self.names.get("A", "").endswith("lora_a")


def group_keys(source: str, keys: Iterable[str]) -> tuple[list[Parts], dict[str, tuple[str, bool]]]:
    """Group an adapter's tensors by module.

    Args:
        source: Name of the adapter in messages.
        keys: Names in its file.

    Returns:
        Modules with factors, magnitudes or token rows; and whole parameters: name in the file, and whether it is of the
        wrapped layer (a copy of the base's), by the parameter's name.

    Raises:
        ConfigError: Two tensors have the same place, a factor has no partner, or the file holds no tensor.
    """
    modules: dict[tuple[str, int, bool], dict[Part, str]] = {}
    whole: dict[str, tuple[str, bool]] = {}
    problems: list[str] = []
    for key in keys:
        place = place_of(key)
        if place.part == "whole":
            if place.module in whole:
                problems.append(_same_place(source, key, whole[place.module][0]))
            whole[place.module] = (key, place.depth > 0)
            continue
        parts = modules.setdefault((place.module, place.depth, place.part == "token rows"), {})
        if place.part in parts:
            problems.append(_same_place(source, key, parts[place.part]))
        parts[place.part] = key
    found = [Parts(module, names, depth) for (module, depth, _), names in modules.items()]
    problems += [problem for parts in found for problem in _partners(source, parts)]
    if not found and not whole:
        problems.append(f"{source}: expected an adapter's tensors, found a file without any. Save the adapter again.")
    if problems:
        raise ConfigError("\n".join(problems))
    return found, whole


def _same_place(source: str, one: str, other: str) -> str:
    return f"{source}: {one} and {other} have the same place. Give an adapter with one of them."


_PAIRS: tuple[tuple[Part, Part], ...] = (
    ("A", "B"),
    ("B", "A"),
    ("embedding A", "embedding B"),
    ("embedding B", "embedding A"),
)
_BESIDE_FACTORS: tuple[Part, ...] = ("B bias", "magnitude")


def _partners(source: str, parts: Parts) -> Iterator[str]:
    for here, missing in _PAIRS:
        if here in parts.names and missing not in parts.names:
            yield (
                f"{source}: {parts.names[here]} has no partner: expected the factor {missing} of {parts.module}. "
                "The file is incomplete; save or copy the adapter again."
            )
    for part in _BESIDE_FACTORS:
        if part in parts.names and not {"A", "embedding A"} & parts.names.keys():
            yield f"{source}: {parts.names[part]} has no factors lora_A and lora_B beside it. Save the adapter again."
