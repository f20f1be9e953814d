"""Optimisers that evaluate the loss themselves, under Lightning: same rows per step, step counts, early stop."""

from dataclasses import replace

import pytest
import torch
from support.digits import digits_family
from torch.func import functional_call

from adamerge.data.schedule import Schedule
from adamerge.data.settings import Batching
from adamerge.learning.keep_best import Watching
from adamerge.learning.learn import Calibration, learn
from adamerge.learning.settings import Learning, check_learning
from adamerge.merging.grouping import task_wise, tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.objectives import CrossEntropy, LogitAlignment
from adamerge.optim import LBFGSB, FrankWolfe, ProjectedGradient, SoftFrankWolfe
from adamerge.optim.feasible_sets import Simplex, Unbounded
from adamerge.types import ConfigError

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def model(grouping=task_wise):
    experts, _ = digits_family()
    return MergedModel(experts, task_vectors(experts, experts.shared, resident=True), grouping(experts.shared))


def learning(optimizer, feasible, steps, **batching):
    watching = Watching("last", every=100, patience=None)
    batching = Batching(**batching)
    return Learning(
        optimizer, feasible=feasible, batching=batching, watching=watching, trainer={"max_steps": steps, **QUIET}
    )


def test_every_evaluation_of_a_step_uses_the_same_rows(monkeypatch):
    seen = {}
    original = Schedule.rows

    def rows(self, step, task, count):
        chosen = original(self, step, task, count)
        seen.setdefault((step, task), []).append(chosen)
        return chosen

    monkeypatch.setattr(Schedule, "rows", rows)
    _, own = digits_family()
    optimizer = SoftFrankWolfe(top_k=2, inner_steps=4)
    found = learn(model(), CrossEntropy(), Calibration(own, {}), learning(optimizer, Simplex(), 3, batch_size=4))
    assert {step for step, _ in seen} == {0, 1, 2}
    assert all(chosen == calls[0] for calls in seen.values() for chosen in calls)
    assert seen[0, 0][0] != seen[1, 0][0]
    assert sum(len(calls) for (_, task), calls in seen.items() if task == 0) == found.certificate["evaluations"] > 6


@pytest.mark.parametrize(
    "optimizer", [FrankWolfe(), SoftFrankWolfe(2, inner_steps=4), ProjectedGradient(), LBFGSB()], ids=str
)
def test_learning_stops_when_the_optimiser_has_converged(optimizer, tmp_path):
    _, own = digits_family()
    feasible = Unbounded() if isinstance(optimizer, LBFGSB) else Simplex()
    settings = learning(optimizer, feasible, 200, batch_size=None)
    settings = replace(settings, watching=Watching("last", every=2, patience=None))
    arguments = (model(), LogitAlignment(), Calibration(own, {}), settings)
    found = learn(*arguments, checkpoints=tmp_path)
    assert not found.interrupted, "SIGINT or SIGTERM reached the tests from outside"
    assert found.converged
    assert (tmp_path / "last.ckpt").exists()  # from which the next run goes on
    assert found.history[-1]["step"] == found.best_step < 200
    assert found.history[-1]["evaluations"] == found.certificate["evaluations"]
    again = learn(*arguments, checkpoints=tmp_path, resume=True)
    assert torch.equal(again.coefficients, found.coefficients)
    assert again.best_step == found.best_step
    # With other rows at every step, convergence on some rows is not convergence on others.
    changing = replace(settings, batching=Batching(batch_size=8), trainer={"max_steps": 6, **QUIET})
    if not isinstance(optimizer, LBFGSB):
        assert learn(*arguments[:3], changing).history[-1]["step"] == 6


def test_cross_entropy_learns_from_labels():
    """Compare the loss with cross-entropy of a merge computed by hand, summed over tasks."""
    experts, own = digits_family()
    found = learn(model(), CrossEntropy(), Calibration(own, {}), learning(FrankWolfe(), Simplex(), 1, batch_size=None))
    total = 0.0
    for task, rows in own.items():
        merged = {
            name: experts.base[name] + sum(e.weights[name] - experts.base[name] for e in experts.tasks.values()) / 3
            for name in experts.shared
        }
        head = {name: experts.tasks[task].weights[name] for name in experts.tasks[task].head}
        batch = rows.batch(range(len(rows)))
        logits = functional_call(experts.tasks[task].module, {**merged, **head}, (), dict(batch.inputs)).logits
        total += torch.nn.functional.cross_entropy(logits, batch.labels).item()
    assert found.certificate["loss"] == pytest.approx(total, rel=1e-5)


def test_an_expert_without_rows_can_be_selected():
    """Give two experts no rows; Frank-Wolfe drops the one that does not lower the loss on the third's rows."""
    _, own = digits_family()
    calibration = Calibration({"upright": own["upright"]}, {})
    settings = learning(FrankWolfe(), Simplex(includes_base=True), 100, batch_size=None)
    found = learn(model(), LogitAlignment(), calibration, settings)
    assert found.coefficients.shape == (1, 3)
    assert found.coefficients[0, 0] > 0.9  # it can be the expert itself
    weights = {selection.expert: selection.weight for selection in found.selections}
    assert weights[0] == pytest.approx(found.coefficients[0, 0].item())
    assert found.selections[0].first_step == 0


def test_a_selection_has_its_weight_in_the_best_coefficients():
    _, own = digits_family()
    watching = Watching("objective", every=1, patience=None)
    settings = replace(learning(FrankWolfe(), Simplex(2.0), 6, batch_size=4), watching=watching)
    found = learn(model(tensor_wise), CrossEntropy(), Calibration(own, own), settings)
    assert 0 < len(found.selections)
    for selection in found.selections:
        expected = found.coefficients[selection.group, selection.expert].item() / 2.0
        assert selection.weight == pytest.approx(expected, abs=1e-6)


def test_selection_together_proposes_the_same_experts_for_all_groups():
    _, own = digits_family()
    settings = learning(SoftFrankWolfe(top_k=1, per="model"), Simplex(), 1, batch_size=None)
    found = learn(model(tensor_wise), CrossEntropy(), Calibration(own, {}), settings)
    assert len({selection.expert for selection in found.selections}) == 1
    alone = replace(settings, optimizer=SoftFrankWolfe(top_k=1))
    found = learn(model(tensor_wise), CrossEntropy(), Calibration(own, {}), alone)
    assert len({selection.expert for selection in found.selections}) == 3


def test_half_precision_is_rejected_with_the_reason():
    settings = learning(FrankWolfe(), Simplex(), 1, batch_size=None)
    with pytest.raises(ConfigError, match=r"Frank-Wolfe \(hard\) with fp16 is not defined"):
        check_learning(replace(settings, trainer={"precision": "16-mixed"}), 3)


def test_accumulated_batches_are_rejected_with_what_to_do_instead():
    settings = learning(FrankWolfe(), Simplex(), 1, batch_size=None)
    with pytest.raises(ConfigError, match=r"accumulate_grad_batches: expected 1, .* data.batch_size instead"):
        check_learning(replace(settings, trainer={"accumulate_grad_batches": 2}), 3)
