"""A learning step on a GPU against a plain forward and backward, and its memory.

    python tests/benchmarks/gpu.py             # about two minutes on an H100
    python tests/benchmarks/gpu.py --profile   # and where the time goes

A vision transformer of the size of ViT-B/32 with random weights, K experts of it on disk, as many tasks as experts,
bf16-mixed. Timed in turn, on the same batches, which come from host memory: a plain forward and backward of an ordinary
module for every task; our step with task vectors resident on the device, mapped through pinned memory, and one block of
the model at a time. Reported are medians over interleaved rounds, their ratio to the plain step, peak memory on the
device, and the parts of our step beside what the hardware allows: bytes over the measured bandwidths of the device and
of the bus. Also timed: the same steps inside a whole fit, by Lightning's loop.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from adamerge.batch import Batch
from adamerge.data.rows import TensorRows
from adamerge.data.settings import Batching
from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.experts import Experts
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.learning.keep_best import Watching
from adamerge.learning.learn import Calibration, learn
from adamerge.learning.settings import Learning
from adamerge.merging.device import describe_device
from adamerge.merging.execution import Work, execution_of
from adamerge.merging.grouping import tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors, uniform
from adamerge.objectives import Entropy, entropy

DEVICE = torch.device("cuda", 0)
CLASSES = 10


def make(folder: Path, count: int, layers: int, dtype: torch.dtype) -> nn.Module:
    """Write a base and `count` experts with random weights; return the base."""
    config = ViTConfig(patch_size=32, num_hidden_layers=layers, num_labels=CLASSES)
    torch.manual_seed(0)
    model = ViTForImageClassification(config).eval()
    model.to(dtype).save_pretrained(folder / "base")
    start = {name: value.clone().to(DEVICE) for name, value in model.state_dict().items()}
    for number in range(count):
        for name, value in model.state_dict().items():
            value.copy_(start[name] + 1e-3 * torch.randn_like(start[name]))
        model.save_pretrained(folder / str(number))
    return ViTForImageClassification.from_pretrained(folder / "base", dtype=torch.float32).eval()


def load(folder: Path, count: int) -> Experts:
    return from_checkpoints(
        open_checkpoint(str(folder / "base")), {str(k): open_checkpoint(str(folder / str(k))) for k in range(count)}
    )


def model_of(experts: Experts, kind: str) -> MergedModel:
    vectors = task_vectors(experts, experts.shared, resident=kind == "resident", device=DEVICE)
    return MergedModel(experts, vectors, tensor_wise(experts.shared), blocks=() if kind == "streamed" else None)


def seconds(step: Callable[[], object]) -> float:
    """Time of one call, with everything that it started on the device."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def bandwidths() -> dict[str, float]:
    """Bytes per second of copies on the device (read and written) and from pinned memory to it."""
    here, there = (torch.empty(2**30, dtype=torch.uint8, device=DEVICE) for _ in range(2))
    pinned = torch.empty(2**28, dtype=torch.uint8, pin_memory=True)
    within = statistics.median(seconds(lambda: there.copy_(here)) for _ in range(20))
    across = statistics.median(seconds(lambda: there[: 2**28].copy_(pinned, non_blocking=True)) for _ in range(20))
    return {"device": 2**31 / within, "bus": 2**28 / across}


def plain_step(modules: list[nn.Module], pixels: list[torch.Tensor], autocast: bool) -> None:
    for module, rows in zip(modules, pixels, strict=True):
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            logits = module(pixel_values=rows.to(DEVICE)).logits
            loss = entropy(logits).mean()
        loss.backward()
    for module in modules:
        module.zero_grad(set_to_none=True)


def sharing(base: nn.Module, count: int) -> list[nn.Module]:
    """Modules of one backbone, each with a head of its own: what the merged model is to every task."""
    backbone = base.to(DEVICE)
    modules = [copy.copy(backbone) for _ in range(count)]
    for module in modules:
        module._modules = {**backbone._modules, "classifier": copy.deepcopy(backbone.classifier)}
    return modules


def our_step(model: MergedModel, coefficients: torch.Tensor, pixels: list[torch.Tensor], autocast: bool):
    def work(rows: torch.Tensor) -> Work:
        return Work(Batch({"pixel_values": rows}, torch.arange(len(rows))), lambda out, _: entropy(out.logits).mean())

    tasks = {task: [work(rows)] for task, rows in zip(model.tasks, pixels, strict=True)}
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        return execution_of(model).losses_and_gradient(coefficients, tasks)


def measure(step: Callable[[], object]) -> float:
    """Peak memory on the device during a step, in GB, with what was there before it."""
    torch.cuda.reset_peak_memory_stats()
    seconds(step)
    return torch.cuda.max_memory_allocated() / 1e9


def parts(model: MergedModel, coefficients: torch.Tensor) -> dict[str, float]:
    """Seconds of combine and inner alone."""
    merged = model.vectors.combine(coefficients, model.grouping)
    found: dict[str, float] = {}
    seconds(lambda: model.vectors.inner(merged, model.grouping))
    for name, step in {
        "combine": lambda: model.vectors.combine(coefficients, model.grouping),
        "inner": lambda: model.vectors.inner(merged, model.grouping),
    }.items():
        seconds(step)
        found[name] = statistics.median(seconds(step) for _ in range(7))
    return found


