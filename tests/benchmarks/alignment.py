"""Expert Merging and its chunks on the zoo: accuracy on the full test files, by centre, allocation, budget and seed.

    python ../shared/zoo/unpack.py zoo
    python tests/benchmarks/alignment.py                       # three seeds, about an hour on two quiet cores
    python tests/benchmarks/alignment.py --seeds 0 --only "tensor-wise" --steps 10 --evaluation 50

Calibration rows are of the train files, without their labels; the test files are read for the table alone. Settings
were chosen on train-file rows (tests/benchmarks/sweep.py). All runs are those of `adamerge fit`; chunked ones of a seed
and a centre go on from one tensor-wise stage. Rows that are in the JSON file already are not run again.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from adamerge.calibration.agreement import hold_out
from adamerge.calibration.closed_form import ClosedForm, closed_form
from adamerge.cli import parse_file
from adamerge.data.rows import Subset, first_rows
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.learning.learn import Calibration, divide
from adamerge.learning.stages import learn_in_stages
from adamerge.merging.merged_model import MergedModel, uniform
from adamerge.results.evaluate import Evaluation
from adamerge.runs.build_model import build_model, open_experts
from adamerge.runs.config import MergeConfig
from adamerge.runs.fit import learning_of
from adamerge.runs.load_rows import load_data
from adamerge.types import Coefficients

CONFIGS = {
    "tensor-wise": Path("configs/zoo_expert_merging.yaml"),
    "default": Path("configs/zoo_former_default.yaml"),
}


@dataclass
class Found:
    """A merge to be measured, and what it took."""

    model: MergedModel
    coefficients: Coefficients
    seconds: float
    history: list[dict[str, float]]


class Seed:
    """One seed's rows and models; everything that its runs share.

    Args:
        seed: Of all that is drawn.
        folder: Where it keeps what its runs share.
        steps: Of every stage, for a quick look; None leaves them as they are.
        spare: Calibration rows per task that no run learns from.
    """

    def __init__(self, seed: int, folder: Path, steps: int | None, spare: int = 0) -> None:
        self.folder, self.steps, self.seed = folder, steps, seed
        config = self.config("tensor-wise")
        self.experts = open_experts(config)
        self.changed = inspect_weights(self.experts).changed
        rows = config.data.rows or 0
        data = load_data(replace(config, data=replace(config.data, rows=rows + spare)), self.experts)
        self.evaluation = data.evaluation
        self.spare = {task: Subset(own, range(rows, len(own))) for task, own in data.calibration.items()}
        self.calibration = divide(first_rows(data.calibration, rows), config.data, seed)
        self.model = self.over(config, folder)
        self.held_out = hold_out(self.model, self.calibration.watch, config.data.micro_batch)

    def config(self, name: str, **changes: object) -> MergeConfig:
        """One of the recipes, for this seed."""
        config = replace(parse_file(CONFIGS[name]), seed_everything=self.seed, memory="resident", **changes)
        return replace(config, trainer=replace(config.trainer, precision="bf16-mixed", enable_progress_bar=False))

    def over(self, config: MergeConfig, folder: Path) -> MergedModel:
        """The experts' task vectors over the configuration's centre, which is kept in a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        return build_model(config, self.experts, self.changed, folder / "task_vectors", self.calibration.learn)

    def learned(self, config: MergeConfig, few: int | None = None, shared: Path | None = None) -> Found:
        """What `adamerge fit` learns.

        Args:
            config: The recipe.
            few: Learn from so many rows per task, and hold out none.
            shared: Where centre and first stage are, or will be; those of another recipe must not be there.
        """
        calibration, held_out, targets = self.calibration, self.held_out, self.folder / "targets"
        if few:
            size = min(few, config.data.batch_size or few)
            config = replace(config, data=replace(config.data, batch_size=size))
            calibration, held_out, targets = Calibration(first_rows(calibration.learn, few), {}), None, None
        if self.steps:
            config = self.shortened(config, self.steps)
        began = time.perf_counter()
        with TemporaryDirectory() as other:
            place = shared or Path(other)
            model = self.over(config, place)
            staged = learn_in_stages(
                model, config.objective, calibration, learning_of(config, progress_bar=False), config.chunks,
                place / "first", made_of={"settings": str(place)}, held_out=held_out, targets=targets,
            )  # fmt: skip
        found = staged.learned
        return Found(staged.model, found.coefficients, time.perf_counter() - began, found.history)

    def shortened(self, config: MergeConfig, steps: int) -> MergeConfig:
        """For a quick look: so many steps a stage."""
        chunks = config.chunks and replace(config.chunks, first_steps=steps)
        return replace(config, chunks=chunks, trainer=replace(config.trainer, max_steps=2 * steps if chunks else steps))

    def chunked(self, allocation: str, budget: float, **changes: object) -> Found:
        """expert_merging++ with another allocation or budget; its tensor-wise stage is shared."""
        config = self.config("default", **changes)
        assert config.chunks is not None
        chunks = replace(config.chunks, budget=budget, allocation=allocation)
        return self.learned(replace(config, chunks=chunks), shared=self.folder / type(config.centre).__name__)

    def fixed(self, scale: float) -> Found:
        """The same coefficient everywhere."""
        return Found(self.model, uniform(self.model, scale), 0.0, [])

    def solved(self) -> Found:
        """The closed-form start alone."""
        began = time.perf_counter()
        coefficients = closed_form(self.model, self.calibration.learn, ClosedForm(), 32)
        return Found(self.model, coefficients, time.perf_counter() - began, [])

    def finished(self, **changes: object) -> Found:
        """A centre alone."""
        began = time.perf_counter()
        with TemporaryDirectory() as folder:
            model = self.over(self.config("default", **changes), Path(folder))
            return Found(model, uniform(model, 0.0), time.perf_counter() - began, [])


