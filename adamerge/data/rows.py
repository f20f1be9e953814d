"""Unlabeled calibration batches for every task."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from adamerge.batch import Batch
from adamerge.types import ConfigError


@dataclass(frozen=True)
class DataSource:
    """Where rows are and what their columns are called.

    Attributes:
        path: A .jsonl, .json, .csv, .tsv, .parquet or .txt file, a folder of images, a saved `datasets` directory, or
            a hub dataset id.
        text: Column with the text.
        text_pair: Column with a second text, for tasks on pairs.
        messages: Column with chat messages, for language models; the tokenizer's chat template is applied. A column
            called messages is found by itself where there is no column of texts.
        completion: Column with what follows the text, or what an encoder-decoder says to it, for language models.
        image: Column with the image.
        label: Column with the label; needed for evaluation, and in calibration by the objective CrossEntropy alone.
        split: Of a hub dataset or a saved directory.
        name: Configuration of a hub dataset.
        rows: Take this many rows, drawn with the seed; all by default.
    """

    path: str
    text: str = "text"
    text_pair: str | None = None
    messages: str | None = None
    completion: str | None = None
    image: str = "image"
    label: str = "label"
    split: str = "train"
    name: str | None = None
    rows: int | None = None

    def __post_init__(self) -> None:
        """Check the number."""
        if self.rows is not None and self.rows < 1:
            raise ConfigError(f"{self.path}: expected at least 1 under rows, got {self.rows}.")


@dataclass(frozen=True)
class PseudoAnswers:
    """How each expert answers the prompts of its calibration rows, once, before anything is learned.

    Attributes:
        max_new_tokens: Tokens an answer at most.
        sample: Draw each token at random, with the run's seed, rather than take the likeliest (greedy).
        temperature: Of drawing; lower is nearer to greedy.
        top_p: Draw from the likeliest tokens that together have this probability.
    """

    max_new_tokens: int = 64
    sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.max_new_tokens < 1:
            raise ConfigError(f"data.pseudo_answers.max_new_tokens: expected at least 1, got {self.max_new_tokens}.")
        if not self.temperature > 0:
            raise ConfigError(f"data.pseudo_answers.temperature: expected more than 0, got {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"data.pseudo_answers.top_p: expected more than 0 and at most 1, got {self.top_p}.")


@dataclass(frozen=True)
class Batching:
    """How calibration rows are used.

    Attributes:
        rows: Calibration rows a task, drawn with the seed; null takes all.
        held_out: Share of them that is watched and not learned from; 0 watches nothing.
        batch_size: Rows a task and step; null takes all rows at every step.
        micro_batch: Rows that pass a model together; a matter of memory and padding alone.
        max_length: Tokens a row at most; null leaves it to the tokenizer.
        positions: Of language models, which positions count, in learning, agreement and perplexity alike: all that are
            not padding, or those that predict a token of the completion (of chats, of the assistant's last turn).
        pseudo_answers: Let each expert first answer its own calibration prompts, which then are the completions;
            null takes the rows as they are.
    """

    rows: int | None = 256
    held_out: float = 0.25
    batch_size: int | None = 16
    micro_batch: int = 64
    max_length: int | None = None
    positions: Literal["all", "completion"] = "all"
    pseudo_answers: PseudoAnswers | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        numbers = {"rows": self.rows, "batch_size": self.batch_size, "micro_batch": self.micro_batch}
        for key, value in {**numbers, "max_length": self.max_length}.items():
            if value is not None and value < 1:
                raise ConfigError(f"data.{key}: expected at least 1, got {value}.")
        if not 0 <= self.held_out < 1:
            raise ConfigError(f"data.held_out: expected a share from 0 up to but not 1, got {self.held_out}.")


class Rows(ABC):
    """One task's rows, ready to be made into batches."""

    @abstractmethod
    def __len__(self) -> int:
        """How many rows there are."""

    @abstractmethod
    def batch(self, indices: Sequence[int]) -> Batch:
        """The rows of these indices as one batch."""

    def by_length(self, indices: Sequence[int]) -> Sequence[int]:
        """These indices with rows of like length beside each other: less padding where the order does not matter.

        The longest come first: the batches after them fit into the memory that they gave back, where growing ones would
        each need more, and what does not fit at all fails at once.
        """
        return indices

    def batches(self, size: int, indices: Sequence[int] | None = None) -> Iterator[Batch]:
        """All rows, or those of `indices`, in batches of `size` of like length."""
        indices = self.by_length(range(len(self)) if indices is None else indices)
        for start in range(0, len(indices), size):
            yield self.batch(indices[start : start + size])


class TensorRows(Rows):
    """Rows that are tensors already.

    Args:
        inputs: Keyword arguments of the module, each (N, …).
        labels: (N,) or None.
        positions: Which positions count, (N, S), or None.
    """

    def __init__(
        self, inputs: Mapping[str, Tensor], labels: Tensor | None = None, positions: Tensor | None = None
    ) -> None:
        self._inputs, self._labels, self._positions = dict(inputs), labels, positions

    def __len__(self) -> int:
        return len(next(iter(self._inputs.values())))

    @override
    def batch(self, indices: Sequence[int]) -> Batch:
        rows = torch.as_tensor(indices)
        labels, positions = (None if t is None else t[rows] for t in (self._labels, self._positions))
        return Batch({name: tensor[rows] for name, tensor in self._inputs.items()}, rows, positions, labels)


class Subset(Rows):
    """Some rows of another, under new indices."""

    def __init__(self, rows: Rows, indices: Sequence[int]) -> None:
        self._rows, self._indices = rows, list(indices)

    def __len__(self) -> int:
        return len(self._indices)

    @override
    def batch(self, indices: Sequence[int]) -> Batch:
        return self._rows.batch([self._indices[i] for i in indices])._replace(rows=torch.as_tensor(list(indices)))

    @override
    def by_length(self, indices: Sequence[int]) -> Sequence[int]:
        here = {self._indices[i]: i for i in indices}
        return [here[i] for i in self._rows.by_length(list(here))]


def first_rows(rows: Mapping[str, Rows], count: int) -> dict[str, Rows]:
    """At most so many rows of every task; they were drawn at random before, so any will do."""
    return {task: Subset(own, range(min(count, len(own)))) for task, own in rows.items()}


@dataclass(frozen=True)
class Schedule:
    """Which rows a step takes: a pure function of (seed, step), so that resuming needs no state.

    Each pass over a task's rows is in a new random order; batches run on from one pass into the next.

    Attributes:
        seed: Of the orders.
        size: Rows a task and step; None takes all rows at every step, in their own order.
    """

    seed: int
    size: int | None

    def rows(self, step: int, task: int, count: int) -> list[int]:
        """Indices of the rows that the task with that index, which has `count` rows, takes in a step.

        Example:
            >>> schedule = Schedule(seed=0, size=2)
            >>> sorted(schedule.rows(0, 0, 4) + schedule.rows(1, 0, 4))
            [0, 1, 2, 3]
        """
        if self.size is None:
            return list(range(count))
        places = range(step * self.size, (step + 1) * self.size)
        orders = {epoch: self._order(epoch, task, count) for epoch in {place // count for place in places}}
        return [orders[place // count][place % count] for place in places]

    def _order(self, epoch: int, task: int, count: int) -> list[int]:
        seed = (self.seed * 1_000_003 + task) * 1_000_003 + epoch
        return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()


def move(batch: Batch, device: torch.device, dtype: torch.dtype) -> Batch:
    """A batch on the device of the computation, images in its dtype."""
    inputs = {n: t.to(device, dtype if t.is_floating_point() else None) for n, t in batch.inputs.items()}
    rest = (None if t is None else t.to(device) for t in (batch.positions, batch.labels))
    return Batch(inputs, batch.rows, *rest)


def count(batch: Batch) -> int:
    """What a mean over a batch is taken over: its rows, or the positions that count."""
    return len(batch.rows) if batch.positions is None else int(batch.positions.sum())


def split_held_out(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Divide row indices into those to learn from and those to watch, at random but for the seed.

    Example:
        >>> learn, watch = split_held_out(8, 0.25, seed=0)
        >>> len(learn), len(watch), sorted(learn + watch) == list(range(8))
        (6, 2, True)
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    watched = min(round(count * share), count - 1)
    return sorted(order[watched:]), sorted(order[:watched])
