"""Record in a saved configuration: its method, its values, and the keys that the user wrote."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from adamerge.runs.layers import leaves, only
from adamerge.runs.read_yaml import Document

RECORD: Final = ("written", "saved")
"""Keys of the record: the keys that the user wrote, and all settings as they were saved."""


@dataclass(frozen=True)
class Layer:
    """A file or an option, without its record.

    Attributes:
        document: Keys and values.
        written: Keys that the user wrote.
        recorded: Whether a record tells them from the keys that a method set.
        method: Method that set all other keys.
    """

    document: Document
    written: tuple[str, ...]
    recorded: bool
    method: str | None

    def for_method(self, method: str) -> "Layer":
        """Reduce a saved configuration of another method to the keys that the user wrote."""
        if not self.recorded or method == self.method:
            return self
        return replace(self, document=replace(self.document, content=only(self.document.content, self.written)))


def split_record(document: Document) -> Layer:
    """Separate a layer from its record. A value that differs from the saved one counts as written by the user.

    Args:
        document: Layer of a configuration, nested.

    Example:
        >>> saved = {"method": "ties", "init": 0.3, "dtype": "float32"}
        >>> split_record(Document(saved | {"init": 0.5, "written": ["method"], "saved": saved})).written
        ('method', 'init')
    """
    content = {key: value for key, value in document.content.items() if key not in RECORD}
    written, saved = (document.content.get(key) for key in RECORD)
    own = dict(leaves(content)) if content else dict[str, object]()
    recorded = isinstance(written, list | tuple)
    former = dict(leaves(saved)) if isinstance(saved, Mapping) else own
    keys = [key for key in map(str, written) if key.partition(".")[0] in content] if recorded else [*own]
    changed = [key for key, value in own.items() if key not in former or former[key] != value]
    method = former.get("method")
    return Layer(
        replace(document, content=content),
        tuple(dict.fromkeys([*keys, *changed])),
        recorded,
        method if isinstance(method, str) else None,
    )
