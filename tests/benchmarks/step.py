"""A learning step against a plain one, and its memory against the number of experts.

    python tests/benchmarks/step.py             # everything, about 15 minutes on two cores
    python tests/benchmarks/step.py --pairs 3 --experts 2 8 --rows 4

A vision transformer of the size of ViT-B/32 with random weights, K experts of it on disk, as many tasks as experts.
Timed, in one process and in turn: a plain forward and backward of the base over the same batches; our step, resident
and mapped; and the step of the published codes, which merges by autograd and walks back through it for every task.
Reported are medians over interleaved rounds and their ratio to the plain step. Anonymous memory (RssAnon) is sampled
from outside, a process a measurement, since ru_maxrss would count the page cache; two tasks have rows there whatever K
is, since more tasks' activations spread over the heap.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch.func import functional_call
from transformers import ViTConfig, ViTForImageClassification
from watched import peak_of

from adamerge.batch import Batch
from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.experts import Experts
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.merging.execution import Work, execution_of
from adamerge.merging.grouping import tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.objectives import entropy


def make(folder: Path, count: int, layers: int) -> None:
    """Write a base and `count` experts with random weights."""
    config = ViTConfig(patch_size=32, num_hidden_layers=layers, num_labels=10)
    torch.manual_seed(0)
    model = ViTForImageClassification(config)
    model.save_pretrained(folder / "base")
    start = {name: value.clone() for name, value in model.state_dict().items()}
    for number in range(count):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(start[name] + 1e-3 * torch.randn_like(parameter))
        model.save_pretrained(folder / str(number))


def load(folder: Path, count: int) -> Experts:
    return from_checkpoints(
        open_checkpoint(str(folder / "base")), {str(k): open_checkpoint(str(folder / str(k))) for k in range(count)}
    )


def model_of(experts: Experts, resident: bool) -> MergedModel:
    vectors = task_vectors(experts, experts.shared, resident=resident)
    return MergedModel(experts, vectors, tensor_wise(experts.shared))


def our_step(
    model: MergedModel, coefficients: torch.Tensor, pixels: torch.Tensor, tasks: int | None = None
) -> torch.Tensor:
    work = Work(Batch({"pixel_values": pixels}, torch.arange(len(pixels))), lambda out, _: entropy(out.logits).mean())
    return execution_of(model).losses_and_gradient(coefficients, {t: [work] for t in model.tasks[:tasks]}).gradient


class Naive:
    """The merge as published: autograd through Σ cₖ·τₖ of resident task vectors, one backward through it a task."""

    def __init__(self, experts: Experts) -> None:
        self.experts = experts
        self.base = {name: experts.base[name].clone() for name in experts.shared}
        self.vectors = [
            {name: expert.weights[name] - self.base[name] for name in experts.shared}
            for expert in experts.tasks.values()
        ]

    def step(self, coefficients: torch.Tensor, pixels: torch.Tensor, tasks: int | None = None) -> torch.Tensor:
        free = coefficients.clone().requires_grad_()
        merged = {}
        for group, (name, base) in enumerate(self.base.items()):
            total = base
            for k, vectors in enumerate(self.vectors):
                total = total + free[group, k] * vectors[name]
            merged[name] = total
        for expert in list(self.experts.tasks.values())[:tasks]:
            head = {name: expert.weights[name] for name in expert.head}
            logits = functional_call(expert.module, {**merged, **head}, (), {"pixel_values": pixels}).logits
            entropy(logits).mean().backward(retain_graph=True)
        assert free.grad is not None
        return free.grad


def plain_step(experts: Experts, leaves: dict[str, torch.Tensor], pixels: torch.Tensor) -> None:
    for leaf in leaves.values():
        leaf.grad = None
    for expert in experts.tasks.values():
        head = {name: expert.weights[name] for name in expert.head}
        logits = functional_call(expert.module, {**leaves, **head}, (), {"pixel_values": pixels}).logits
        entropy(logits).mean().backward()


def time_steps(folder: Path, count: int, rows: int, pairs: int) -> None:
    experts = load(folder, count)
    pixels = torch.randn(rows, 3, 224, 224)
    coefficients = torch.full((len(experts.shared), count), 0.3)
    leaves = {name: experts.base[name].clone().requires_grad_() for name in experts.shared}
    resident, mapped, naive = model_of(experts, True), model_of(experts, False), Naive(experts)
    steps = {
        "plain forward and backward of the base": lambda: plain_step(experts, leaves, pixels),
        "ours, resident": lambda: our_step(resident, coefficients, pixels),
        "ours, mapped": lambda: our_step(mapped, coefficients, pixels),
        "published way (autograd, a walk back a task)": lambda: naive.step(coefficients, pixels),
    }
    expected, found = naive.step(coefficients, pixels), our_step(mapped, coefficients, pixels)
    error = ((found - expected).norm() / expected.norm()).item()
    print(f"K = {count}, {rows} rows per task; relative difference of the gradients: {error:.1e}")
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(pairs):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - began)
    reference = seconds["plain forward and backward of the base"]
    for name, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(values, reference, strict=True))
        print(f"  {name:48s} {statistics.median(values):7.2f} s   × {ratio:.3f}")


def _one_process(folder: Path, count: int, kind: str) -> None:
    torch.set_num_threads(2)
    experts = load(folder, count)
    coefficients, pixels = torch.full((len(experts.shared), count), 0.3), torch.randn(4, 3, 224, 224)
    if kind == "published":
        Naive(experts).step(coefficients, pixels, tasks=2)
        return
    model = model_of(experts, kind == "resident")
    for _ in range(2):
        our_step(model, coefficients, pixels, tasks=2)


def peak(folder: Path, count: int, kind: str) -> float:
    """Peak RssAnon in MB of a process that takes steps, sampled from outside."""
    return peak_of(multiprocessing.get_context("spawn").Process(target=_one_process, args=(folder, count, kind)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--timed", type=int, default=8, help="Experts (and tasks) in the timed comparison.")
    parser.add_argument("--rows", type=int, default=16, help="Rows a task.")
    parser.add_argument("--pairs", type=int, default=5, help="Interleaved rounds; 0 measures memory alone.")
    parser.add_argument(
        "--kinds", nargs="+", default=["mapped", "resident", "published"], help="Whose memory to measure."
    )
    parser.add_argument("--repeats", type=int, default=3, help="Processes whose peak the median is taken of.")
    parser.add_argument("--layers", type=int, default=12)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make(folder, max([*options.experts, options.timed]), options.layers)
        if options.pairs:
            time_steps(folder, options.timed, options.rows, options.pairs)
        print("peak RssAnon, MB (two tasks, 4 rows each)")
        table = {
            kind: [statistics.median(peak(folder, k, kind) for _ in range(options.repeats)) for k in options.experts]
            for kind in options.kinds
        }
        print("  K         ", *(f"{k:>8d}" for k in options.experts))
        for kind, values in table.items():
            print(
                f"  {kind:10s}", *(f"{value:8.0f}" for value in values), f"   last / first {values[-1] / values[0]:.3f}"
            )
        print(json.dumps({"experts": options.experts, "peak_mb": table}))


if __name__ == "__main__":
    main()
