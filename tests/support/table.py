"""The axes of the design as tables of values, and one run of learning for one value of each."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from support.digits import digits_family
from torch.optim import Adam

from adamerge.data.settings import Batching
from adamerge.learning.checkpoints import LAST
from adamerge.learning.keep_best import Watching
from adamerge.learning.learn import Calibration, learn
from adamerge.learning.learned import Learned
from adamerge.learning.settings import Learning
from adamerge.merging.grouping import block_wise, row_blocks, task_wise, tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors, uniform
from adamerge.merging.task_vectors import TaskVectors
from adamerge.objectives import CrossEntropy, Entropy, HiddenAlignment, LogitAlignment, Regulariser, Sum
from adamerge.optim import LBFGSB, Descent, FrankWolfe, ProjectedGradient, SoftFrankWolfe, check_pair
from adamerge.optim.feasible_sets import Box, Simplex, Unbounded
from adamerge.transforms import Dare, Doge, Isotropic, Lines, TaskSingularVectors, Ties, Wudi
from adamerge.transforms.stored import transformed
from adamerge.types import ConfigError

STEPS = 2

OBJECTIVES = {
    "entropy": Entropy(),
    "logits": LogitAlignment(),
    "hidden": HiddenAlignment(),
    "labels": CrossEntropy(),
    "sum": Sum([LogitAlignment(), Entropy()], [1.0, 0.5]),
    "pulled": Entropy(),
}
REGULARISERS = {"pulled": Regulariser(0.1, "l2")}
GROUPINGS = {
    "task": lambda shapes: task_wise(list(shapes)),
    "block": lambda shapes: block_wise(list(shapes)),
    "tensor": lambda shapes: tensor_wise(list(shapes)),
    "rows": lambda shapes: row_blocks(shapes, 2),
}
SETS = {"unbounded": Unbounded(), "box": Box(), "hull": Simplex(), "with base": Simplex(1.5, includes_base=True)}
OPTIMIZERS = {
    "Adam": partial(Adam, lr=2e-3),
    "projected gradient": ProjectedGradient(),
    "pairwise": FrankWolfe(),
    "away": FrankWolfe("short_step", "away"),
    "constant": FrankWolfe("constant", "plain", size=0.02),
    "cosine": FrankWolfe("armijo", "plain", selection="cosine"),
    "soft": SoftFrankWolfe(top_k=2, inner_steps=3),
    "soft, whole": SoftFrankWolfe(top_k=2, inner_steps=3, per="model"),
    "L-BFGS-B": LBFGSB(),
}
MAY_REST = ("cosine",)
"""Optimisers that the selected vertex may give no descent."""
VECTORS = {
    "mapped": None,
    "resident": None,
    "Ties": Ties(),
    "Dare": Dare(),
    "Doge": Doge(),
    "singular": TaskSingularVectors(),
    "lines": Lines(),
    "isotropic": Isotropic(),
    "wudi": Wudi(),
}
AXES: Mapping[str, tuple[str, ...]] = {
    "objective": tuple(OBJECTIVES),
    "grouping": tuple(GROUPINGS),
    "feasible": tuple(SETS),
    "optimizer": tuple(OPTIMIZERS),
    "vectors": tuple(VECTORS),
}


def allowed(row: Mapping[str, str]) -> bool:
    """Whether the table of undefined pairs lets optimiser and set meet, and there is something to learn."""
    transform = VECTORS.get(row.get("vectors", ""))
    if row.get("feasible") == "hull" and transform and len(transform.experts(("a", "b"))) == 1:
        return False  # a simplex of one vertex is a point, which `Simplex.check_experts` refuses
    optimizer = OPTIMIZERS.get(row.get("optimizer", ""))
    if not isinstance(optimizer, Descent) or "feasible" not in row:
        return True
    try:
        check_pair(optimizer.kind, SETS[row["feasible"]])
    except ConfigError:
        return False
    return True


class Table:
    """The small real problem, with task vectors of every kind; stored ones lie under a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._vectors: dict[str, TaskVectors] = {}

    def model(self, row: Mapping[str, str]) -> MergedModel:
        experts, _ = digits_family()
        vectors = self._of(row["vectors"])
        return MergedModel(experts, vectors, GROUPINGS[row["grouping"]](vectors.shapes))

    def learn(self, row: Mapping[str, str], checkpoints: Path | None, steps: int = STEPS) -> Learned:
        """Learn on all rows at every step and watch the same rows; go on from the checkpoint if there is one."""
        _, rows = digits_family()
        learning = Learning(
            OPTIMIZERS[row["optimizer"]],
            feasible=SETS[row["feasible"]],
            batching=Batching(batch_size=None),
            watching=Watching("last", every=1, patience=None),
            regulariser=REGULARISERS.get(row["objective"]),
            trainer={"max_steps": steps, "accelerator": "cpu", "enable_progress_bar": False},
        )
        return learn(
            self.model(row),
            OBJECTIVES[row["objective"]],
            Calibration(rows, rows),
            learning,
            checkpoints=checkpoints,
            resume=True,
        )

    def judge(self, row: Mapping[str, str], folder: Path | None) -> None:
        """Runs, stays feasible, improves its own objective; with a folder for checkpoints, resumes bit-identically."""
        whole = self.learn(row, None)
        feasible, model = SETS[row["feasible"]], self.model(row)
        assert feasible.contains(whole.coefficients)
        before, after = (look["objective"] for look in (whole.history[0], whole.history[-1]))
        start = feasible.project(uniform(model, 0.3))
        pull = REGULARISERS.get(row["objective"], Regulariser())
        after += pull(whole.coefficients, start).item() / len(model.tasks)  # the objective is a mean over tasks
        assert after <= before if row["optimizer"] in MAY_REST else after < before
        if folder is not None:
            self._resume(row, folder, whole)

    def _resume(self, row: Mapping[str, str], folder: Path, whole: Learned) -> None:
        half = self.learn(row, folder, STEPS // 2)
        assert (folder / LAST).exists() or half.converged  # at the first look, before there is anything to go on from
        resumed = self.learn(row, folder)
        assert torch.equal(resumed.coefficients, whole.coefficients)
        assert (resumed.certificate, resumed.selections) == (whole.certificate, whole.selections)
        assert [_timeless(look) for look in resumed.history] == [_timeless(look) for look in whole.history]

    def _of(self, kind: str) -> TaskVectors:
        if kind not in self._vectors:
            experts, _ = digits_family()
            plain = task_vectors(experts, experts.shared, resident=kind == "resident")
            transform = VECTORS[kind]
            stored = transformed(plain, experts.base, transform, self._folder / kind) if transform else plain
            self._vectors[kind] = stored
        return self._vectors[kind]


def _timeless(look: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in look.items() if key != "s/step"}
