"""An optimiser that has not moved the coefficients is reported, with the reason; one that has moved them is not."""

import io
import json
from functools import partial

import pytest
import torch
from rich.console import Console
from support.digits import MANNERS, digits_family
from support.families import configuration, write
from torch.optim import LBFGS, SGD, Adam
from torch.optim.lr_scheduler import LambdaLR

from adamerge import Expert, Merge
from adamerge.data.settings import Batching
from adamerge.learning.keep_best import Watching
from adamerge.learning.learn import Calibration, learn
from adamerge.learning.settings import Learning
from adamerge.learning.stages import learn_in_stages
from adamerge.merging.chunks import Chunks
from adamerge.merging.grouping import task_wise, tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.objectives import CrossEntropy
from adamerge.optim import LBFGSB, FrankWolfe, ProjectedGradient, SoftFrankWolfe
from adamerge.optim.feasible_sets import Box, Simplex, Unbounded

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
NARROW = Box(0.3 - 1e-7, 0.3 + 1e-7)
"""Ends where the coefficients start, wherever their gradient points."""


def settings(optimizer, feasible=None, steps=3, *, scheduler=None, factor=1.0, init=0.3, **batching):
    return Learning(
        optimizer,
        scheduler=scheduler,
        feasible=feasible or Unbounded(),
        init=init,
        batching=Batching(batch_size=None, **batching),
        watching=Watching("last", every=100, patience=None),
        task_weights=dict.fromkeys(MANNERS, factor),
        trainer={"max_steps": steps, **QUIET},
    )


def learned(learning, grouping=task_wise):
    experts, own = digits_family()
    model = MergedModel(experts, task_vectors(experts, experts.shared, resident=True), grouping(experts.shared))
    return learn(model, CrossEntropy(), Calibration(own, {}), learning)


STUCK = {
    "lbfgs": (settings(LBFGS, factor=1e-6), "within tolerance_grad 1e-07, tolerance_change 1e-09"),
    "lbfgs without tolerances": (
        settings(partial(LBFGS, tolerance_grad=0.0, tolerance_change=0.0), factor=1e-8),
        "steps are too short",
    ),
    "small rate": (settings(partial(Adam, lr=1e-12)), "steps are too short (lr at most 1e-12)"),
    "hardly": (settings(partial(Adam, lr=1e-6)), "by more than 3e-06 (3 steps"),
    "small gradient": (settings(partial(SGD, lr=1e-3), factor=1e-7), "steps are too short"),
    "rate 0": (settings(partial(Adam, lr=0.1), scheduler=lambda o: LambdaLR(o, lambda step: 0.0)), "rate is 0"),
    "narrow": (settings(partial(SGD, lr=0.1), NARROW), f"{NARROW} ends where"),
    "projected": (settings(ProjectedGradient(), NARROW), f"{NARROW} ends where"),
    "lbfgsb": (settings(LBFGSB(), factor=1e-7), "tolerance is met at the start (residual"),
    "tolerant": (settings(ProjectedGradient(tolerance=1e9)), "tolerance is met at the start (residual"),
    "hard": (settings(FrankWolfe(tolerance=1e9), Simplex()), "tolerance is met at the start (gap"),
    "soft": (settings(SoftFrankWolfe(2, tolerance=1e9), Simplex()), "tolerance is met at the start (gap"),
    "no loss": (settings(partial(Adam, lr=0.1), factor=0.0), "the loss does not depend on the coefficients"),
}


@pytest.mark.parametrize("case", STUCK)
def test_an_optimiser_that_moved_nothing_is_said(case):
    learning, reason = STUCK[case]
    found = learned(learning)
    assert found.moved < 1e-4
    (line,) = found.warnings
    assert line.startswith("warning: ")
    assert "has moved no coefficient" in line
    assert reason in line


MOVING = [
    settings(partial(Adam, lr=0.01)),
    settings(partial(SGD, lr=0.1)),
    settings(partial(LBFGS, max_iter=2), steps=1),
    settings(LBFGSB()),
    settings(ProjectedGradient(), Simplex()),
    settings(FrankWolfe(), Simplex()),
    settings(SoftFrankWolfe(2, inner_steps=2), Simplex(), steps=2),
    settings(partial(Adam, lr=0.1), scheduler="cosine"),  # its rate ends at 0
]


@pytest.mark.parametrize("learning", MOVING, ids=lambda learning: str(learning.optimizer)[:30])
def test_an_optimiser_that_moved_is_not(learning):
    found = learned(learning)
    assert found.warnings == ()
    assert found.moved > 1e-3


def test_the_way_counts_and_not_its_end():
    """Two steps of opposite sign end at the start."""
    signs = iter([1.0, -1.0])

    class There(SGD):
        def step(self, closure=None):
            with torch.enable_grad():
                loss = closure()
            (parameter,) = self.param_groups[0]["params"]
            with torch.no_grad():
                parameter.add_(0.5 * next(signs))
            return loss

    found = learned(settings(partial(There, lr=1.0), steps=2))
    assert found.moved == pytest.approx(0.5)
    assert found.warnings == ()


def test_nothing_learned_is_nothing_to_say():
    found = learned(settings(None, steps=0))
    assert found.moved is None
    assert found.warnings == ()


@pytest.mark.parametrize("lr", [1e-12, 0.05])
def test_both_stages_are_looked_at(tmp_path, lr):
    experts, own = digits_family()
    model = MergedModel(experts, task_vectors(experts, experts.shared, resident=True), tensor_wise(experts.shared))
    learning = settings(partial(Adam, lr=lr), steps=4)
    staged = learn_in_stages(
        model, CrossEntropy(), Calibration(own, {}), learning, Chunks(first_steps=2), tmp_path / "first", made_of={}
    )
    stages = ["(in the first stage)", "(in the second stage)"] if lr < 1e-6 else []
    assert [line[-len(stage) :] for line, stage in zip(staged.learned.warnings, stages, strict=True)] == stages
    assert staged.learned.moved == pytest.approx(4 * lr, rel=0.5) or lr < 1e-6


def test_python_and_the_run_directory_say_it(family):
    keys = configuration(optimizer={"class_path": "Adam", "init_args": {"lr": 1e-12}}, trainer={"max_steps": 2})
    experts = [Expert(**model) for model in keys.pop("models")]
    merge = Merge(keys.pop("base_model"), experts, **keys)
    with pytest.warns(UserWarning, match="Adam has moved no coefficient"):
        result = merge.learn()
    assert result.moved == 0.0
    assert "moved no coefficient" in result.warnings[0]
    console = Console(record=True, width=400, file=io.StringIO())
    merge.fit("run", console=console)
    assert "warning: Adam has moved no coefficient" in console.export_text()
    for name in ("metrics", "recipe"):
        with open(f"run/{name}.json", encoding="utf-8") as file:
            assert json.load(file)["warnings"] == list(result.warnings)


def test_a_resumed_run_remembers_its_way(family, main):
    stuck = {"class_path": "Adam", "init_args": {"lr": 1e-12}}
    file = write(configuration(optimizer=stuck, trainer={"max_steps": 2, "accelerator": "cpu"}))
    assert main("fit", "--config", file, "--run_dir", "run")[0] == 0
    code, said, _ = main("fit", "--config", file, "--run_dir", "run", "--trainer.max_steps", "4", "--ckpt_path", "last")
    assert code == 0
    assert "has moved no coefficient (4 steps" in said
