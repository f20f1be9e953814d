"""Variables that a cluster or launcher sets neither crash nor change learning on one device."""

import importlib
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from lightning_fabric.utilities.rank_zero import rank_zero_only
from support.digits import digits_family

from adamerge.data.settings import Batching
from adamerge.learning import ranks
from adamerge.learning.keep_best import Watching
from adamerge.learning.learn import Calibration, learn
from adamerge.learning.settings import Learning
from adamerge.learning.trainer import first_rank
from adamerge.merging.grouping import task_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.objectives import Entropy

SLURM = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "a", "SLURM_NNODES": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}
TORCHRUN = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}
LAUNCHES = {
    "slurm": {**SLURM, "SLURM_NTASKS": "4", "SLURM_PROCID": "1"},
    "slurm, tasks per node": {**SLURM, "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4", "SLURM_PROCID": "3"},
    "torchrun": {**TORCHRUN, "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1", "TORCHELASTIC_RUN_ID": "none"},
    "kubeflow": {**TORCHRUN, "WORLD_SIZE": "4", "RANK": "2", "KUBERNETES_PORT": "tcp://127.0.0.1:443"},
    "lsf": {"LSB_JOBID": "7", "LSB_DJOB_RANKFILE": "/nowhere", "JSM_NAMESPACE_LOCAL_RANK": "0"},
    "left over": {"RANK": "1", "LOCAL_RANK": "nothing", "NODE_RANK": "x", "PL_SEED_WORKERS": "x"},
    "lightning": {"PL_TRAINER_DEVICES": "2", "PL_TRAINER_FAST_DEV_RUN": "1", "PL_TRAINER_LIMIT_TRAIN_BATCHES": "0"},
}  # fmt: skip


def learned(checkpoints):
    experts, rows = digits_family()
    vectors = task_vectors(experts, experts.shared, resident=True)
    model = MergedModel(experts, vectors, task_wise(tuple(vectors.shapes)))
    trainer = {"max_steps": 2, "accelerator": "cpu", "enable_progress_bar": False}
    watching = Watching("last", every=1, patience=None)
    learning = Learning(torch.optim.Adam, batching=Batching(batch_size=None), watching=watching, trainer=trainer)
    return learn(model, Entropy(), Calibration(rows, {}), learning, checkpoints=checkpoints).coefficients


@pytest.mark.parametrize("launch", LAUNCHES)
def test_a_launch_changes_nothing(launch, tmp_path, monkeypatch):
    alone = learned(tmp_path / "alone")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hpc_ckpt_1.ckpt").write_text("")  # in a job of SLURM, Lightning would load it
    for name, value in LAUNCHES[launch].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # as Lightning reads it where it is imported under RANK=1
    assert torch.equal(learned(tmp_path / "launched"), alone)
    assert {file.name for file in (tmp_path / "launched").iterdir()} >= {
        file.name for file in (tmp_path / "alone").iterdir()
    }
    assert rank_zero_only.rank == 1


@pytest.mark.parametrize("name", ranks.RANKS)
@pytest.mark.parametrize("value", ["abc", "", "1.5", "3"])
def test_lightning_is_imported_under_any_rank(monkeypatch, name, value):
    """Nothing here imports Lightning before `adamerge.learning` does."""
    monkeypatch.delitem(sys.modules, ranks.MODULE)
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    monkeypatch.setenv(name, value)
    ranks.import_lightning()
    assert os.environ[name] == value
    if value != "3":
        monkeypatch.delitem(sys.modules, ranks.MODULE)
        with pytest.raises(ValueError, match="invalid literal"):
            importlib.import_module(ranks.MODULE)


def test_lightning_is_imported_by_the_room_of_learning_alone():
    rooms = Path(ranks.__file__).parents[1]
    importing = re.compile(r"^\s*(from|import) (pytorch_lightning|lightning)", re.MULTILINE)
    found = {file.parent.name for file in rooms.rglob("*.py") if importing.search(file.read_text("utf-8"))}
    assert found == {"learning"}


def test_the_rank_is_put_back():
    former = rank_zero_only.rank
    with pytest.raises(KeyError), first_rank():
        raise KeyError
    assert rank_zero_only.rank == former
