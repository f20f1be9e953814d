"""L-BFGS-B and Adam on the same fixed rows of the zoo: time until Adam's final objective is reached.

    python ../shared/zoo/unpack.py zoo
    python tests/benchmarks/lbfgsb.py                 # about 20 minutes on two cores
    python tests/benchmarks/lbfgsb.py --steps 50      # a shorter Adam to compare with

Entropy, tensor-wise, coefficients in a box, 16 rows per task, every row at every evaluation; both start at task
arithmetic 0.3. Adam takes its steps at a learning rate of 1e-3 and is projected onto the box. L-BFGS-B goes on until it
is done, or has spent a fifth as many evaluations. Both in one process, in plain PyTorch loops over one closure.
"""

import argparse
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.optim import Adam

from adamerge.batch import Batch, Outputs
from adamerge.cli import parse_file
from adamerge.data.rows import Rows
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.merging.execution import Work, execution_of
from adamerge.merging.merged_model import MergedModel, uniform
from adamerge.objectives import entropy
from adamerge.optim import LBFGSB, SearchingOptimizer, build_optimizer
from adamerge.optim.feasible_sets import Box
from adamerge.runs.build_model import build_model, open_experts
from adamerge.runs.load_rows import load_data

Point = tuple[int, float, float]
"""Evaluations, seconds, and the best objective until then."""


class Problem:
    """Sum of the tasks' mean entropies on fixed rows, as a closure over coefficients; keeps a log of evaluations."""

    def __init__(self, model: MergedModel, rows: dict[str, Rows], micro_batch: int) -> None:
        self.coefficients = nn.Parameter(uniform(model, 0.3))
        self.log: list[Point] = []
        self._model = model
        self._batches = {task: list(own.batches(micro_batch)) for task, own in rows.items()}
        self._rows = {task: len(own) for task, own in rows.items()}
        self._began = time.perf_counter()

    def __call__(self) -> torch.Tensor:
        work = {
            task: [Work(batch, partial(self._loss, task)) for batch in batches]
            for task, batches in self._batches.items()
        }
        step = execution_of(self._model).losses_and_gradient(self.coefficients, work)
        total, self.coefficients.grad = torch.stack(list(step.losses.values())).sum(), step.gradient
        best = min(total.item(), self.log[-1][2] if self.log else float("inf"))
        self.log.append((len(self.log) + 1, time.perf_counter() - self._began, best))
        return total

    def _loss(self, task: str, outputs: Outputs, batch: Batch) -> torch.Tensor:
        return entropy(outputs.logits).sum() / self._rows[task]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/zoo_adamerging.yaml"))
    parser.add_argument("--rows", type=int, default=16, help="Rows a task.")
    parser.add_argument("--steps", type=int, default=500, help="Of Adam.")
    options = parser.parse_args()
    config = parse_file(options.config)
    config.data = replace(config.data, rows=options.rows)
    for model in config.models:
        model.evaluation = None
    experts = open_experts(config)
    model = build_model(config, experts, inspect_weights(experts).changed, Path("none"))
    rows = dict(load_data(config, experts).calibration)
    quasi_newton = descend(Problem(model, rows, config.data.micro_batch), LBFGSB(), options.steps // 5)
    adam = descend(Problem(model, rows, config.data.micro_batch), partial(Adam, lr=1e-3), options.steps)

    print("evaluations   Adam: objective   seconds   L-BFGS-B: objective   seconds")
    for count in sorted({1, 2, 5, 10, 20, 30, 40, 50, 75, 100, 200, 300, 400, options.steps}):
        cells = [log[min(count, len(log)) - 1] for log in (adam, quasi_newton) if count <= options.steps]
        if cells:
            (_, seconds, value), (_, other_seconds, other) = cells
            print(f"{count:11d}   {value:15.4f}   {seconds:7.1f}   {other:19.4f}   {other_seconds:7.1f}")
    goal = adam[-1][2]
    reached = next((point for point in quasi_newton if point[2] <= goal), None)
    print(f"Adam, {len(adam)} evaluations: {goal:.4f} in {adam[-1][1]:.1f} s")
    if reached is None:
        print(f"L-BFGS-B, {len(quasi_newton)} evaluations: {quasi_newton[-1][2]:.4f}; it did not get there")
        return
    share = reached[1] / adam[-1][1]
    print(f"L-BFGS-B gets there with {reached[0]} evaluations in {reached[1]:.1f} s: {share:.3f} of the time")
    print(f"and to {quasi_newton[-1][2]:.4f} with {len(quasi_newton)} in {quasi_newton[-1][1]:.1f} s")


def descend(problem: Problem, optimizer: LBFGSB | partial[Adam], evaluations: int) -> list[Point]:
    built = build_optimizer(optimizer, problem.coefficients, Box())
    while len(problem.log) < evaluations:
        built.zero_grad()
        built.step(problem)
        if isinstance(built, SearchingOptimizer) and built.done:
            break
    return problem.log


if __name__ == "__main__":
    main()
