"""Every method on the zoo: the README's table, by one command.

    python ../shared/zoo/unpack.py zoo
    python tests/benchmarks/methods.py                        # all that are not in --out yet
    python tests/benchmarks/methods.py --only doge,ties --rows 100

A row a method: as configs/zoo_<method>.yaml says where there is one, else as its preset does on the same models; and a
row a variant, which alters one of these recipes (VARIANTS). Each is merged by `adamerge fit` in a process of its own;
calibration rows are from the train files, and are left out where the method needs none. Seconds and peak anonymous
memory (RssAnon, sampled from outside) are those from the start of the command until the coefficients are written;
exporting and measuring come after. The exported checkpoints are then loaded in plain transformers: accuracy and
agreement with the experts are on the test files, which decide nothing.
Results are kept as JSON after every row, and a row that is there is not run again.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
import yaml
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging
from watched import anonymous

from adamerge.cli import parse_file
from adamerge.data.rows import Rows
from adamerge.data.settings import DataSource
from adamerge.results.evaluate import mean
from adamerge.runs.build_model import open_experts
from adamerge.runs.config import MergeConfig
from adamerge.runs.load_rows import load_data
from adamerge.runs.presets import PRESETS
from adamerge.runs.run_directory import RunDirectory
from adamerge.storage.atomic_files import write_text

FULL_BATCH = {"rows": 64, "batch_size": None, "micro_batch": 8}

VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    "adamerging++": ("adamerging", {"method": "adamerging++"}),
    "adamerging on doge": ("adamerging", {"task_vectors": "Doge"}),
    "adamerging over isotropic": ("adamerging", {"centre": "Isotropic"}),
    "expert_merging on hidden states": ("expert_merging", {"objective": "HiddenAlignment"}),
    "expert_merging with labels": ("expert_merging", {"objective": "CrossEntropy"}),
    "expert_merging by lbfgsb": (
        "expert_merging",
        {"optimizer": "LBFGSB", "lr_scheduler": None, "data": FULL_BATCH, "trainer": {"max_steps": 25}},
    ),
    "expert_merging++ over the base": ("expert_merging++", {"centre": None}),
    "expert_merging++ over wudi": ("expert_merging++", {"centre": "Wudi"}),
    "frank_wolfe hard": ("frank_wolfe", {"optimizer": "FrankWolfe", "trainer": {"max_steps": 20}}),
    "frank_wolfe over isotropic": ("frank_wolfe", {"centre": "Isotropic"}),
    "projected_gradient": ("frank_wolfe", {"optimizer": "ProjectedGradient", "trainer": {"max_steps": 20}}),
}
"""Rows that alter the recipe of another: which, and what is written in it."""

EXPERTS = "experts"
"""The row of the unmerged experts, each on its own task."""


def recipes(folder: Path) -> dict[str, dict[str, object]]:
    """The configuration of every row."""
    written = {
        path.stem.removeprefix("zoo_").replace("_pp", "++"): yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("zoo_*.yaml"))
    }
    models = {key: written["adamerging"][key] for key in ("base_model", "models", "data")}
    presets = {method: {**models, "method": method} for method in PRESETS}
    return presets | written | {name: written[of] | changes for name, (of, changes) in VARIANTS.items()}


def prepare(recipe: Mapping[str, object], file: Path) -> MergeConfig:
    """Write a configuration that measures nothing, and reads calibration rows only if it needs any."""
    models = [{key: value for key, value in model.items() if key != "evaluation"} for model in recipe["models"]]
    write_text(file, yaml.safe_dump({**recipe, "models": models}))
    config = parse_file(file)
    if not config.needs_rows:
        models = [{key: value for key, value in model.items() if key != "calibration"} for model in models]
        write_text(file, yaml.safe_dump({**recipe, "models": models}))
    return config


def merge(file: Path, run_dir: Path, settings: Mapping[str, object], log: Path) -> tuple[float, float]:
    """Run the command; returns seconds and peak RssAnon in MB until the coefficients are written."""
    command = [sys.executable, "-m", "adamerge", "fit", "--config", str(file), "--run_dir", str(run_dir)]
    command += ["--seed_everything", str(settings["seed"]), "--trainer.precision", str(settings["precision"])]
    began, peak, done = time.time(), 0, RunDirectory(run_dir).coefficients
    with log.open("w") as said, subprocess.Popen(command, stdout=said) as process:
        while process.poll() is None:
            if not done.exists():
                peak = max(peak, anonymous(process.pid))
            time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{file.stem}: adamerge fit ended with code {process.returncode}; see {log}")
    return done.stat().st_mtime - began, peak / 1024


@torch.no_grad()
def predict(folder: Path, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """What a checkpoint predicts in plain transformers, and the labels."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    predicted, labels = [], []
    for batch in rows.batches(64):
        predicted.append(model(**batch.inputs).logits.argmax(-1))
        labels.append(batch.labels)
    return torch.cat(predicted), torch.cat(labels)


