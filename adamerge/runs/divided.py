"""A configuration's model, divided among processes to learn where `trainer.strategy: fsdp2` says so."""

from functools import partial

from adamerge.merging.device import free_bytes
from adamerge.merging.merged_model import MergedModel
from adamerge.merging.sharded import ShardedExecution
from adamerge.merging.shards import Shards
from adamerge.runs.choose_memory import gathered_in
from adamerge.runs.config import MergeConfig


def divided(config: MergeConfig, model: MergedModel) -> MergedModel:
    """Divide a model among the processes that have joined, or return it as it is.

    Args:
        config: Configuration.
        model: The model; this process has read none of its weights yet.
    """
    if config.trainer.strategy != "fsdp2":
        return model
    mode = config.memory_settings.mode
    resident = None if mode == "auto" else mode == "resident"
    room = free_bytes(model.vectors.device)
    if model.vectors.device.type == "cpu":
        room //= config.trainer.devices
    return model.executed_by(partial(ShardedExecution, Shards(model, resident, room, gathered_in(config))))
