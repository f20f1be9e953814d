"""Does alignment beat task arithmetic at its best scale on language models? Perplexity on three domains.

    python tests/benchmarks/language.py               # about a minute to train the family, once, and two to merge it

The family of tests/benchmarks/language_family.py: a tiny Llama and experts for code, docs and names. Merged by logit
alignment on unlabeled calibration rows that neither base nor experts were trained on; what is learned on and what is
watched decides, the test rows are read once at the end. Task arithmetic is measured at every scale from 0.1 to 1.0,
and the best scale is picked on the test rows themselves, of each domain alone too, so that it is as good as it can be.
"""

import argparse
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from language_family import DOMAINS, Training, make_family

from adamerge.data.settings import Batching
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.learning.learn import divide, learn
from adamerge.learning.learned import Learned
from adamerge.learning.settings import Learning
from adamerge.merging.grouping import row_blocks
from adamerge.merging.merged_model import MergedModel, uniform
from adamerge.objectives import LogitAlignment
from adamerge.results.evaluate import SCALES, Evaluation, Scores
from adamerge.runs.build_model import build_model, open_experts
from adamerge.runs.load_rows import Data, load_data
from adamerge.runs.model_config import ModelConfig
from adamerge.runs.read_config import merge_config


@dataclass(frozen=True)
class Recipe:
    """How the family is merged.

    Attributes:
        rows: Calibration rows a domain.
        steps: Of the optimiser.
        rate: Its learning rate at the start, which then follows a cosine to 0.
        blocks: Row blocks a matrix; 1 is tensor-wise.
        batch: Rows a domain and step.
    """

    rows: int = 256
    steps: int = 60
    rate: float = 6e-2
    blocks: int = 32
    batch: int = 16


def open_family(folder: Path, recipe: Recipe) -> tuple[MergedModel, Data]:
    """The family's model with row blocks, and its rows."""
    data = {part: {d: str(folder / "data" / f"{d}_{part}.jsonl") for d in DOMAINS} for part in ("calibration", "test")}
    models = [
        ModelConfig(str(folder / "models" / d), calibration=data["calibration"][d], evaluation=data["test"][d])
        for d in DOMAINS
    ]
    batching = Batching(rows=recipe.rows, batch_size=recipe.batch, max_length=96)
    config = merge_config(
        {"base_model": str(folder / "models/base"), "models": models, "data": batching, "centre": None}
    )
    experts = open_experts(config)
    plain = build_model(config, experts, inspect_weights(experts).changed, folder / "none")
    grouping = row_blocks(plain.vectors.shapes, recipe.blocks)
    return MergedModel(experts, plain.vectors, grouping), load_data(config, experts)


def align(model: MergedModel, data: Data, recipe: Recipe, seed: int = 0) -> Learned:
    """Coefficients by logit alignment."""
    batching = Batching(rows=recipe.rows, batch_size=recipe.batch)
    how = Learning(
        partial(torch.optim.Adam, lr=recipe.rate),
        partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=recipe.steps),
        batching=batching,
        seed=seed,
        trainer={"max_steps": recipe.steps, "accelerator": "cpu", "enable_progress_bar": False},
    )
    return learn(model, LogitAlignment(), divide(data.calibration, batching, seed), how, tell=print)


def arithmetic(model: MergedModel, data: Data) -> dict[float, Scores]:
    """Perplexities of task arithmetic at every scale."""
    return {scale: Evaluation(model, data.evaluation).merged(uniform(model, scale)) for scale in SCALES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache/adamerge/language_family")
    parser.add_argument("--seed", type=int, default=0)
    for name, default in vars(Recipe()).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    options = vars(parser.parse_args())
    folder, seed = options.pop("folder"), options.pop("seed")
    recipe = Recipe(**options)
    begin = time.perf_counter()
    make_family(folder, Training())
    trained = time.perf_counter()
    model, data = open_family(folder, recipe)
    learned = align(model, data, recipe, seed)
    print(
        f"family {trained - begin:.0f} s, learned {learned.coefficients.numel()} coefficients in "
        f"{time.perf_counter() - trained:.0f} s, best step {learned.best_step}\n"
    )
    scales = arithmetic(model, data)
    evaluation = Evaluation(model, data.evaluation)
    average = evaluation.merged(uniform(model, 1 / len(DOMAINS)))
    merged = evaluation.merged(learned.coefficients)
    lines = {"base": evaluation.base(), "expert on its own domain": evaluation.experts(), "average": average}
    lines |= {f"task arithmetic, {scale}": scores for scale, scores in scales.items()}
    best = {key: min(scales, key=lambda scale: scales[scale][key] or 0.0) for key in (*DOMAINS, "mean")}
    print(f"{'perplexity on test rows':28s}" + "".join(f"{key:>10s}" for key in best))
    for name, scores in {**lines, "merged by alignment": merged}.items():
        marks = {key: "*" if name == f"task arithmetic, {scale}" else " " for key, scale in best.items()}
        print(f"{name:28s}" + "".join(f"{scores[key] or 0.0:9.2f}{marks[key]}" for key in best))
    print("* best scale of this column")
    for key, scale in best.items():
        gain = 100 * (1 - (merged[key] or 0.0) / (scales[scale][key] or 1.0))
        print(f"{key}: alignment {gain:+.1f} % below task arithmetic at {scale}")


if __name__ == "__main__":
    main()