RUNS: dict[str, Callable[[Seed], Found]] = {
    "average": lambda s: s.fixed(1 / 8),
    "task arithmetic 0.3": lambda s: s.fixed(0.3),
    "closed-form start": Seed.solved,
    "RegMean": lambda s: s.finished(centre="regmean"),
    "its centre alone, data-free": Seed.finished,
    "tensor-wise": lambda s: s.learned(s.config("tensor-wise")),
    "tensor-wise over its centre": lambda s: s.learned(s.config("default", chunks=None)),
    "++ 8 ×, importance (expert_merging++)": lambda s: s.chunked("importance", 8),
    "++ 8 ×, uniform": lambda s: s.chunked("uniform", 8),
    "++ 8 ×, random": lambda s: s.chunked("random", 8),
    "++ 16 ×, importance": lambda s: s.chunked("importance", 16),
    "++ 16 ×, uniform": lambda s: s.chunked("uniform", 16),
    "++ 16 ×, random": lambda s: s.chunked("random", 16),
    "++ 8 ×, importance, over the base": lambda s: s.chunked("importance", 8, centre=None),
    "8 rows per task, tensor-wise": lambda s: s.learned(s.config("tensor-wise"), few=8),
    "8 rows per task, expert_merging++": lambda s: s.learned(s.config("default"), few=8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--steps", type=int, help="of every stage, for a quick look")
    parser.add_argument("--evaluation", type=int, help="evaluation rows per task, for a quick look")
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
            print(f"seed {number}  {word:38s} {scores['mean']:.2f}  {found.seconds:.0f} s", flush=True)
    show(rows)


def show(rows: dict[str, dict]) -> None:
    """The table over seeds, and the held-out curve of expert_merging++."""
    table = Table("run", "groups", "seeds", "accuracy, %", "each", "seconds")
    for word in RUNS:
        own = [row for row in rows.values() if row["run"] == word]
        if own:
            each = [row["scores"]["mean"] for row in own]
            took = f"{sum(row['seconds'] for row in own) / len(own):.0f}"
            mean, listed = f"{sum(each) / len(each):.2f}", " ".join(f"{value:.2f}" for value in each)
            table.add_row(word, str(own[0]["groups"]), str(len(own)), mean, listed, took)
    Console(width=120).print(table)
    curve = next((row["history"] for row in rows.values() if row["run"].endswith("(expert_merging++)")), [])
    for seen in curve:
        print(f"step {seen['step']:.0f}  agreement {seen['agreement']:.4f}  objective {seen['objective']:.4f}")


if __name__ == "__main__":
    main()
