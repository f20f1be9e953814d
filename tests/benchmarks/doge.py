"""DOGE without data on the zoo: a sweep over η, density and order, chosen on train-file rows.

    python ../shared/zoo/unpack.py zoo
    python tests/benchmarks/doge.py                                        # about 15 minutes on two cores
    python tests/benchmarks/doge.py --eta 0.05 --order before --vectors base average task_arithmetic

Every combination of the options given is merged and measured on labeled rows of the train files, task arithmetic at
0.3 beside it. The test files are not read.
"""

import argparse
import itertools
import time
from pathlib import Path

import torch

from adamerge.cli import parse_file
from adamerge.data import DataSource
from adamerge.evaluate import Evaluation, uniform
from adamerge.grouping import task_wise
from adamerge.inspection import inspect_weights
from adamerge.job import load_data, open_experts
from adamerge.merged import MergedModel, task_vectors
from adamerge.task_vectors import Mapped
from adamerge.transforms import Doge, Transform
from adamerge.weights import InMemory


def merge(plain: MergedModel, transform: Transform) -> MergedModel:
    """A model whose only task vector, at coefficient 1, is the finished merge of a transform; nothing is stored."""
    vectors = plain.vectors
    apply = transform.plan(vectors.stacks)
    update = {name: transform.coefficient * apply(name, stack).sum(0) for name, stack in vectors.stacks()}
    merged = Mapped({"merged": InMemory(update)}, tuple(update), plain.experts.base, None)
    return MergedModel(plain.experts, merged, task_wise(tuple(update)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/zoo_adamerging.yaml"), help="Base and experts.")
    parser.add_argument("--rows", type=int, default=150, help="Train-file rows a task.")
    parser.add_argument("--eta", type=float, nargs="+", default=[0.03, 0.05, 0.07, 0.1])
    parser.add_argument("--density", type=float, nargs="+", default=[0.1, 0.3])
    parser.add_argument("--order", nargs="+", default=["before", "after", "none"])
    parser.add_argument("--solver", nargs="+", default=["exact"])
    parser.add_argument("--vectors", nargs="+", default=["base"])
    options = parser.parse_args()
    config = parse_file(options.config)
    for model in config.models:
        assert isinstance(model.calibration, str)
        model.evaluation = DataSource(model.calibration, rows=options.rows)
    experts = open_experts(config)
    names = inspect_weights(experts).changed
    rows = load_data(config, experts, calibrate=False).evaluation
    plain = MergedModel(experts, task_vectors(experts, names, resident=False), task_wise(names))
    print(f"task arithmetic 0.3: {Evaluation(plain, rows).merged(uniform(plain, 0.3))['mean']:.2f}", flush=True)
    axes = (options.order, options.density, options.vectors, options.solver, options.eta)
    for order, density, vectors, solver, eta in itertools.product(*axes):
        if order == "none" and density != options.density[0]:
            continue
        began = time.perf_counter()
        model = merge(plain, Doge(eta, density, order, solver=solver, vectors=vectors))
        seconds = time.perf_counter() - began
        score = Evaluation(model, rows).merged(torch.ones(1, 1))["mean"]
        words = f"order {order:6s}  density {density:4.2f}  vectors {vectors:15s}  solver {solver:5s}  eta {eta:5.3f}"
        print(f"{words}  {score:6.2f}  ({seconds:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
