"""DOGE without data on the zoo: a sweep over η, density and order, chosen on train-file rows.

    python ../shared/zoo/unpack.py zoo
    python tests/benchmarks/doge.py                                        # about 15 minutes on two cores
    python tests/benchmarks/doge.py --eta 0.05 --order before --vectors base average task_arithmetic

Every combination of the options given is merged and measured on labeled rows of the train files, task arithmetic at
0.3 beside it. The test files are not read. Before, the exactness of the fit with the defaults is shown.
"""

import argparse
import itertools
import time
from pathlib import Path

import torch

from adamerge.cli import parse_file
from adamerge.data.settings import DataSource
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.merging.grouping import task_wise
from adamerge.merging.mapped_task_vectors import Mapped
from adamerge.merging.merged_model import MergedModel, task_vectors, uniform
from adamerge.results.evaluate import Evaluation
from adamerge.runs.build_model import open_experts
from adamerge.runs.load_rows import load_data
from adamerge.storage.weights import InMemory
from adamerge.transforms import Doge, Transform
from adamerge.transforms.doge import is_fitted
from adamerge.transforms.doge_fit import fit, norm_coefficients, residuals, shared_subspace
from adamerge.transforms.magnitude import global_thresholds, trim


def merge(plain: MergedModel, transform: Transform) -> MergedModel:
    """A model whose only task vector, at coefficient 1, is the finished merge of a transform; nothing is stored."""
    vectors = plain.vectors
    apply = transform.plan(vectors.stacks)
    update = {name: transform.coefficient * apply(name, stack).sum(0) for name, stack in vectors.stacks()}
    merged = Mapped({"merged": InMemory(update)}, tuple(update), plain.experts.base, None)
    return MergedModel(plain.experts, merged, task_wise(tuple(update)))


def certify(plain: MergedModel, doge: Doge) -> None:
    """Print how exact the fit is: the worst ‖QᵀΔ‖ / ‖Δ‖ and the worst share of the row loss that is left."""
    fitted = [name for name in plain.vectors.shapes if is_fitted(name, len(plain.vectors.shapes[name]), doge.exclude)]
    thresholds = global_thresholds(lambda: ((name, plain.vectors.stack(name)) for name in fitted), doge.density)
    leaks, losses = [], []
    for name in fitted:
        stack = trim(plain.vectors.stack(name), thresholds)
        coefficients, basis = norm_coefficients(stack, doge.eta), shared_subspace(stack, doge.shared_rank)
        delta = fit(stack, coefficients, basis, damping=doge.damping)
        leaks.append(((basis.mT @ delta).norm() / delta.norm()).item())
        before, after = (
            residuals(stack.double(), coefficients.double(), change.double()).square().sum()
            for change in (torch.zeros_like(delta), delta)
        )
        losses.append((after / before).item())
    print(
        f"{len(fitted)} tensors: ‖QᵀΔ‖ / ‖Δ‖ at most {max(leaks):.1e}, row loss left at most {max(losses):.1e}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/zoo_adamerging.yaml"), help="Base and experts.")
    parser.add_argument("--rows", type=int, default=150, help="Train-file rows per task.")
    parser.add_argument("--eta", type=float, nargs="+", default=[0.03, 0.05, 0.07, 0.1])
    parser.add_argument("--density", type=float, nargs="+", default=[0.1, 0.3, 0.5])
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
    certify(plain, Doge())
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
