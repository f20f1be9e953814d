"""What each part of the default is worth, by unlabeled rows alone.

    python ../shared/zoo/unpack.py pools/zoo
    python tests/benchmarks/ablation.py --pools pools --only vision-4

Each cell is `adamerge fit` without evaluation rows, in a process of its own, with one part of the default left out or
altered. Printed are means over seeds of the divergence from the experts and of the agreement with them on held-out
rows, of the steps, and of the seconds until the merge is written. Every seed holds out other rows, the same for all
variants. Finished runs in --out are not run again.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean

from pool_inputs import POOLS
from pools import fit

VARIANTS: dict[str, dict[str, object]] = {
    "the default": {},
    "centre: Wudi, no race": {"centre": "Wudi"},
    "60 steps with cosine, not its own number": {"lr_scheduler": "cosine", "trainer": {"max_steps": 60}},
    "no mean over steps": {"watch": {"average": 0.0}},
    "no guard": {"watch": {"guard": False}},
    "no chunks": {"chunks": None},
    "twice as many chunks": {"chunks": {"budget": 16}},
    "chunks grown in stages": {"chunks": {"budget": "auto"}},
    "nothing beside": {"beside": []},
    "the base alone beside": {"beside": ["base"]},
    "classes at temperature 1": {
        "objective": {"class_path": "LogitAlignment", "init_args": {"temperature": 1.0}},  # else the default's stays
    },
    "classes at temperature 4": {"objective": {"class_path": "LogitAlignment", "init_args": {"temperature": 4.0}}},
    "no copies of texts": {"data": {"augmentation": None}},
}
"""What each row of the table writes in the configuration, beside the pool."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", type=Path, default=Path("pools"), help="Folder of the checkpoints.")
    parser.add_argument("--shared", type=Path, default=Path("../shared/zoo"))
    parser.add_argument("--only", choices=list(POOLS), default="vision-4")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    options = parser.parse_args()
    pool = POOLS[options.only](options.pools, options.shared)
    unlabeled = [{key: value for key, value in model.items() if key != "evaluation"} for model in pool["models"]]
    print("| | divergence, nats | agreement, % | steps | seconds |\n|---|---|---|---|---|", flush=True)
    for name in options.variants:
        change = VARIANTS[name]
        config = {**pool, **change, "models": unlabeled, "data": {**pool.get("data", {}), **change.get("data", {})}}
        runs = [options.out / options.only / "".join(filter(str.isalnum, name)) / str(seed) for seed in options.seeds]
        for seed, run in zip(options.seeds, runs, strict=True):
            if not (run / "recipe.json").exists():
                fit({**config, "seed_everything": seed}, run, one_thread=options.only.startswith("vision"), say=False)
        found = [json.loads((run / "metrics.json").read_text(encoding="utf-8")) for run in runs]
        print(_row(name, [_measured(one) for one in found]), flush=True)


def _measured(metrics: Mapping[str, dict[str, dict[str, float]]]) -> tuple[float, float, float, float]:
    history, seconds = metrics["history"], metrics["run"]["seconds"]
    return (
        metrics["divergence"]["learned"]["mean"],
        100 * metrics["agreement"]["learned"]["mean"],
        history[-1]["step"],
        sum(own for phase, own in seconds.items() if phase != "measure"),
    )


def _row(name: str, each: list[tuple[float, float, float, float]]) -> str:
    divergence, agreement, steps, seconds = (mean(column) for column in zip(*each, strict=True))
    return f"| {name} | {divergence:.4f} | {agreement:.1f} | {steps:.0f} | {seconds:.0f} |"


if __name__ == "__main__":
    main()
