"""What processes that learn together have in common: their sums, and each one's share of the rows."""

import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, distributed

from adamerge.types import ConfigError

Item = TypeVar("Item")


def rank_and_count() -> tuple[int, int]:
    """Return the number of this process, from 0, and how many there are; (0, 1) where it is alone.

    Example:
        >>> rank_and_count()
        (0, 1)
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def share_of(items: Sequence[Item], turn: int = 0, *, even: bool = False) -> Sequence[Item]:
    """Return this process's share of what all processes do together; it may be empty.

    Args:
        items: The same on every process.
        turn: Which process gets the first item; of many short lists, not always the same one should.
        even: Repeat the first item at the end of shorter shares, so that all have one length.

    Example:
        >>> share_of("abc")
        'abc'
    """
    rank, count = rank_and_count()
    share: Sequence[Item] = items[(rank + turn) % count :: count]
    missing = -(-len(items) // count) - len(share) if even else 0
    return [*share, *(items[0] for _ in range(missing))] if missing else share


def sum_over_processes(value: Tensor) -> Tensor:
    """Add up over processes, so that all of them take the same decision; the value itself where there is only one.

    Args:
        value: float, any shape, the same on every process.

    Returns:
        float, the shape of the value.

    Raises:
        ConfigError: Another process has ended.

    Example:
        >>> sum_over_processes(torch.tensor(2.0))
        tensor(2.)
    """
    return _over_processes(value, distributed.ReduceOp.SUM)


def most_over_processes(value: Tensor) -> Tensor:
    """Take the largest over processes, element by element; see `sum_over_processes`.

    Example:
        >>> most_over_processes(torch.tensor(2.0))
        tensor(2.)
    """
    return _over_processes(value, distributed.ReduceOp.MAX)


def _over_processes(value: Tensor, how: distributed.ReduceOp.RedOpType) -> Tensor:
    if rank_and_count()[1] == 1:
        return value
    total = value.clone()
    with others_may_end():
        distributed.all_reduce(total, how)  # pyright: ignore[reportUnknownMemberType]  (torch annotates it in part)
    return total


@contextmanager
def others_may_end() -> Generator[None]:
    """Say in words that another process has ended, where a collective in the block fails.

    Raises:
        ConfigError: Another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if not in_collective(error):
            raise
        rank, count = rank_and_count()
        raise ConfigError(
            f"process {rank} of {count}: another process of this run has ended ({str(error).splitlines()[0]}). Its own "
            "message says why. Resume the run when that is mended."
        ) from error


def in_collective(error: BaseException) -> bool:
    """Return whether an error was raised in torch.distributed, and not in a model that it runs."""
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    return str(innermost.f_globals.get("__name__", "")).startswith("torch.distributed")


def mean_over_processes(value: Tensor) -> Tensor:
    """Average over processes; see `sum_over_processes`.

    Example:
        >>> mean_over_processes(torch.tensor(2.0))
        tensor(2.)
    """
    return sum_over_processes(value) / rank_and_count()[1]


def on_any_process(fact: bool, device: torch.device) -> bool:
    """Return whether something is so on at least one process.

    Args:
        fact: Whether it is so on this one.
        device: Where processes add up.
    """
    return bool(sum_over_processes(torch.tensor(float(fact), device=device)).item())


def first_process_makes(make: Callable[[], object], device: torch.device) -> None:
    """Let the first process write something; the others wait for it.

    Args:
        make: Writes it.
        device: Where processes add up.
    """
    if rank_and_count()[0] == 0:
        make()
    on_any_process(False, device)
