"""What mergekit's YAML allows for one value: models, weights by filter, mappings, texts."""

from collections.abc import Mapping
from typing import NamedTuple


class Named(NamedTuple):
    """A model of a configuration of mergekit.

    Attributes:
        model: Directory or hub id.
        adapter: Directory or hub id of an adapter of it; None without one.
    """

    model: str
    adapter: str | None = None

    @property
    def word(self) -> str:
        """The model as mergekit writes it."""
        return "+".join(filter(None, self))


def named(value: object) -> Named | None:
    """Name a model, which mergekit allows as model+adapter or as {model: {path: …, revision: …}, lora: {path: …}}."""
    if isinstance(value, Mapping):
        path, adapter = _place(value.get("model", value)), _place(value.get("lora"))
    else:
        path, _, adapter = (text_of(value) or "").partition("+")
    return Named(path, adapter or None) if path else None


def _place(value: object) -> str | None:
    """Write a path with its revision, which mergekit allows as a text or as keys."""
    if not isinstance(value, Mapping):
        return text_of(value)
    path, revision = text_of(value.get("path")), text_of(value.get("revision"))
    return f"{path}@{revision}" if path and revision else path


def mapping(value: object) -> Mapping[str, object]:
    """Return a mapping; an empty one where the value is none."""
    return value if isinstance(value, Mapping) else {}


def listed(value: object) -> list[object]:
    """Return a list; an empty one where the value is none."""
    return value if isinstance(value, list) else []


def text_of(value: object) -> str | None:
    """Write a value as text; None where it is absent."""
    return None if value is None else str(value)


def filters(weight: object) -> list[Mapping[str, object]]:
    """Return a weight as mappings of filter and value; empty where it is a number or a list of numbers."""
    each = weight if isinstance(weight, list) else [weight]
    return [one for one in each if isinstance(one, Mapping)]


def number(weight: object) -> float:
    """Return a weight as a number; 0 where it is a list or absent."""
    return float(weight) if isinstance(weight, int | float) else 0.0
