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
    ("heads", "most", "begun", "enough"),
    [
        (2, None, 0, False),  # in one file each
        (2, "1KB", 0, True),  # in shared files
        (0, None, 0, True),  # the same for all
        (2, None, 4300, False),  # an export that was interrupted has too little of 14,400 bytes
        (2, None, 4500, True),
    ],
)
def test_tasks_with_heads_take_the_size_of_a_model_each(tmp_path, monkeypatch, heads, most, begun, enough):
    files = tmp_path / "run/.merged.0123456789abcdef.partial/files"
    files.mkdir(parents=True)
    (files / "model.safetensors").write_bytes(bytes(begun))
    (tmp_path / "run/.other.0123456789abcdef.partial").write_bytes(bytes(9000))
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
    with pytest.raises(ConfigError, match=r"full: expected 0\.0\d\d MB of .*, found 0\.010 MB"):
        check_space(config, experts, RunDirectory(tmp_path / "run"))
