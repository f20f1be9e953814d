"""Exports of a pool in a folder, in this process or in one that is struck; others import it from here."""

import torch
from support.processes import FORKS, arm

from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.merging.grouping import tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.results.export import export


def opened(folder):
    """Merge the experts a and b of the folder, written in bfloat16 and rounded at random."""
    experts = from_checkpoints(open_checkpoint(f"{folder}/base"), {n: open_checkpoint(f"{folder}/{n}") for n in "ab"})
    vectors = task_vectors(experts, inspect_weights(experts).changed, resident=False)
    model = MergedModel(experts, vectors, tensor_wise(tuple(vectors.shapes)))
    return model.written_in(torch.bfloat16, "stochastic")


def export_pool(folder, out, shard_bytes, coefficient=0.3):
    """Export their merge."""
    model = opened(folder)
    coefficients = coefficient + torch.arange(2.0 * len(model.grouping)).view(-1, 2) / 1000
    return export(model, coefficients, folder / out, shard_bytes=shard_bytes)


def export_struck(strike, *how):
    """Export in a process that is struck; returns its exit code."""
    process = FORKS.Process(target=_struck, args=(strike, *how))
    process.start()
    process.join(60)
    return process.exitcode


def _struck(strike, *how):
    arm(strike)
    export_pool(*how)
