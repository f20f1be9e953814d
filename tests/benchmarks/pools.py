"""Every method on several pools: one table, which says whether the default holds where it was not tuned.

    python ../shared/zoo/unpack.py pools/zoo
    python ../shared/zoo/llm/unpack.py pools/llm
    python tests/benchmarks/pools.py --pools pools                       # all; says first how long it may take
    python tests/benchmarks/pools.py --pools pools --only text-8 vision-4 --methods auto "former default" wudi

Each cell is `adamerge fit` in a process of its own, on unlabeled rows that no expert was trained on; test files are
read by the run's own table at its end, and decide nothing. Runs are kept in --out, and a run that is finished is not
run again, so that the command goes on where it was stopped. Printed are the mean over tasks of the measure (accuracy,
or exact match of greedy answers), its share of the experts', divergence and agreement on held-out rows, seconds and
peak memory; then, per pool, how well divergence and agreement order the merges as the measure does (Spearman).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from pool_inputs import POOLS
from scipy.stats import spearmanr

FINISHED = ("average", "task_arithmetic", "ties", "isotropic", "task_singular_vectors", "wudi", "doge", "regmean")

METHODS: dict[str, dict[str, object]] = {
    **{method: {"method": method} for method in FINISHED},
    "adamerging": {"method": "adamerging"},
    "expert_merging": {"method": "expert_merging"},
    "former default": {"method": "expert_merging++"},
    "auto": {"method": "auto"},
}
"""What each row of the table writes in the configuration, beside the pool."""

SEEDED = ("former default", "auto")
"""Rows that are run with three seeds."""

MINUTES = {"text-8": 5, "good": 4, "noise": 6, "vision-4": 1, "vision-6": 2, "language-5": 25}
"""Minutes that a learned merge takes on two quiet cores."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", type=Path, default=Path("pools"), help="Folder of the checkpoints.")
    parser.add_argument("--shared", type=Path, default=Path("../shared/zoo"))
    parser.add_argument("--only", nargs="+", choices=list(POOLS), default=list(POOLS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, help="Unlabeled rows per task, where all take too long.")
    parser.add_argument("--test_rows", type=int, help="Test rows per task, likewise.")
    parser.add_argument("--out", type=Path, default=Path("runs/pools"))
    options = parser.parse_args()
    wanted = [
        (pool, method, seed)
        for pool in options.only
        for method in options.methods
        for seed in (options.seeds if method in SEEDED else options.seeds[:1])
    ]
    left = [one for one in wanted if not _run_of(options.out, *one).joinpath("recipe.json").exists()]
    learned = sum(MINUTES[pool] for pool, method, _ in left if method not in FINISHED)
    print(f"{len(left)} of {len(wanted)} runs are left: about {learned} minutes for those that learn", flush=True)
    for pool, method, seed in left:
        rows = few(POOLS[pool](options.pools, options.shared), options.rows, options.test_rows)
        config = {**rows, **METHODS[method], "seed_everything": seed}
        fit(config, _run_of(options.out, pool, method, seed), one_thread=pool.startswith("vision"))
    for pool in options.only:
        found = {
            method: [
                json.loads((_run_of(options.out, pool, method, seed) / "metrics.json").read_text(encoding="utf-8"))
                for seed in options.seeds
                if (pool, method, seed) in wanted
            ]
            for method in options.methods
        }
        print(f"\n{pool}\n\n{table(found)}\n\n{ranks(found)}")


def few(pool: Mapping[str, object], rows: int | None, test_rows: int | None) -> dict[str, object]:
    """Limit the rows per task of a pool, to learn from and to measure on."""
    data = {**pool["data"], **({} if rows is None else {"rows": rows})}
    if test_rows is None:
        return {**pool, "data": data}
    models = [
        {**model, "evaluation": {**asked, "rows": test_rows}}
        if isinstance(asked := model["evaluation"], Mapping)
        else {**model, "evaluation": {"path": asked, "rows": test_rows}}
        for model in pool["models"]
        if "evaluation" in model
    ]
    return {**pool, "data": data, "models": [*models, *(m for m in pool["models"] if "evaluation" not in m)]}


def _run_of(out: Path, pool: str, method: str, seed: int) -> Path:
    return out / pool / method.replace(" ", "_") / str(seed)


def fit(config: Mapping[str, object], run: Path, *, one_thread: bool, say: bool = True) -> None:
    """Run a merge in a process of its own; what an earlier try left is removed.

    Small products are slower on several threads, which mostly wait for each other.
    """
    shutil.rmtree(run, ignore_errors=True)
    run.parent.mkdir(parents=True, exist_ok=True)
    file = run.with_suffix(".yaml")
    file.write_text(yaml.safe_dump({**config, "run_dir": str(run)}), encoding="utf-8")
    began = time.perf_counter()
    with run.with_suffix(".log").open("w", encoding="utf-8") as log:
        command = [sys.executable, "-m", "adamerge", "fit", "--config", str(file)]
        threads = {"OMP_NUM_THREADS": "1"} if one_thread else {}
        ended = subprocess.run(
            command, stdout=log, stderr=subprocess.STDOUT, check=False, env={**os.environ, **threads}
        )
    if ended.returncode:
        raise SystemExit(f"adamerge fit --config {file}: exit code {ended.returncode}; see {log.name}")
    shutil.rmtree(run / "merged")  # gigabytes; the table has been made
    if say:
        print(f"{run}: {time.perf_counter() - began:.0f} s", flush=True)


def table(found: Mapping[str, Sequence[Mapping[str, object]]]) -> str:
    """The rows in Markdown: what every run measured, and each method, the best first."""
    lines = [
        "| | measure | % of the experts | divergence, nats | agreement, % | seconds | peak GB |",
        "|---|---|---|---|---|---|---|",
    ]
    first = next(iter(found.values()))[0]
    beside = {"experts": "expert", "base": "base", "task arithmetic, tuned": "task_arithmetic_tuned"}
    rows = {name: _row([first], key) for name, key in beside.items()}
    rows |= {method: _row(runs, "learned") for method, runs in found.items()}
    for name, cells in sorted(rows.items(), key=lambda item: -(item[1][0] or 0.0)):
        shown = ("" if cell is None else f"{cell:.{digits}f}" for cell, digits in zip(cells, DIGITS, strict=True))
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


DIGITS = (2, 1, 4, 1, 0, 2)


def _row(runs: Sequence[Mapping[str, object]], key: str) -> list[float | None]:
    """The mean over seeds of every column."""
    each = [
        (
            run[key].get("mean"),
            run["percent_of_expert"][key].get("mean"),
            run["divergence"].get(key, {}).get("mean"),
            _times(100, run["agreement"].get(key, {}).get("mean")),
            _seconds(run["run"]["seconds"]) if key == "learned" else None,
            max(run["run"]["peak_memory_bytes"].values()) / 1e9 if key == "learned" else None,
        )
        for run in runs
    ]
    return [None if None in column else sum(column) / len(column) for column in zip(*each, strict=True)]


def _seconds(phases: Mapping[str, float]) -> float:
    """Until the merge is written; measuring comes after."""
    return sum(seconds for phase, seconds in phases.items() if phase != "measure")


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value


def ranks(found: Mapping[str, Sequence[Mapping[str, object]]]) -> str:
    """How well what needs no labels orders the merges as the measure does."""
    runs = [run for own in found.values() for run in own]
    measure = [run["learned"]["mean"] for run in runs]
    each = {
        "divergence": [-run["divergence"]["learned"]["mean"] for run in runs],
        "agreement": [run["agreement"]["learned"]["mean"] for run in runs],
    }
    said = (f"{key} {spearmanr(values, measure).statistic:.3f}" for key, values in each.items())
    return f"rank correlation with the measure over {len(runs)} merges: {', '.join(said)}"


if __name__ == "__main__":
    main()