def share(found: torch.Tensor, expected: torch.Tensor) -> float:
    return 100 * (found == expected).double().mean().item()


def with_mean(values: Mapping[str, float]) -> dict[str, float]:
    return {**values, "mean": mean(values)}


def labeled(file: Path, rows: int | None) -> Mapping[str, Rows]:
    """Labeled test rows of every task."""
    config = parse_file(file)
    for model in config.models:
        assert isinstance(model.evaluation, str)
        model.evaluation = DataSource(model.evaluation, rows=rows)
    return load_data(config, open_experts(config), calibrate=False).evaluation


def calibration(config: MergeConfig) -> str:
    """What a method sees of the calibration rows."""
    if not config.needs_rows:
        return "none"
    return "labeled" if config.objective.uses_labels and config.trainer.max_steps else "unlabeled"


def table(rows: Mapping[str, Mapping[str, object]]) -> str:
    """The rows in Markdown, the most accurate first."""
    lines = ["| method | calibration | accuracy, % | agreement, % | seconds | peak MB |", "|---|---|---|---|---|---|"]
    for name, row in sorted(rows.items(), key=lambda item: -item[1]["accuracy"]["mean"]):
        cells = [f"{row[key]['mean']:.2f}" if key in row else "" for key in ("accuracy", "agreement")]
        cells += [f"{row[key]:.0f}" if key in row else "" for key in ("seconds", "peak_mb")]
        lines.append(f"| {name} | {row.get('calibration', '')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="Rows to run, with commas between; all by default.")
    parser.add_argument("--rows", type=int, help="Test rows per task; all by default.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="32-true", help="Of learning.")
    parser.add_argument("--configs", type=Path, default=Path("configs"))
    parser.add_argument("--out", type=Path, default=Path("runs/methods.json"))
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    known = recipes(options.configs)
    asked = options.only.split(",") if options.only else list(known)
    unknown = set(asked) - known.keys()
    if unknown:
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}; known are {', '.join(known)}")
    settings = {"rows": options.rows, "seed": options.seed, "precision": options.precision}
    kept = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {**settings, "methods": {}}
    if {key: kept[key] for key in settings} != settings:
        parser.error(f"{options.out}: was made with other --rows, --seed or --precision; choose another --out")
    options.out.parent.mkdir(parents=True, exist_ok=True)

    done: dict[str, dict[str, object]] = kept["methods"]
    left = [name for name in asked if name not in done]
    if left:
        data = labeled(options.configs / "zoo_adamerging.yaml", options.rows)
        by_experts = {task: predict(Path("zoo") / task, rows) for task, rows in data.items()}
        done[EXPERTS] = {"accuracy": with_mean({task: share(*pair) for task, pair in by_experts.items()})}
    for name in left:
        with tempfile.TemporaryDirectory() as place:
            made = prepare(known[name], Path(place) / f"{name}.yaml")
            log = options.out.with_name(f"{options.out.stem}_{name}.log")
            seconds, peak = merge(Path(place) / f"{name}.yaml", Path(place) / "run", settings, log)
            found = {task: predict(Path(place) / "run" / "merged" / task, rows) for task, rows in data.items()}
        done[name] = {
            "accuracy": with_mean({task: share(*pair) for task, pair in found.items()}),
            "agreement": with_mean({task: share(found[task][0], by_experts[task][0]) for task in found}),
            "seconds": seconds,
            "peak_mb": peak,
            "calibration": calibration(made),
        }
        write_text(options.out, json.dumps(kept, indent=2) + "\n")
    print(table({name: done[name] for name in (EXPERTS, *known) if name in done}))


if __name__ == "__main__":
    main()
