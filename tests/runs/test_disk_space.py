"""The disk must have space for what a run writes, before it learns."""

import shutil
from types import SimpleNamespace

import pytest
import torch

from adamerge.runs.disk_space import check_space
from adamerge.runs.read_config import merge_config
from adamerge.runs.run_directory import RunDirectory
from adamerge.storage.weights import Header, InMemory
from adamerge.types import ConfigError


@pytest.mark.parametrize(
    ("heads", "most", "enough"),
    [(2, None, False), (2, "1KB", True), (0, None, True)],  # in one file each, in shared files, the same for all
)
def test_tasks_with_heads_take_the_size_of_a_model_each(tmp_path, monkeypatch, heads, most, enough):
    base = InMemory({"a": torch.zeros(1000)})
    assert base.headers == {"a": Header(torch.Size([1000]), torch.float32)}
    tasks = {task: SimpleNamespace(head=["head"] * (at < heads)) for at, task in enumerate("xy")}
    experts = SimpleNamespace(base=base, shared=("a",), tasks=tasks)
    models = [{"model": task} for task in tasks]
    config = merge_config({"base_model": "b", "models": models, "method": "task_arithmetic", "max_shard_size": most})
    free = shutil._ntuple_diskusage(0, 0, 10_000)  # twice the size of the base, and no third copy
    monkeypatch.setattr("adamerge.runs.disk_space.shutil.disk_usage", lambda place: free)
    if enough:
        check_space(config, experts, RunDirectory(tmp_path / "run"))
        return
    with pytest.raises(ConfigError, match="the disk is full"):
        check_space(config, experts, RunDirectory(tmp_path / "run"))
