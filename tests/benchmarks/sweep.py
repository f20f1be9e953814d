"""Why expert_merging++ is what it is: one of its choices at a time is altered, and measured on train-file rows.

    python ../shared/zoo/unpack.py zoo
    python tests/benchmarks/sweep.py                           # about 40 minutes on two quiet cores
    python tests/benchmarks/sweep.py --only expert_merging++ "over the base"

Every variant learns from the same unlabeled rows of the train files; measured are, on other rows of the train files,
the divergence of its predictions from the experts' and the share of predictions in common. Test files are not read.
Rows that are in the JSON file already are not run again.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from alignment import Found, Seed
from rich.console import Console
from rich.table import Table

from adamerge.calibration.agreement import hold_out
from adamerge.calibration.targets import TargetSettings, compute_targets
from adamerge.objectives import Entropy, HiddenAlignment, LogitAlignment, Objective, Sum
from adamerge.optim.feasible_sets import Box
from adamerge.results.evaluate import mean
from adamerge.runs.config import MergeConfig
from adamerge.transforms import Doge, TaskSingularVectors, Wudi

SPARE = 200
"""Rows a task to measure on."""


def steps(config: MergeConfig, first: int, second: int) -> MergeConfig:
    assert config.chunks is not None
    chunks = replace(config.chunks, first_steps=first)
    return replace(config, chunks=chunks, trainer=replace(config.trainer, max_steps=first + second))


def budget(config: MergeConfig, times: float) -> MergeConfig:
    assert config.chunks is not None
    return replace(config, chunks=replace(config.chunks, budget=times))


def rate(config: MergeConfig, lr: float) -> MergeConfig:
    return replace(config, optimizer=partial(torch.optim.Adam, lr=lr))


def objective(config: MergeConfig, other: Objective) -> MergeConfig:
    return replace(config, objective=other)


VARIANTS: dict[str, Callable[[MergeConfig], MergeConfig]] = {
    "expert_merging++": lambda c: c,
    "over the base": lambda c: replace(c, centre=None),
    "over RegMean": lambda c: replace(c, centre="regmean"),
    "over DOGE": lambda c: replace(c, centre=Doge()),
    "over task singular vectors": lambda c: replace(c, centre=TaskSingularVectors()),
    "over WUDI": lambda c: replace(c, centre=Wudi()),
    "tensor-wise": lambda c: replace(c, chunks=None),
    "budget 16 ×": lambda c: budget(c, 16),
    "budget 64 ×": lambda c: budget(c, 64),
    "half the steps": lambda c: steps(c, 10, 20),
    "twice the steps": lambda c: steps(c, 40, 80),
    "learning rate 1e-2": lambda c: rate(c, 1e-2),
    "learning rate 6e-2": lambda c: rate(c, 6e-2),
    "logits by mse": lambda c: objective(c, LogitAlignment("mse")),
    "temperature 2": lambda c: objective(c, LogitAlignment(temperature=2)),
    "hidden states": lambda c: objective(c, HiddenAlignment()),
    "logits and hidden states": lambda c: objective(c, Sum([LogitAlignment(), HiddenAlignment()])),
    "entropy, in the box": lambda c: replace(objective(rate(c, 1e-2), Entropy()), feasible=Box()),
}
FEW = {f"{few} rows per task": few for few in (8, 64)}


def measured(seed: Seed, found: Found) -> dict[str, float]:
    """Divergence in nats and agreement in %, mean over tasks, on the rows that were spared."""
    model, size = found.model, 32
    targets = compute_targets(model, seed.spare, TargetSettings(()), 32, seed.folder / "spared")
    rows = hold_out(model, seed.spare, size, targets)
    with torch.no_grad():
        merged = model.vectors.combine(found.coefficients, model.grouping)
    agreement = 100 * mean(rows.agreement(model, merged))
    return {"divergence": mean(rows.objective(model, merged, LogitAlignment())), "agreement": agreement}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=[*VARIANTS, *FEW], default=[*VARIANTS, *FEW])
    parser.add_argument("--steps", type=int, help="of every stage, for a quick look")
    parser.add_argument("--out", type=Path, default=Path("runs/sweep"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "sweep.json"
    rows = json.loads(file.read_text()) if file.exists() else {}
    missing = [word for word in options.only if word not in rows]
    seed = Seed(options.seed, options.out, options.steps, SPARE) if missing else None
    for word in missing:
        assert seed is not None
        config = VARIANTS.get(word, VARIANTS["expert_merging++"])(seed.config("default"))
        found = seed.learned(config, FEW.get(word))
        rows[word] = {"seconds": found.seconds, "groups": len(found.coefficients), **measured(seed, found)}
        file.write_text(json.dumps(rows, indent=1))
        print(f"{word:28s} {rows[word]['divergence']:.4f}  {rows[word]['agreement']:.2f}", flush=True)
    table = Table("variant", "groups", "divergence, nats", "agreement, %", "seconds")
    for word, row in sorted(rows.items(), key=lambda item: item[1]["divergence"]):
        numbers = f"{row['divergence']:.4f}", f"{row['agreement']:.2f}", f"{row['seconds']:.0f}"
        table.add_row(word, str(row["groups"]), *numbers)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
