"""Does Frank-Wolfe find the experts that are of use in a pool of others, and does memory grow with the pool?

    python ../shared/zoo/unpack.py zoo
    python tests/benchmarks/pool.py                   # about ten minutes on two cores

Four tasks have unlabeled training rows. The pool holds the zoo's eight experts, and in a second run twelve more: the
eight task vectors with the rows of each matrix (and the numbers of each vector) permuted at random, and four of noise
that is as large, tensor by tensor, as a real one. The base is among the vertices, and learning starts there. Each run
is a process of its own, `adamerge fit`, whose anonymous memory (RssAnon) is sampled from outside.

Printed are the average accuracy on the whole test files with either pool, the weight of the irrelevant experts (their
share of the radius, mean over groups), and the peaks.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor
from watched import anonymous

from adamerge.merging.coefficients import load_coefficients

TARGETS = ("trec", "news", "banking", "assistant")
TASKS = ("trec", "news", "banking", "assistant", "subj", "movie", "customer", "stackoverflow")
RADIUS = 1.5
SETTINGS = {
    "method": "frank_wolfe",
    "memory": "mapped",
    "init": 0.0,
    "feasible": {"class_path": "Simplex", "init_args": {"radius": RADIUS, "includes_base": True}},
    "watch": {"every": 2},
}


def permuted(vector: Tensor, generator: torch.Generator) -> Tensor:
    """A task vector with its rows in another order."""
    return vector[torch.randperm(len(vector), generator=generator)]


def noise(vector: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian noise of the size of a task vector."""
    drawn = torch.randn(vector.shape, generator=generator)
    return drawn * (vector.norm() / drawn.norm())


def make_irrelevant(zoo: Path, folder: Path) -> list[str]:
    """Write twelve experts that are of no use; returns their names."""
    base = load_file(zoo / "base/model.safetensors")
    kinds = [("permuted", permuted, task) for task in TASKS] + [("noise", noise, task) for task in TASKS[:4]]
    for number, (kind, change, task) in enumerate(kinds):
        generator = torch.Generator().manual_seed(number)
        tensors = load_file(zoo / task / "model.safetensors")
        for name, tensor in tensors.items():
            own = name.removeprefix("bert.")
            if own in base and tensor.is_floating_point():
                tensors[name] = (base[own] + change(tensor - base[own], generator)).contiguous()
        place = folder / f"{kind}_{task}"
        place.mkdir()
        save_file(tensors, place / "model.safetensors", {"format": "pt"})
        shutil.copy(zoo / task / "config.json", place)
    return [f"{kind}_{task}" for kind, _, task in kinds]


def configuration(zoo: Path, data: Path, extra: Sequence[Path], steps: int, per: str) -> dict[str, object]:
    """What to merge: with extra experts or without."""
    models: list[dict[str, object]] = []
    for task in TASKS:
        model: dict[str, object] = {"model": str(zoo / task)}
        if task in TARGETS:
            rows = {purpose: str(data / task / f"{purpose}.jsonl") for purpose in ("train", "test")}
            model |= {"calibration": rows["train"], "evaluation": rows["test"]}
        models.append(model)
    models += [{"model": str(place)} for place in extra]
    optimizer = {"class_path": "SoftFrankWolfe", "init_args": {"top_k": 4, "inner_steps": 5, "per": per}}
    settings = {
        **SETTINGS,
        "optimizer": optimizer,
        "data": {"micro_batch": 8, "batch_size": 32},
        "trainer": {"max_steps": steps},
    }
    return {"base_model": str(zoo / "base"), "models": models, **settings}


def fit(config: dict[str, object], run: Path) -> float:
    """Run a merge in a process of its own; returns its peak RssAnon in MB."""
    file = run.with_suffix(".yaml")
    file.write_text(yaml.safe_dump({**config, "run_dir": str(run)}))
    process = subprocess.Popen([sys.executable, "-m", "adamerge", "fit", "--config", str(file)])
    highest = 0
    while process.poll() is None:
        highest = max(highest, anonymous(process.pid))
        time.sleep(0.005)
    assert process.wait() == 0
    return highest / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=Path("zoo"))
    parser.add_argument("--data", type=Path, default=Path("../shared/zoo/data"))
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--per", choices=["model", "group"], default="model", help="who proposes experts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        irrelevant = make_irrelevant(options.zoo, folder)
        found: dict[int, dict[str, float]] = {}
        for extra in ([], [folder / name for name in irrelevant]):
            pool = len(TASKS) + len(extra)
            run = folder / f"run_{pool}"
            peak = fit(configuration(options.zoo, options.data, extra, options.steps, options.per), run)
            metrics = json.loads((run / "metrics.json").read_text())
            learned = load_coefficients(run / "coefficients.safetensors")
            shares = dict(zip(learned.experts, (learned.coefficients.mean(0) / RADIUS).tolist(), strict=True))
            weight = sum(shares.get(name, 0.0) for name in irrelevant)
            found[pool] = {"accuracy": metrics["learned"]["mean"], "irrelevant": 100 * weight, "peak_mb": peak}
            print(f"pool of {pool}:", ", ".join(f"{name} {share:.3f}" for name, share in shares.items()), flush=True)
    few, many = found.values()
    print("pool     accuracy, %   irrelevant weight, %   peak RssAnon, MB")
    for pool, numbers in found.items():
        print(f"{pool:4d}  {numbers['accuracy']:12.2f}  {numbers['irrelevant']:21.2f}  {numbers['peak_mb']:17.0f}")
    print(f"accuracy changes by {many['accuracy'] - few['accuracy']:+.2f} points (less than 0.5)")
    print(f"weight of the irrelevant ones {many['irrelevant']:.2f} % (less than 2 %)")
    print(f"peak memory × {many['peak_mb'] / few['peak_mb']:.3f} (at most 1.05)")


if __name__ == "__main__":
    main()
