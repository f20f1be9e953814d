"""Expert Merging and its chunks on the zoo: accuracy on the full test files, by allocation, budget, rows and seed.

    python ../shared/zoo/unpack.py zoo
    python tests/benchmarks/alignment.py                       # three seeds, about 40 minutes on two quiet cores
    python tests/benchmarks/alignment.py --seeds 0 --only "tensor-wise" --steps 10 --evaluation 50

Calibration rows are of the train files, without their labels; the test files are read for the table alone. Settings
were chosen on train-file rows. All chunked runs of a seed go on from that seed's tensor-wise run, as
`adamerge fit --method expert_merging++` does. Rows that are in the JSON file already are not run again.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table

from adamerge.agreement import hold_out
from adamerge.callbacks import Watching
from adamerge.chunks import Chunks
from adamerge.cli import parse_file
from adamerge.closed_form import ClosedForm, closed_form
from adamerge.data import first_rows
from adamerge.evaluate import Evaluation, uniform
from adamerge.grouping import tensor_wise
from adamerge.inspection import inspect_weights
from adamerge.job import open_experts
from adamerge.learn import Calibration, Learning, divide
from adamerge.merged import MergedModel, task_vectors
from adamerge.objectives import LogitAlignment
from adamerge.reading import load_data
from adamerge.regmean import RegMean, kept_regmean
from adamerge.stages import learn_in_stages
from adamerge.types import Coefficients

ZOO = Path("configs/zoo_expert_merging.yaml")
FIRST, SECOND, LONG = 100, 50, 150
"""Steps of the tensor-wise stage, of the chunked one, and of a longer chunked one."""


@dataclass
class Found:
    """A merge to be measured, and what it took."""

    model: MergedModel
    coefficients: Coefficients
    seconds: float
    history: list[dict[str, float]]


class Seed:
    """One seed's rows and models; everything that its runs share."""

    def __init__(self, seed: int, folder: Path, steps: int | None) -> None:
        config = parse_file(ZOO)
        self.config = replace(config, seed_everything=seed)
        self.experts = open_experts(self.config)
        self.changed = inspect_weights(self.experts).changed
        data = load_data(self.config, self.experts)
        self.evaluation = data.evaluation
        self.calibration = divide(data.calibration, self.config.data, seed)
        self.model = self.over(None)
        self.held_out = hold_out(self.model, self.calibration.watch, self.config.data.micro_batch)
        self.folder, self.steps = folder, steps

    def over(self, centre) -> MergedModel:
        """The experts' task vectors over a centre, in memory."""
        vectors = task_vectors(self.experts, self.changed, centre=centre, resident=True)
        return MergedModel(self.experts, vectors, tensor_wise(self.changed))

    def learned(self, chunks: Chunks | None, steps: int, few: int | None = None) -> Found:
        """Alignment as `adamerge fit` runs it; with `few` rows all of them at every step and none held out."""
        calibration, held_out, batching = self.calibration, self.held_out, self.config.data
        if few:
            calibration = Calibration(first_rows(calibration.learn, few), {})
            held_out, batching = None, replace(batching, batch_size=None)
        learning = Learning(
            optimizer=partial(torch.optim.Adam, lr=3e-2),
            scheduler="cosine",
            batching=batching,
            watching=Watching(every=10, patience=None),
            seed=self.config.seed_everything,
            trainer={"max_steps": steps, "precision": "bf16-mixed", "enable_progress_bar": False},
        )
        began = time.perf_counter()
        staged = learn_in_stages(
            self.model, LogitAlignment(), calibration, learning, chunks, self.folder / "first", held_out=held_out,
            targets=None if few else self.folder / "targets",
        )  # fmt: skip
        found = staged.learned
        return Found(staged.model, found.coefficients, time.perf_counter() - began, found.history)

    def chunked(self, allocation: str, budget: float, second: int = SECOND) -> Found:
        """The tensor-wise stage, which is shared, and a chunked one."""
        first = self.steps or FIRST
        chunks = Chunks(budget, allocation, first_steps=first)  # pyright: ignore[reportArgumentType]
        return self.learned(chunks, first + (self.steps or second))

    def tensor_wise(self) -> Found:
        """The first stage alone: what the chunked runs go on from."""
        first = self.steps or FIRST
        return self.learned(Chunks(1, "uniform", first_steps=first), first)

    def fixed(self, scale: float) -> Found:
        """The same coefficient everywhere."""
        return Found(self.model, uniform(self.model, scale), 0.0, [])

    def solved(self) -> Found:
        """The closed-form start alone."""
        began = time.perf_counter()
        coefficients = closed_form(self.model, self.calibration.learn, ClosedForm())
        return Found(self.model, coefficients, time.perf_counter() - began, [])

    def regression(self) -> Found:
        """RegMean alone."""
        began = time.perf_counter()
        with TemporaryDirectory() as folder:
            centre = kept_regmean(self.model, self.calibration.learn, RegMean(), Path(folder) / "centre.safetensors")
            took = time.perf_counter() - began
            model = self.over(centre)
            return Found(model, uniform(model, 0.0), took, [])


