"""The number of groups grows while held-out rows say that it pays, and a killed run takes the same course."""

import json
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning import Callback
from support.digits import digits_family
from torch.optim import Adam

from adamerge.data.settings import Batching
from adamerge.learning import stages
from adamerge.learning.course import Course
from adamerge.learning.growth import Growth
from adamerge.learning.keep_best import Watching
from adamerge.learning.learn import Calibration, goals_of
from adamerge.learning.settings import Learning
from adamerge.merging.chunks import Chunks
from adamerge.merging.coefficients import load_coefficients
from adamerge.merging.grouping import tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.objectives import LogitAlignment
from adamerge.optim.feasible_sets import Unbounded

STEPS = 12


def history(*values, every=10, key="divergence"):
    return [{"step": every * at, key: value} for at, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "first", "ends"),
    [
        ([0.4], False, False),  # nothing is known yet
        ([0.4, 0.1], False, False),  # it is too early
        ([0.4, 0.39, 0.385], False, False),  # it did not pay: this stage goes on to its end
        ([0.4, 0.39, 0.385, 0.2], False, False),  # and what comes later does not change that
        ([0.4, 0.39, 0.385], True, True),  # the tensor-wise stage always gives a finer one a chance
        ([0.4, 0.3, 0.2], False, True),
        ([0.4, 0.3, 0.5], False, True),  # its best iterate has paid
        ([0.0, 0.0, 0.0], False, False),
        ([-1.0, -1.01, -1.02], False, False),  # an objective may be negative
        ([-1.0, -1.01, -1.2], False, True),
    ],
)
@pytest.mark.parametrize("key", ["divergence", "objective"])
def test_when_a_finer_stage_begins(values, first, ends, key):
    assert Growth(0.05, 15, 1000, first).ends_stage(history(*values, key=key)) is ends


@pytest.mark.parametrize(("most", "ends"), [(19, False), (20, True)])
def test_a_finer_stage_needs_room(most, ends):
    assert Growth(0.05, 15, most, first=False).ends_stage(history(0.4, 0.3, 0.2)) is ends


def test_a_stage_whose_optimiser_is_done_is_over():
    growth = Growth(0.05, 100, 1000, first=False)
    assert not growth.ends_stage(history(0.4, 0.3))
    assert growth.ends_stage(history(0.4, 0.3), over=True)
    assert not growth.ends_stage(history(0.4, 0.39), over=True)
    assert not growth.ends_stage([], over=True)


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=12), st.booleans(), st.integers(1, 60))
def test_what_is_decided_stays_decided(values, first, fewest):
    """A resumed run sees the whole history at once, where the first one saw it grow."""
    growth, seen = Growth(0.05, fewest, 80, first), history(*values)
    decided = [growth.ends_stage(seen[:end]) for end in range(1, len(seen) + 1)]
    assert decided == sorted(decided)


class KilledError(Exception):
    pass


class Kill(Callback):
    """Ends learning in a step of a stage, without a word to anybody."""

    def __init__(self, step):
        self.left = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.left -= 1
        if self.left < 0:
            raise KilledError


def grown(place, steps=STEPS, least=0.05, watched=True, trainer=(), **options):
    experts, own = digits_family()
    model = MergedModel(experts, task_vectors(experts, experts.shared, resident=True), tensor_wise(experts.shared))
    rows = Calibration(own, own if watched else {})
    learning = Learning(
        partial(Adam, lr=0.05),
        feasible=Unbounded(),
        init=0.3,
        batching=Batching(batch_size=8),
        watching=Watching(every=2, patience=None, average=0.5),
        trainer={"max_steps": steps, "accelerator": "cpu", "enable_progress_bar": False, **dict(trainer)},
    )
    chunks = Chunks("auto", first_steps=2, least=least, growth=3)
    known = {"made_of": {"rows": "a"}, "targets": goals_of(model, LogitAlignment(), rows, 32, None)}
    return stages.learn_in_stages(
        model, LogitAlignment(), rows, learning, chunks, place / "first_stage", **known, **options
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    place, said = tmp_path_factory.mktemp("whole"), list[str]()
    return grown(place, announce=said.append), place, said


def test_groups_grow_and_the_best_iterate_of_all_stages_is_kept(whole):
    staged, place, said = whole
    counts = [stage.groups for stage in staged.stages]
    assert len(counts) > 2
    assert all(coarse < fine <= 3 * coarse for coarse, fine in pairwise(counts))
    assert counts[-1] == len(staged.model.grouping) == len(staged.learned.coefficients)
    seen = staged.learned.history
    assert [look["step"] for look in seen] == sorted({look["step"] for look in seen})
    assert seen[-1]["step"] <= STEPS
    (best,) = (look for look in seen if look["step"] == staged.learned.best_step)
    assert best["divergence"] == min(look["divergence"] for look in seen)
    assert said[-1].startswith(f"chunks: groups grown in stages: {counts[0]} (from step 0), {counts[1]} (from step ")
    for name, count in zip(("first", "second", "third"), counts[:-1], strict=False):
        assert len(load_coefficients(place / f"{name}_stage/coefficients.safetensors").grouping) == count
        assert f"{name} stage" in "".join(said)


def test_a_finer_stage_begins_with_the_same_merge(whole):
    """Whatever a stage is divided into: what is measured at its start is the least of all before."""
    staged, place, _ = whole
    told = json.loads((place / "second_stage/learned.json").read_text())["history"]
    before = [look["divergence"] for look in staged.learned.history if look["step"] <= staged.stages[1].begins]
    assert told[0]["divergence"] == pytest.approx(min(before), rel=1e-5)


def dies(*_, **__):
    raise KilledError


@pytest.mark.parametrize("step", [1, 5, None])
def test_a_killed_run_grows_to_the_same(whole, tmp_path, monkeypatch, step):
    """Killed in a step of the first stage, in one of a later stage, and when a stage is over and not stored."""
    descend, kill = stages.descend, Kill(step)
    with monkeypatch.context() as patch:
        if step is None:
            patch.setattr(stages, "write_stage", dies)
        else:
            patch.setattr(stages, "descend", lambda *a, also, **more: descend(*a, also=[*also, kill], **more))
        with pytest.raises(KilledError):
            grown(tmp_path, checkpoints=tmp_path / "checkpoints")
    again, staged = grown(tmp_path, checkpoints=tmp_path / "checkpoints", resume=True), whole[0]
    assert again.stages == staged.stages
    assert torch.equal(again.learned.coefficients, staged.learned.coefficients)
    assert again.learned.best_step == staged.learned.best_step


def test_nothing_to_grow_by_takes_a_fixed_number(tmp_path):
    staged = grown(tmp_path, watched=False, steps=6)
    counts = [stage.groups for stage in staged.stages]
    assert len(counts) == 2
    assert counts[1] == 8 * counts[0]


@pytest.mark.parametrize(("budget", "steps"), [("auto", 4), (8, 4)])
def test_steps_and_time_are_of_all_stages(whole, budget, steps):
    model, found = whole[0].model, whole[0].learned
    learning = Learning(None, trainer={"max_steps": 10, "max_time": "00:00:01:00"})
    for seconds, left in ((20.0, timedelta(seconds=40)), (60.0, None)):
        course = Course(model, learning, Chunks(budget, first_steps=steps))
        one = replace(found, seconds=seconds, history=[{"step": steps}])
        course.add(course.plan(), one)
        plan = course.plan()
        assert left == (plan and plan.learning.trainer["max_time"])
        assert plan is None or plan.learning.steps == 10 - steps
