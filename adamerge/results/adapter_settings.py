"""Options of the export as an adapter."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from adamerge.types import ConfigError, check_types


@dataclass(frozen=True)
class AdapterExport:
    """One PEFT adapter over the base instead of a complete checkpoint.

    Attributes:
        max_rank: Largest rank; smaller singular values are cut off, and the error is printed. null keeps all.
    """

    max_rank: int | None = None

    def __post_init__(self) -> None:
        """Check that the rank is positive."""
        check_types(self)
        if self.max_rank is not None and self.max_rank < 1:
            raise ConfigError(f"export.max_rank: expected 1 or more, or null for all, found {self.max_rank}.")


ExportKind: TypeAlias = Literal["checkpoint", "adapter"] | AdapterExport
"""What is written: a complete checkpoint, or an adapter with its options."""


def adapter_of(kind: ExportKind) -> AdapterExport | None:
    """Return the options of an adapter; None for a complete checkpoint.

    Example:
        >>> adapter_of("adapter"), adapter_of("checkpoint")
        (AdapterExport(max_rank=None), None)
    """
    if isinstance(kind, AdapterExport):
        return kind
    return AdapterExport() if kind == "adapter" else None