RUNS: dict[str, Callable[[Seed], Found]] = {
    "average": lambda s: s.fixed(1 / 8),
    "task arithmetic 0.3": lambda s: s.fixed(0.3),
    "closed-form start": Seed.solved,
    "RegMean": Seed.regression,
    "tensor-wise": Seed.tensor_wise,
    "tensor-wise, 8 rows a task": lambda s: s.learned(None, 60, few=8),
    "++ 8 ×, importance": lambda s: s.chunked("importance", 8),
    "++ 16 ×, importance": lambda s: s.chunked("importance", 16),
    "++ 16 ×, uniform": lambda s: s.chunked("uniform", 16),
    "++ 16 ×, random": lambda s: s.chunked("random", 16),
    "++ 16 ×, 150 more steps": lambda s: s.chunked("importance", 16, LONG),
    "++ 8 ×, uniform": lambda s: s.chunked("uniform", 8),
    "++ 8 ×, random": lambda s: s.chunked("random", 8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--steps", type=int, help="of every stage, for a quick look")
    parser.add_argument("--evaluation", type=int, help="evaluation rows a task, for a quick look")
    parser.add_argument("--out", type=Path, default=Path("runs/alignment"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "alignment.json"
    rows = json.loads(file.read_text()) if file.exists() else {}
    for number in options.seeds:
        missing = [word for word in options.only if f"{word}, seed {number}" not in rows]
        seed = Seed(number, options.out / str(number), options.steps) if missing else None
        for word in missing:
            assert seed is not None
            found = RUNS[word](seed)
            labeled = first_rows(seed.evaluation, options.evaluation or 10**9)
            scores = Evaluation(found.model, labeled).merged(found.coefficients)
            rows[f"{word}, seed {number}"] = {
                "run": word,
                "seed": number,
                "groups": len(found.coefficients),
                "seconds": found.seconds,
                "scores": scores,
                "history": found.history,
            }
            file.write_text(json.dumps(rows, indent=1))
            print(f"seed {number}  {word:28s} {scores['mean']:.2f}  {found.seconds:.0f} s", flush=True)
    show(rows)


def show(rows: dict[str, dict]) -> None:
    """The table over seeds, and the held-out curve of the default recipe."""
    table = Table("run", "groups", "seeds", "accuracy, %", "each", "seconds")
    for word in RUNS:
        own = [row for row in rows.values() if row["run"] == word]
        if own:
            each = [row["scores"]["mean"] for row in own]
            took = f"{sum(row['seconds'] for row in own) / len(own):.0f}"
            mean, listed = f"{sum(each) / len(each):.2f}", " ".join(f"{value:.2f}" for value in each)
            table.add_row(word, str(own[0]["groups"]), str(len(own)), mean, listed, took)
    Console(width=120).print(table)
    curve = next((row["history"] for row in rows.values() if row["run"] == "++ 16 ×, importance"), [])
    for seen in curve:
        print(f"step {seen['step']:.0f}  agreement {seen['agreement']:.4f}  objective {seen['objective']:.4f}")


if __name__ == "__main__":
    main()