def whole_fit(model: MergedModel, pixels: list[torch.Tensor], steps: int, precision: str) -> float:
    """Seconds per step of a fit, from the difference of a long and a short one."""
    rows = {task: TensorRows({"pixel_values": own}) for task, own in zip(model.tasks, pixels, strict=True)}

    def fit(count: int) -> float:
        learning = Learning(
            torch.optim.Adam,
            batching=Batching(batch_size=len(pixels[0])),
            watching=Watching("last", every=10**6, patience=None),
            trainer={"max_steps": count, "precision": precision, "enable_progress_bar": False},
        )
        return seconds(lambda: learn(model, Entropy(), Calibration(rows, {}), learning))

    fit(2)
    return (fit(steps + 2) - fit(2)) / steps


def profile(step: Callable[[], object]) -> None:
    """Print which operations take the time of a step."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as watch

    with watch(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        seconds(step)
    averages = seen.key_averages()
    for key in ("self_cuda_time_total", "self_cpu_time_total"):
        print(averages.table(sort_by=key, row_limit=14, max_name_column_width=60))


def print_times(times: dict[str, list[float]], peaks: dict[str, float], floors: dict[str, float]) -> None:
    """Print the time of each kind of step, its ratio to the plain one, and its peak memory."""
    for name, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, times["plain"], strict=True))
        least, middle, most = (1e3 * of(values) for of in (min, statistics.median, max))
        if name == "streamed":
            bound = max(4 / 3 * statistics.median(times["resident"]), 2 * floors["streamed"])
            print(f"  streamed over its bound (4/3 of resident, or bytes over the bus): {middle / 1e3 / bound:.2f}")
        print(f"  {name:9s} {middle:7.1f} ms ({least:.1f} to {most:.1f})  × {ratio:.3f}  peak {peaks[name]:.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--rows", type=int, default=16, help="Rows per task.")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--files", default="float32", help="dtype of the files.")
    parser.add_argument("--precision", default="bf16-mixed", choices=["bf16-mixed", "32-true"])
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    autocast = options.precision == "bf16-mixed"
    if not torch.cuda.is_available():
        parser.exit(1, f"device: none (torch {torch.__version__} finds no CUDA device); nothing was measured.\n")
    print(f"device: {describe_device(DEVICE)}; torch {torch.__version__}")
    speed = bandwidths()
    print("bandwidth: " + ", ".join(f"{name} {value / 1e9:.0f} GB/s" for name, value in speed.items()))
    with tempfile.TemporaryDirectory() as place:
        base = make(Path(place), options.experts, options.layers, getattr(torch, options.files))
        experts = load(Path(place), options.experts)
        pixels = list(torch.randn(options.experts, options.rows, 3, 224, 224))
        modules = sharing(base, options.experts)
        coefficients: torch.Tensor | None = None
        steps: dict[str, Callable[[], object]] = {"plain": lambda: plain_step(modules, pixels, autocast)}
        peaks: dict[str, float] = {"plain": measure(steps["plain"])}
        models: dict[str, MergedModel] = {}
        for name in ("mapped", "streamed", "resident"):
            before = torch.cuda.memory_allocated() / 1e9
            models[name] = model_of(experts, name)
            coefficients = uniform(models[name], 0.3).to(DEVICE)
            steps[name] = lambda m=models[name], c=coefficients: our_step(m, c, pixels, autocast)
            peaks[name] = measure(steps[name]) - before
        assert coefficients is not None
        expected = steps["resident"]().gradient
        for name in ("mapped", "streamed"):
            apart = (steps[name]().gradient - expected).norm() / expected.norm()
            print(f"relative difference of the gradients, {name} and resident: {apart:.1e}")
        times: dict[str, list[float]] = {name: [] for name in steps}
        for number in range(options.rounds + 2):
            for name, step in steps.items():
                taken = seconds(step)
                if number >= 2:
                    times[name].append(taken)
        numbers = sum(experts.base.shape(name).numel() for name in experts.shared)
        floors = {
            "resident": 4 * numbers * options.experts / speed["device"],
            "mapped": numbers * getattr(torch, options.files).itemsize * options.experts / speed["bus"],
            "streamed": numbers * getattr(torch, options.files).itemsize * (options.experts + 1) / speed["bus"],
        }
        print(f"{numbers / 1e6:.0f} M numbers, K = {options.experts}, {options.rows} rows each, {options.precision}")
        print_times(times, peaks, floors)
        for name, model in models.items():
            own = ", ".join(f"{part} {value * 1e3:.2f} ms" for part, value in parts(model, coefficients).items())
            print(f"  {name}: {own}; {floors[name] * 1e3:.2f} ms are the task vectors' bytes over the bandwidth")
            fitted = whole_fit(model, pixels, 10, options.precision)
            print(f"  {name}: {fitted * 1e3:.1f} ms per step of a whole fit")
        if options.profile:
            profile(steps["plain"])
            profile(steps["resident"])


if __name__ == "__main__":
    main()
