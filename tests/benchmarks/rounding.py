"""What does rounding to 16 bits leave of a merge: to nearest, at random, and in fp32 for comparison?

    python ../shared/zoo/unpack.py zoo
    python tests/benchmarks/rounding.py               # about half an hour on two cores
    python tests/benchmarks/rounding.py --tasks trec news --steps 30 --rows 256        # a few minutes

First, the zoo's experts, cast to bf16 as published 16-bit experts are. Second, experts that are trained here, from the
zoo's base cast to bf16, in fp32 at learning rates 1e-6, 1e-5 and 1e-4: a linear head on frozen features, then the
whole encoder with that head frozen, so that what is gained is what is merged. Every pool is merged by task arithmetic,
exported in fp32 and in bf16 with either rounding, and read back by transformers.

Printed are the size of the task vectors, ‖τ‖/‖w‖; the share of what was merged in that rounding left; accuracy; and the
loss (cross-entropy on test rows) gained over the base with the same heads, in % of what the fp32 export gains.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, BertForSequenceClassification, BertModel, PreTrainedTokenizerBase
from transformers.utils import logging

from adamerge import Merge
from adamerge.experts.progress_bars import without_bars

TASKS = ("trec", "subj", "movie", "customer", "news", "stackoverflow", "banking", "assistant")
RATES = (1e-6, 1e-5, 1e-4)
EXPORTS = (("fp32", torch.float32, "nearest"), ("nearest", torch.bfloat16, "nearest"),
           ("stochastic", torch.bfloat16, "stochastic"))  # fmt: skip


class Rows(NamedTuple):
    """Encoded rows of one task."""

    inputs: Mapping[str, Tensor]
    labels: Tensor

    def batches(self, size: int) -> Sequence["Rows"]:
        """The rows in order, `size` at a time."""
        places = [slice(start, start + size) for start in range(0, len(self.labels), size)]
        return [Rows({k: v[at] for k, v in self.inputs.items()}, self.labels[at]) for at in places]


def load(file: Path, tokenizer: PreTrainedTokenizerBase, rows: int | None) -> Rows:
    """Rows of a file, shuffled."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    order = torch.randperm(len(lines), generator=torch.Generator().manual_seed(0)).tolist()[:rows]
    texts, labels = [lines[i]["text"] for i in order], [lines[i]["label"] for i in order]
    encoded = tokenizer(texts, truncation=True, max_length=64, padding=True, return_tensors="pt")
    return Rows(cast(Mapping[str, Tensor], dict(encoded)), torch.tensor(labels))


def losses(model: nn.Module, rows: Rows) -> tuple[float, float]:
    """Mean cross-entropy, and accuracy in %."""
    with torch.no_grad():
        logits = torch.cat([model.eval()(**batch.inputs).logits.float() for batch in rows.batches(64)])
    loss = nn.functional.cross_entropy(logits, rows.labels).item()
    return loss, 100 * (logits.argmax(-1) == rows.labels).float().mean().item()


