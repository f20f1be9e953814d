"""Names of an adapter's tensors → module and part, as PEFT and mlx-lm write them."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple, TypeAlias

from adamerge.experts.name_patterns import listed
from adamerge.types import ConfigError

Part: TypeAlias = Literal["A", "B", "B bias", "embedding A", "embedding B", "magnitude", "token rows", "whole", "copy"]
"""What a tensor of an adapter is to its module; `whole` is a parameter of its own, `copy` what that has replaced."""

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
_WRAPPED = re.compile(r"(\.base_layer)+$")
_NAMED = re.compile(r".*\.lora_(?:[AB]\.(?P<linear>[^.]+)\.weight|embedding_[AB]\.(?P<embedding>[^.]+))")
"""Names of tensors that end with the adapter's name, as they are in a model's own state dict."""


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


def names_in(keys: Iterable[str]) -> list[str]:
    """List the names of adapters that the names of tensors contain; PEFT leaves them out when it saves an adapter.

    Example:
        >>> names_in(["model.q.lora_A.news.weight", "model.q.lora_B.news.weight", "model.k.lora_A.weight"])
        ['news']
    """
    found = (_NAMED.fullmatch(key) for key in keys)
    return list(dict.fromkeys(one["linear"] or one["embedding"] for one in found if one))


def place_of(key: str, name: str = "default") -> Place:
    """Read one name.

    Args:
        key: The name of a tensor.
        name: Of the adapter, which may be a part of it.

    Example:
        >>> place_of("base_model.model.model.layers.0.q_proj.lora_A.weight")
        Place(module='model.layers.0.q_proj', part='A', depth=0)
        >>> place_of("base_model.model.classifier.modules_to_save.default.weight").module
        'classifier.weight'
    """
    key = _PREFIX.sub("", key)
    wrappers = rf"\.(base_layer|modules_to_save(\.{re.escape(name)})?|original_module)(?=\.)"
    for pattern, part in _PATTERNS.items():
        found = pattern.fullmatch(key)
        if found:
            module = found["module"]
            wrapped = _WRAPPED.search(module)
            depth = wrapped.group().count(".base_layer") if wrapped else 0
            return Place(re.sub(wrappers, "", _WRAPPED.sub("", module)), part, depth)
    part = "copy" if ".original_module." in key else "whole"
    return Place(re.sub(wrappers, "", key), part, key.count(".base_layer."))


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
    def of_outer(self) -> bool:
        """Whether the module has factors because the one that it is in has."""
        return f".base_layer.{self.module.rpartition('.')[2]}." in self.first

    @property
    def mlx(self) -> bool:
        """Whether mlx-lm wrote the factors: A is (in, r) and B (r, out)."""
        return self.names.get("A", "").endswith("lora_a")


class Keys(NamedTuple):
    """An adapter's tensors by what they are.

    Attributes:
        modules: Modules with factors, magnitudes or token rows.
        whole: Whole parameters: names in the file by the parameter's name. PEFT writes a trained bias of a trained
            module under two.
        copies: The same of parameters of the base as they were in training, beside what changes or replaces them.
    """

    modules: list[Parts]
    whole: dict[str, list[str]]
    copies: dict[str, list[str]]


def group_keys(source: str, keys: Iterable[str]) -> Keys:
    """Group an adapter's tensors by module.

    Args:
        source: Name of the adapter in messages.
        keys: Names in its file.

    Raises:
        ConfigError: Two tensors have the same place, a factor has no partner, or the file holds no tensor, or several
            adapters.
    """
    keys = list(keys)
    names = names_in(keys)
    if len(names) > 1:
        raise ConfigError(
            f"{source}: expected the tensors of one adapter, found those of {len(names)} ({', '.join(names[:5])}). "
            "Save one: model.save_pretrained(…, selected_adapters=[…]) of PEFT."
        )
    modules: dict[tuple[str, int, bool], dict[Part, str]] = {}
    whole: dict[str, list[str]] = {}
    copies: dict[str, list[str]] = {}
    problems: list[str] = []
    for key in keys:
        place = place_of(key, *names)
        if place.part in ("whole", "copy"):
            # Biases are trained below the wrapper; weights there are those that the factors change.
            copied = place.part == "copy" or (place.depth > 0 and place.module.endswith(".weight"))
            (copies if copied else whole).setdefault(place.module, []).append(key)
            continue
        parts = modules.setdefault((place.module, place.depth, place.part == "token rows"), {})
        if parts.setdefault(place.part, key) != key:
            problems.append(_same_place(source, key, parts[place.part]))
    found = [Parts(module, names, depth) for (module, depth, _), names in modules.items()]
    problems += [problem for parts in found for problem in _partners(source, parts)]
    if not found and not whole:
        problems.append(f"{source}: expected an adapter's tensors, found a file without any. Save the adapter again.")
    if problems:
        raise ConfigError(*listed(problems))
    return Keys(found, whole, copies)


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
