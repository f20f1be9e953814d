"""Experts that are a base plus a change per tensor: LoRA factors or whole tensors, dense only when they are read."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from typing_extensions import override

from adamerge.storage.digest import FileDigest, FileIdentity, digest_of_json
from adamerge.storage.some_rows import SomeRows
from adamerge.storage.weights import Joined, Renamed, Weights, headers_of


class LowRank(NamedTuple):
    """The change of one tensor, seen as a matrix (R, M): scale · left @ right.

    The fused experts of a mixture, (E, R, M), have factors per expert of the mixture.

    Attributes:
        left: (R, r), or (E, R, r).
        right: (r, M), or (E, r, M).
        scale: α/r, or α/√r of rsLoRA.
    """

    left: Tensor
    right: Tensor
    scale: float

    def dense(self, shape: torch.Size, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the change in the tensor's own shape."""
        return (self.left.to(dtype) @ self.right.to(dtype)).mul_(self.scale).reshape(shape)

    def window(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """Return factors of a window of the change as a matrix; its columns are `columns(…)` of their product."""
        if self.left.ndim == 2:
            return self.left[rows], self.right[:, columns]
        first, stop = columns.start // self.right.shape[-1], -(-columns.stop // self.right.shape[-1])
        return self.left[rows, first:stop], self.right[rows]

    def columns(self, columns: slice) -> slice:
        """Return where a window's columns are in the product of its factors."""
        if self.left.ndim == 2:
            return slice(None)
        offset = columns.start - columns.start % self.right.shape[-1]
        return slice(columns.start - offset, columns.stop - offset)

    def some_rows(self, rows: slice) -> "LowRank":
        """Return the change of some rows of the tensor's first dimension."""
        right = self.right if self.left.ndim == 2 else self.right[rows]
        return LowRank(self.left[rows], right, self.scale)

    def square(self) -> float:
        """Return ‖scale · B A‖² = scale² · tr((BᵀB)(AAᵀ)), without the product itself."""
        left, right = self.left.double(), self.right.double()
        return self.scale**2 * ((left.mT @ left) * (right @ right.mT)).sum().item()


Dense: TypeAlias = Callable[[Tensor], Tensor]
"""The base's tensor → the expert's tensor, for changes that have no factors."""


@dataclass(frozen=True)
class Change:
    """What an adapter makes of one tensor of the base; exactly one of the first two is given.

    Attributes:
        low_rank: Maps nothing to the factors, of a matrix or of the experts of a mixture, which are read from their
            file when they are needed.
        dense: Computes the expert's tensor from the base's.
        kind: Of `dense`: what the change is, in words.
    """

    low_rank: Callable[[], LowRank] | None = None
    dense: Dense | None = None
    kind: str = ""

    def some_rows(self, rows: slice, whole: Callable[[], Tensor]) -> "Change":
        """Return the change of some rows.

        Args:
            rows: Rows of the tensor.
            whole: Computes all of the expert's tensor, which a change without factors is cut from.
        """
        if self.low_rank is None:
            return Change(None, lambda base: whole()[rows].to(base.dtype), self.kind)
        read = self.low_rank
        return Change(lambda: read().some_rows(rows))

    def factors(self) -> LowRank | None:
        """Read the factors; None if the change has none."""
        return self.low_rank() if self.low_rank else None


class Adapted(Weights):
    """A checkpoint with an adapter: tensors without a change are the checkpoint's own.

    Changed tensors are computed in fp32, or in the checkpoint's dtype if that has more digits; their headers have the
    dtype of the checkpoint, in which they are written.

    Args:
        base: The checkpoint's weights under the names of the expert's module.
        changes: The change per tensor.
        own: Tensors that the adapter brings in whole, for example a head.
        files: The adapter's files.
        settings: What else the tensors depend on (scales), for their digest.
        over_base: Whether the checkpoint is the base of the merge, and not another one.

    Attributes:
        base: The checkpoint's weights.
        over_base: Whether these are the base of the merge.
    """

    def __init__(
        self,
        base: Weights,
        changes: Mapping[str, Change],
        own: Mapping[str, Tensor],
        files: tuple[Path, ...] = (),
        settings: object = None,
        *,
        over_base: bool = True,
    ) -> None:
        self.base, self.over_base = base, over_base
        self._changes, self._own = dict(changes), dict(own)
        self._files = {file: FileDigest(file) for file in files}
        self._settings = settings
        self._headers = {**base.headers, **headers_of(own)}

    @property
    @override
    def files(self) -> Mapping[Path, FileDigest]:
        return self._files if self.over_base else {**self.base.files, **self._files}

    def with_copies(self, copies: Mapping[str, str]) -> "Adapted":
        """Return the same tensors, some of them under a second name too, as where embeddings are not tied.

        Args:
            copies: Name of an own tensor by second name.
        """
        if not copies:
            return self
        twice = copy.copy(self)
        below = {to: name for to, name in copies.items() if name in self.base}
        twice.base = Joined(self.base, Renamed(self.base, below))
        twice._changes = {**self._changes, **{to: self._changes[n] for to, n in copies.items() if n in self._changes}}
        twice._own = {**self._own, **{to: self._own[name] for to, name in copies.items() if name in self._own}}
        twice._headers = {**self._headers, **{to: self._headers[name] for to, name in copies.items()}}
        return twice

    def some_rows(self, rows: Mapping[str, slice]) -> "Adapted":
        """Return rows of the tensors; what no factors describe is computed whole where it is read.

        Args:
            rows: Rows (first dimension) of each tensor; other tensors are left out.
        """
        part = copy.copy(self)
        part.base = SomeRows(self.base, rows)
        part._changes = {
            name: self._changes[name].some_rows(own, partial(self.__getitem__, name))
            for name, own in rows.items()
            if name in self._changes
        }
        part._own = {name: self._own[name][own] for name, own in rows.items() if name in self._own}
        part._headers = {**part.base.headers, **headers_of(part._own)}
        return part

    def change(self, name: str) -> Change | None:
        """Return the change of one tensor of the base; None if the adapter does not touch it."""
        return self._changes.get(name)

    @property
    def changed(self) -> tuple[str, ...]:
        """The tensors of the base that the adapter changes."""
        return tuple(self._changes)

    @property
    def own(self) -> tuple[str, ...]:
        """The tensors that the adapter brings."""
        return tuple(self._own)

    @override
    def __getitem__(self, name: str) -> Tensor:
        if name in self._own:
            return self._own[name]
        base, change = self.base[name], self._changes.get(name)
        if change is None:
            return base
        dtype = torch.promote_types(base.dtype, torch.float32)
        if change.dense is not None:
            return change.dense(base.to(dtype))
        assert change.low_rank is not None
        return change.low_rank().dense(base.shape, dtype).add_(base.to(dtype))

    @override
    def pieces(self, name: str, size: int) -> Iterator[Tensor]:
        count = self.shape(name).numel()
        width = count // self.shape(name)[0] if self.shape(name) else count
        if name in self._own or self._changes.get(name, Change()).low_rank is None or width > size:
            return super().pieces(name, size)

        def piece(start: int, stop: int) -> Tensor:
            rows = slice(start // width, -(-stop // width))
            return self.some_rows({name: rows})[name].reshape(-1)[
                start - rows.start * width : stop - rows.start * width
            ]

        return (piece(start, min(start + size, count)) for start in range(0, count, size))

    @override
    def digest(self, file: FileIdentity = FileDigest.hexdigest) -> str:
        return digest_of_json([self.base.digest(file), super().digest(file), self._settings])
