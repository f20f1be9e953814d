"""Tensors with a row per token, under the indices of another tokenizer."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.match_names import match
from adamerge.experts.own_class import of_base
from adamerge.storage.digest import FileDigest, FileIdentity, digest_of_json
from adamerge.storage.weights import Header, Weights
from adamerge.types import IncompatibleExpertsError

ABSENT = -1
"""In place of the index of a token that a model does not know."""


def vocabulary_size(checkpoint: Checkpoint) -> int | None:
    """Return the number of rows for tokens by config.json; None if it does not say."""
    found = getattr(checkpoint.config.get_text_config(), "vocab_size", None)
    return found if isinstance(found, int) else None


def resized(checkpoint: Checkpoint, size: int) -> Checkpoint:
    """Return a checkpoint whose configuration has another number of tokens; its tensors are not changed."""
    config = copy.deepcopy(checkpoint.config)
    for part in (config, config.get_text_config()):
        if hasattr(part, "vocab_size"):
            part.vocab_size = size
    return replace(checkpoint, config=config)


def vocabulary_tensors(checkpoint: Checkpoint) -> dict[str, int]:
    """Find the tensors of the files that grow with the vocabulary, each with the dimension that does.

    The module is built with one token more: what then has another shape has a row per token, whatever its name.

    Args:
        checkpoint: A complete checkpoint whose configuration has `vocab_size`.
    """
    size = vocabulary_size(checkpoint)
    assert size is not None
    module = of_base(checkpoint)
    now, grown = module.state_dict(), of_base(resized(checkpoint, size + 1)).state_dict()
    dims = {n: d for n, own in now.items() for d in range(own.dim()) if own.shape[d] != grown[n].shape[d]}
    names = match(checkpoint, module).names
    found = {disk: dims[name] for name, disk in names.items() if name in dims and isinstance(disk, str)}
    for disk, header in checkpoint.tensors.headers.items():
        name = next((n for n in dims if is_alike(n, disk) and header.shape == now[n].shape), None)
        found |= {disk: dims[name]} if name else {}
    return found


def is_alike(one: str, other: str) -> bool:
    """Return whether two names differ at most by a prefix.

    Example:
        >>> is_alike("bert.words.weight", "words.weight"), is_alike("my_words.weight", "words.weight")
        (True, False)
    """
    return f".{one}".endswith(f".{other}") or f".{other}".endswith(f".{one}")


@dataclass(frozen=True, eq=False)
class TokenRows:
    """The rows for tokens of one model.

    Attributes:
        weights: Its tensors.
        tensors: Dimension of the tokens by name of tensor.
        rows: Index in this model of every token of the common tokenizer; `ABSENT` where it does not know it.
    """

    weights: Weights
    tensors: Mapping[str, int]
    rows: tuple[int, ...]

    def tensor_like(self, name: str) -> str | None:
        """Name the tensor that another model calls `name`; None without one."""
        return next((own for own in self.tensors if is_alike(own, name)), None)

    def row(self, name: str, index: int) -> Tensor:
        """Return one row of a tensor, in float32."""
        return self.weights[name].select(self.tensors[name], self.rows[index]).float()

    @cached_property
    def _digests(self) -> dict[FileIdentity, str]:
        return {}

    def digest(self, file: FileIdentity) -> str:
        """Hash of the tensors and the indices; computed once."""
        if file not in self._digests:
            self._digests[file] = digest_of_json([self.weights.digest(file), self.rows])
        return self._digests[file]


class CommonRows(Weights):
    """A model's tensors with a row for each token of a common tokenizer.

    A row that the model lacks is the mean of those of the models that have it, so nothing is learned of it here: its
    task vector is 0 unless several models have other rows of it.

    Args:
        own: Rows of the model.
        others: Rows of all models, in order.
    """

    def __init__(self, own: TokenRows, others: Sequence[TokenRows]) -> None:
        self._own, self._others = own, others
        headers = dict(own.weights.headers)
        for name, dim in own.tensors.items():
            shape, dtype = headers[name]
            headers[name] = Header(torch.Size([*shape[:dim], len(own.rows), *shape[dim + 1 :]]), dtype)
        self._headers = headers

    @property
    @override
    def files(self) -> Mapping[Path, FileDigest]:
        return self._own.weights.files

    @override
    def place(self, name: str) -> tuple[str, int]:
        return self._own.weights.place(name)

    @override
    def pieces(self, name: str, size: int) -> Iterator[Tensor]:
        return super().pieces(name, size) if name in self._own.tensors else self._own.weights.pieces(name, size)

    @override
    def digest(self, file: FileIdentity = FileDigest.hexdigest) -> str:
        return digest_of_json([self._own.digest(file), *(other.digest(file) for other in self._others)])

    def __getitem__(self, name: str) -> Tensor:
        tensor, dim = self._own.weights[name], self._own.tensors.get(name)
        if dim is None:
            return tensor
        found = tensor.index_select(dim, torch.tensor([max(row, 0) for row in self._own.rows]))
        for index, row in enumerate(self._own.rows):
            if row == ABSENT:
                found.select(dim, index).copy_(self._lent(name, index))
        return found

    def _lent(self, name: str, index: int) -> Tensor:
        """Return the mean of the other models' rows of a token; of a tensor that none of them has, of its own rows."""
        having = [(one, one.tensor_like(name)) for one in self._others if one.rows[index] != ABSENT]
        rows = [one.row(like, index) for one, like in having if like is not None]
        if rows:
            return torch.stack(rows).mean(0)
        return self._own.weights[name].float().mean(self._own.tensors[name])


def with_rows(checkpoints: Sequence[Checkpoint], rows: Sequence[tuple[int, ...]]) -> list[Checkpoint]:
    """Give checkpoints a row for each token of a common tokenizer, and its number of tokens.

    Args:
        checkpoints: Complete checkpoints.
        rows: Index in each of every token of the common tokenizer.

    Raises:
        IncompatibleExpertsError: A model has no tensor with a row per token.
    """
    every = [TokenRows(one.tensors, vocabulary_tensors(one), own) for one, own in zip(checkpoints, rows, strict=True)]
    for one, own in zip(checkpoints, every, strict=True):
        if not own.tensors:
            raise IncompatibleExpertsError(
                f"{one.source}: tokenizer: expected a tensor with a row per token of vocab_size, found none. Remove "
                "the key tokenizer."
            )
    return [
        replace(resized(one, len(own.rows)), tensors=CommonRows(own, every))
        for one, own in zip(checkpoints, every, strict=True)
    ]
