"""The price of rows: what the default and merges in closed form make of 8, 16, … 256 unlabeled rows per task.

    python tests/benchmarks/price.py --pools pools --only text-8 --test_rows 500 --picture docs/rows.png
    python tests/benchmarks/price.py --pools pools --only language-5 --rows 8 32 96 --test_rows 20

Each cell is `adamerge fit` in a process of its own, as in pools.py: rows are drawn from those that no expert saw, as
many as a task has at most; test files decide nothing. Runs are kept in --out, and a run that is finished is not
run again. Printed is the mean over tasks of the measure in %, and --picture draws it.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from pool_inputs import POOLS
from pools import few, fit

METHODS = {"default": "auto", "ESM": "esm", "RegMean": "regmean", "FeatCal": "feat_cal"}
"""Rows of the table, and the presets that they are."""

Measured = Mapping[str, Mapping[int, float]]
"""The measure in %, by method and rows per task."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", type=Path, default=Path("pools"), help="Folder of the checkpoints.")
    parser.add_argument("--shared", type=Path, default=Path("../shared/zoo"))
    parser.add_argument("--only", nargs="+", choices=list(POOLS), default=["text-8", "language-5"])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--rows", nargs="+", type=int, default=[8, 16, 32, 64, 128, 256])
    parser.add_argument("--test_rows", type=int, help="Test rows per task, where all take too long.")
    parser.add_argument("--out", type=Path, default=Path("runs/price"))
    parser.add_argument("--picture", type=Path, help="File of the picture.")
    options = parser.parse_args()
    found = {pool: measured(pool, options) for pool in options.only}
    for pool, own in found.items():
        print(f"\n{pool}\n\n{table(own, options.rows)}")
    if options.picture:
        draw(found, options.picture)


def measured(pool: str, options: argparse.Namespace) -> Measured:
    """Run what is left of one pool, and read all of it."""
    found: dict[str, dict[int, float]] = {method: {} for method in options.methods}
    for rows in options.rows:
        for method in options.methods:
            run = options.out / pool / METHODS[method] / str(rows)
            if not (run / "recipe.json").exists():
                config = few(POOLS[pool](options.pools, options.shared), rows, options.test_rows)
                fit({**config, "method": METHODS[method], "seed_everything": 0}, run, one_thread=True)
            found[method][rows] = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["learned"]["mean"]
    return found


def table(found: Measured, rows: Sequence[int]) -> str:
    """The measure in Markdown: a line per method, a column per number of rows."""
    lines = [f"| rows per task | {' | '.join(map(str, rows))} |", f"|---|{'---|' * len(rows)}"]
    lines += [f"| {name} | {' | '.join(f'{own[count]:.1f}' for count in rows)} |" for name, own in found.items()]
    return "\n".join(lines)


def draw(found: Mapping[str, Measured], file: Path) -> None:
    """Draw the measure over the rows per task, one field per pool."""
    figure, fields = plt.subplots(1, len(found), figsize=(4.6 * len(found), 3.4), squeeze=False, layout="constrained")
    for field, (pool, own) in zip(fields[0], found.items(), strict=True):
        for name, values in own.items():
            field.plot(list(values), list(values.values()), marker="o", markersize=4, label=name)
        field.set_xscale("log", base=2)
        field.set_xticks(list(next(iter(own.values()))), list(next(iter(own.values()))))
        field.set(title=pool, xlabel="unlabeled rows per task", ylabel="mean over tasks, %")
        field.grid(alpha=0.3)
    fields[0][0].legend(frameon=False)
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
