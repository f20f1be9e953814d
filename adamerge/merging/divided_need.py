"""Bytes that a process takes for a step on a model that several processes divide among them (`fsdp2`).

With N processes, P numbers of parameters that all tasks have in common, of which R are in no block, and B numbers in
the largest block; w bytes for a number of a shard (4), g for one that is gathered (2 in bf16-mixed, else w):

    shards and their gradients      2 · w · P / N
    gathered                        g · (R + 2B)          what belongs to no block; a block, and the next one's copy
    gradients before they are sums  g · (R + B) + w · (R + B)

Heads are whole on every process. Activations are those of a model in memory.
"""

from collections.abc import Sequence

import torch

from adamerge.experts.experts import Experts
from adamerge.merging.blocks import find_blocks
from adamerge.merging.choose_execution import Memory, Need
from adamerge.merging.mapped_task_vectors import SCRATCH
from adamerge.merging.saved_bytes import Saved


def divided_bytes(common: int, outside: int, block: int, processes: int, shard: int = 4, gathered: int = 4) -> int:
    """Count the bytes of parameters and gradients that one process holds at once.

    Args:
        common: P, numbers of parameters.
        outside: R, those in no block.
        block: B, those in the largest block.
        processes: N.
        shard: w, bytes of a number in a shard.
        gathered: g, bytes of a number that is gathered.

    Example:
        >>> divided_bytes(70_553_706_496, 2_101_354_496, 855_654_400, 8, gathered=2) // 10**9  # Llama 3 70B, bf16-mixed
        95
    """
    shards = 2 * shard * common // processes
    return shards + gathered * (outside + 2 * block) + (gathered + shard) * (outside + block)


def divided_need(
    experts: Experts,
    names: Sequence[str],
    memory: Memory,
    processes: int,
    dtype: torch.dtype,
    gathered: torch.dtype,
    saved: Saved | None,
) -> Need:
    """Estimate what each process takes.

    Args:
        experts: Base and experts.
        names: Parameters with task vectors.
        memory: Paths of blocks, if they are not to be found.
        processes: N.
        dtype: Of shards.
        gathered: Dtype in which parameters are gathered.
        saved: Bytes of activations; None if unknown.
    """
    common = dict.fromkeys([*names, *experts.shared, *experts.kept])
    total = sum(experts.base.shape(name).numel() for name in common)
    expert = next(iter(experts.tasks.values()))
    blocks = find_blocks(expert.module, [expert.prefix + path for path in memory.blocks])
    sizes = [sum(own.numel() for own in expert.module.get_submodule(path).parameters()) for path in blocks]
    heads = sum(one.weights.shape(name).numel() for one in experts.tasks.values() for name in one.whole_head)
    held = divided_bytes(
        total, max(0, total - sum(sizes)), max(sizes, default=0), processes, dtype.itemsize, gathered.itemsize
    )
    scratch = SCRATCH * dtype.itemsize
    return Need("fsdp2", scratch, held + heads * dtype.itemsize, None if saved is None else saved.whole)
