"""Seconds until a given accuracy on the zoo: expert_merging++ against AdaMerging as published.

    python ../shared/zoo/unpack.py zoo
    python tests/benchmarks/time_to_quality.py               # 25 minutes on two quiet cores
    python tests/benchmarks/time_to_quality.py --steps 50    # a shorter AdaMerging, to see that it works

Both in one process with our own code. Ours is the first, tensor-wise stage of what a configuration without a method
gets: Iso-C centre, targets, agreement, logit alignment. AdaMerging: entropy, tensor-wise, Adam 1e-3 in the box [0,
1], 16 rows per task, 500 steps, nothing watched. A look every few steps notes the coefficients and the time until
then; they are measured on the test files afterwards, and the time that this takes does not count. The closed-form
start alone is timed and measured too.
"""

import argparse
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from alignment import Seed
from pytorch_lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from adamerge.calibration.closed_form import ClosedForm, closed_form
from adamerge.data.rows import first_rows
from adamerge.learning.keep_best import Watching
from adamerge.learning.learn import learn
from adamerge.learning.settings import Learning
from adamerge.merging.merged_model import MergedModel, uniform
from adamerge.objectives import Entropy, LogitAlignment, Objective
from adamerge.optim.feasible_sets import Box
from adamerge.results.evaluate import Evaluation


class Clock(Callback):
    """Notes the coefficients and the seconds since it was made."""

    def __init__(self, every: int) -> None:
        self.every, self.began = every, time.perf_counter()
        self.seen: list[tuple[int, float, torch.Tensor]] = []

    def note(self, step: int, coefficients: torch.Tensor) -> None:
        self.seen.append((step, time.perf_counter() - self.began, coefficients.detach().clone()))

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every == 0:
            self.note(trainer.global_step, pl_module.get_parameter("coefficients"))


def run(
    seed: Seed, model: MergedModel, objective: Objective, learning: Learning, clock: Clock, folder: str, count: int
) -> list[tuple[int, float, float]]:
    """Steps, seconds and accuracy at each note."""
    learn(
        model, objective, seed.calibration, learning, held_out=seed.held_out, targets=Path(folder) / "targets",
        also=[clock],
    )  # fmt: skip
    return measured(seed, model, clock, count)


def measured(seed: Seed, model: MergedModel, clock: Clock, count: int) -> list[tuple[int, float, float]]:
    """Steps, seconds and accuracy at each note."""
    labeled = first_rows(seed.evaluation, count)
    return [(step, took, Evaluation(model, labeled).merged(c)["mean"] or 0.0) for step, took, c in clock.seen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500, help="of AdaMerging")
    parser.add_argument("--ours", type=int, default=20, help="of alignment")
    parser.add_argument("--goal", type=float, default=87.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="32-true", help="of both")
    parser.add_argument("--evaluation", type=int, default=10**9, help="evaluation rows per task, for a quick look")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        seed = Seed(options.seed, Path(folder), None)
        common = Learning(
            optimizer=None,
            batching=seed.config("tensor-wise").data,
            seed=options.seed,
            watching=Watching(patience=None),
            trainer={"precision": options.precision, "enable_progress_bar": False},
        )

        solved = Clock(1)
        solved.note(0, closed_form(seed.model, seed.calibration.learn, ClosedForm(), 32))
        closed = measured(seed, seed.model, solved, options.evaluation)

        clock = Clock(5)
        ours = seed.over(seed.config("default"), Path(folder) / "default")
        clock.note(0, uniform(ours, 0.0))
        learning = replace(
            common, optimizer=partial(torch.optim.Adam, lr=3e-2), scheduler="cosine", init=0.0,
            trainer={**common.trainer, "max_steps": options.ours},
        )  # fmt: skip
        aligned = run(seed, ours, LogitAlignment(), learning, clock, folder, options.evaluation)

        clock = Clock(max(1, options.steps // 10))
        learning = replace(
            common, optimizer=partial(torch.optim.Adam, lr=1e-3), feasible=Box(),
            watching=Watching("last", options.steps), trainer={**common.trainer, "max_steps": options.steps},
        )  # fmt: skip
        published = run(seed, seed.model, Entropy(), learning, clock, folder, options.evaluation)
    table = (("closed-form start alone", closed), ("alignment", aligned), ("AdaMerging as published", published))
    for word, rows in table:
        for step, took, accuracy in rows:
            print(f"{word:24s} step {step:4d}  {took:6.0f} s  {accuracy:.2f}")
    reached = next((took for _, took, accuracy in aligned if accuracy >= options.goal), None)
    _, took, best = max(published, key=lambda row: (row[2], -row[1]))
    print(f"AdaMerging's best: {best:.2f} after {took:.0f} s of {published[-1][1]:.0f} s")
    if reached is None:
        print(f"alignment did not reach {options.goal}")
    else:
        print(
            f"alignment reaches {options.goal} after {reached:.0f} s: {took / reached:.1f} times sooner than "
            f"AdaMerging its best, {published[-1][1] / reached:.1f} times sooner than it is done"
        )


if __name__ == "__main__":
    main()