def train(model: nn.Module, parameters: Sequence[nn.Parameter], rows: Rows, rate: float, steps: int) -> None:
    """Fine-tune some parameters with AdamW; every step takes other rows."""
    model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    batches = rows.batches(32)
    for step in range(steps):
        batch = batches[step % len(batches)]
        loss = nn.functional.cross_entropy(model.train()(**batch.inputs).logits, batch.labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def trained(base: Path, rows: Mapping[str, Rows], rate: float, steps: int, folder: Path) -> None:
    """Train one expert per task, and save it and the same model with the base's encoder."""
    for task, own in rows.items():
        torch.manual_seed(0)
        labels = int(own.labels.max()) + 1
        model = BertForSequenceClassification.from_pretrained(base, num_labels=labels, dtype=torch.float32)
        train(model, list(model.classifier.parameters()), own, 1e-2, 2 * steps)
        model.save_pretrained(folder / f"{task}_before")
        train(model, list(model.bert.parameters()), own, rate, steps)
        model.save_pretrained(folder / task)


def cast_to_16(zoo: Path, tasks: Sequence[str], folder: Path) -> None:
    """Save the zoo's base and experts in bf16, and each expert with the base's encoder."""
    for name in ("base", *tasks):
        shutil.copytree(zoo / name, folder / name)
        if name != "base":
            model = BertForSequenceClassification.from_pretrained(zoo / name, dtype=torch.bfloat16)
            model.save_pretrained(folder / name)
            before = BertForSequenceClassification.from_pretrained(folder / "base", num_labels=model.num_labels)
            before.classifier.load_state_dict(model.classifier.state_dict())
            before.save_pretrained(folder / f"{name}_before")
        else:
            in_16_bits(zoo / name, folder / name, torch.bfloat16)


def in_16_bits(base: Path, folder: Path, dtype: torch.dtype) -> None:
    """Save the base with values that bf16 holds exactly, in bf16 or fp32."""
    folder.mkdir(parents=True, exist_ok=True)
    BertModel.from_pretrained(base, dtype=torch.bfloat16).to(dtype).save_pretrained(folder)
    for file in [*base.glob("tokenizer*"), *base.glob("vocab*"), *base.glob("special*")]:
        shutil.copy(file, folder)


def sizes(folder: Path, tasks: Sequence[str]) -> float:
    """‖expert − base‖ / ‖base‖ of the encoders, mean over the tasks."""
    base = BertModel.from_pretrained(folder / "base", dtype=torch.float32).state_dict()
    found: list[float] = []
    for task in tasks:
        own = BertModel.from_pretrained(folder / task, dtype=torch.float32).state_dict()
        moved = sum(((own[n].double() - w.double()) ** 2).sum() for n, w in base.items() if w.is_floating_point())
        whole = sum((w.double() ** 2).sum() for w in base.values() if w.is_floating_point())
        found.append(float(cast(Tensor, moved) / cast(Tensor, whole)) ** 0.5)
    return sum(found) / len(found)


def measure(label: str, folder: Path, tasks: Sequence[str], rows: Mapping[str, Rows], scale: float) -> None:
    """Merge, export in every way, read back, and print one line per export."""
    result = Merge(str(folder / "base"), [str(folder / task) for task in tasks], method="task_arithmetic", init=scale)
    learned, before = result.learn(), mean([losses(_read(folder / f"{task}_before"), rows[task]) for task in tasks])
    size, gains = sizes(folder, tasks), dict[str, float]()
    for way, dtype, rounding in EXPORTS:
        exported = learned.export(folder / way, dtype=dtype, rounding=rounding)
        loss, accuracy = mean([losses(_read(exported.checkpoints[task]), rows[task]) for task in tasks])
        gains[way] = before[0] - loss
        share = exported.surviving.share
        kept = f"{100 * gains[way] / gains['fp32']:.1f}"
        cells = [label, f"{size:.1e}", way, "" if share is None else f"{share:.3f}", f"{accuracy:.2f}"]
        print(f"| {' | '.join([*cells, f'{gains[way]:+.5f}', kept])} |", flush=True)
        shutil.rmtree(folder / way)


def mean(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Means of loss and accuracy."""
    return sum(loss for loss, _ in pairs) / len(pairs), sum(accuracy for _, accuracy in pairs) / len(pairs)


def _read(place: Path) -> nn.Module:
    return BertForSequenceClassification.from_pretrained(place, dtype=torch.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=Path("zoo"))
    parser.add_argument("--data", type=Path, default=Path("../shared/zoo/data"))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--steps", type=int, default=100, help="of training the encoder; twice as many for heads")
    parser.add_argument("--rows", type=int, help="test rows per task; all by default")
    parser.add_argument("--scale", type=float, default=0.3, help="of task arithmetic")
    parser.add_argument("--rates", nargs="*", type=float, default=list(RATES))
    options = parser.parse_args()
    logging.set_verbosity_error()
    tokenizer = cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(options.zoo / "base"))
    test = {task: load(options.data / task / "test.jsonl", tokenizer, options.rows) for task in options.tasks}
    learn = {task: load(options.data / task / "train.jsonl", tokenizer, 32 * options.steps) for task in options.tasks}
    print("| experts | ‖τ‖/‖w‖ | export | surviving share | accuracy, % | loss gained | % of fp32's |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as place, without_bars():
        cast_to_16(options.zoo, options.tasks, Path(place) / "zoo")
        measure("zoo, bf16", Path(place) / "zoo", options.tasks, test, options.scale)
        for rate in options.rates:
            folder = Path(place) / f"{rate:g}"
            in_16_bits(options.zoo / "base", folder / "base", torch.float32)
            trained(folder / "base", learn, rate, options.steps, folder)
            measure(f"rate {rate:g}", folder, options.tasks, test, options.scale)
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
