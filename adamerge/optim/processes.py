"""What processes that learn together have in common: their sums, and each one's share of the rows."""

from collections.abc import Callable, Sequence
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


def share_of(items: Sequence[Item], turn: int = 0) -> Sequence[Item]:
    """Return this process's share of what all processes do together; it may be empty.

    Args:
        items: The same on every process.
        turn: Which process gets the first item; of many short lists, not always the same one should.

    Example:
        >>> share_of("abc")
        'abc'
    """
    rank, count = rank_and_count()
    return items[(rank + turn) % count :: count]


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
    rank, count = rank_and_count()
    if count == 1:
        return value
    total = value.clone()
    try:
        distributed.all_reduce(total)  # pyright: ignore[reportUnknownMemberType]  (torch annotates it in part)
    except RuntimeError as error:
        raise ConfigError(
            f"process {rank} of {count}: another process of this run has ended ({str(error).splitlines()[0]}). Its own "
            "message says why. Resume the run when that is mended."
        ) from error
    return total


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
