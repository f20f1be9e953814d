"""Learning ends by itself: held-out rows begin the decay of the learning rate, and with it learning ends."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning import Callback
from support.digits import digits_family
from torch.optim import SGD, Adam

from adamerge.calibration.agreement import hold_out
from adamerge.data.settings import Batching
from adamerge.learning.keep_best import Watching
from adamerge.learning.learn import Calibration, goals_of, learn
from adamerge.learning.settings import Learning, check_learning
from adamerge.learning.stable_decay import StableDecay
from adamerge.merging.grouping import tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.objectives import LogitAlignment
from adamerge.optim import ProjectedGradient
from adamerge.types import ConfigError


class Rates(Callback):
    """Records the learning rate of every step."""

    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.seen.append(optimizer.param_groups[0]["lr"])


def built(**options):
    return StableDecay(SGD([torch.zeros(1)], lr=1.0), **options)


class KilledError(Exception):
    pass


class Kill(Callback):
    """Ends learning at a step, without a word to anybody."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise KilledError


class Iterates(Callback):
    """Records the coefficients of the start and after every step."""

    def __init__(self):
        self.seen = []

    def on_train_start(self, trainer, pl_module):
        self.seen.append(pl_module.coefficients.detach().double().clone())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append(pl_module.coefficients.detach().double().clone())


def run(scheduler, steps, rate=3e-2, watched=True, also=(), average=0.0, monitor="divergence", **resuming):
    experts, own = digits_family()
    model = MergedModel(experts, task_vectors(experts, experts.shared, resident=True), tensor_wise(experts.shared))
    rows = Calibration(own, own if watched else {})
    goals = goals_of(model, LogitAlignment(), rows, 32, None)
    learning = Learning(
        partial(Adam, lr=rate),
        scheduler=scheduler,
        batching=Batching(batch_size=8),
        watching=Watching(monitor, every=5, patience=None, average=average),
        trainer={"max_steps": steps, "accelerator": "cpu", "enable_progress_bar": False},
    )
    rates = Rates()
    held_out = hold_out(model, rows.watch, 64, goals.watch, 1.0)
    known = {"held_out": held_out, "targets": goals, "also": [rates, *also]}
    return learn(model, LogitAlignment(), rows, learning, **known, **resuming), rates.seen


def test_a_flat_divergence_begins_the_decay_which_ends_learning():
    found, rates = run(partial(StableDecay, least=0.5, evaluations=1, decay=0.2), 400)
    assert len(rates) < 60, "half of what is left in five steps is soon too much to ask"
    assert found.history[-1]["step"] == len(rates), "the end is evaluated"
    falling = [rate for rate in rates if rate < rates[0]]
    begins = len(rates) - len(falling) - 1  # the step after the decay began still had the full rate
    assert begins % 5 == 0
    assert len(rates) == begins + math.ceil(0.2 * begins)
    seen = [look["divergence"] for look in found.history if look["step"] <= begins]
    assert seen[-1] > 0.5 * min(seen[:-1])
    assert falling == pytest.approx([rates[0] * n / (len(falling) + 1) for n in range(len(falling), 0, -1)])


@pytest.mark.parametrize(("share", "average"), [(0.4, 0.0), (0.8, 0.9)])
def test_a_killed_run_goes_on_to_the_same_end(tmp_path, share, average):
    scheduler = partial(StableDecay, least=0.3, evaluations=1, decay=0.9)
    whole, rates = run(scheduler, 60, average=average)
    last = int(share * len(rates))  # before the decay begins, or within it
    with pytest.raises(KilledError):
        run(scheduler, 60, also=[Kill(last)], checkpoints=tmp_path, average=average)
    again, more = run(scheduler, 60, checkpoints=tmp_path, resume=True, average=average)
    assert rates[-len(more) :] == more
    assert torch.equal(again.coefficients, whole.coefficients)


def test_the_mean_over_steps_is_what_is_kept():
    iterates = Iterates()
    found, _ = run(None, 12, also=[iterates], average=0.6, monitor="last")
    mean = iterates.seen[0]
    for step, own in enumerate(iterates.seen[1:], 1):
        share = min(0.6, step / (step + 3))
        mean = share * mean + (1 - share) * own
    torch.testing.assert_close(found.coefficients.double(), mean, rtol=0, atol=1e-6)
    assert (mean - iterates.seen[-1]).abs().max() > 1e-3


def test_searched_steps_have_no_mean():
    with pytest.raises(ConfigError, match=r"watch\.average: expected 0 with ProjectedGradient"):
        check_learning(Learning(ProjectedGradient(), watching=Watching(average=0.9), trainer={"max_steps": 2}), 3)


@pytest.mark.parametrize("watched", [True, False])
def test_the_decay_ends_with_max_steps_at_the_latest(watched):
    _, rates = run(partial(StableDecay, least=1e-9, evaluations=9, decay=0.25), 20, 1e-4, watched)
    assert len(rates) == 20
    assert rates[:17] == [1e-4] * 17, "4 steps of decay, of which the first has the full rate"
    assert rates[17:] == pytest.approx([0.75e-4, 0.5e-4, 0.25e-4])


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12), st.integers(1, 4), st.floats(0.01, 0.9))
def test_it_begins_where_the_best_of_the_last_evaluations_is_no_longer_enough_below_the_best_before(values, n, least):
    scheduler = built(least=least, evaluations=n)
    for end in range(1, len(values) + 1):
        scheduler.observe(end, values[:end])
    flat = (
        end
        for end in range(n + 1, len(values) + 1)
        if min(values[end - n : end]) > (1 - least) * min(values[: end - n])
    )
    assert scheduler.begins == next(flat, math.inf)
    risen = (
        end
        for end in range(n + 1, len(values) + 1)
        if min(values[end - n : end]) > (1 + least) * min(values[: end - n])
    )
    assert scheduler.last == next(risen, math.inf)
    assert scheduler.ends <= scheduler.last


@given(st.integers(1, 5000), st.floats(0.01, 0.99))
def test_a_limit_is_not_passed_where_it_has_room_for_a_decay(steps, decay):
    scheduler = built(decay=decay)
    scheduler.limit(steps)
    assert scheduler.ends <= max(2, steps + 1)


@pytest.mark.parametrize(
    "options", [{"least": 0.0}, {"least": 1.0}, {"decay": 0.0}, {"decay": 1.5}, {"evaluations": 0}]
)
def test_numbers_out_of_range_are_refused_by_name(options):
    with pytest.raises(ConfigError, match=f"^{next(iter(options))}: expected"):
        built(**options)
