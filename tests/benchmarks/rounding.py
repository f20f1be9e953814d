"""What does rounding to 16 bits leave of a merge: to nearest, at random, and in fp32 for comparison?

    python ../shared/zoo/unpack.py zoo
    python tests/benchmarks/rounding.py               # four tasks: about half an hour of a shared core
    python tests/benchmarks/rounding.py --steps 100 --rows 1000

First, the zoo's experts, cast to bf16 as published 16-bit experts are. Second, experts that are trained here, from the
zoo's base cast to bf16, in fp32 at learning rates 1e-6, 1e-5 and 1e-4: a linear head on frozen features, then the
whole encoder with that head frozen, so that what is gained is what is merged. Every pool is merged by task arithmetic,
exported in fp32 and in bf16 with either rounding, and read back by transformers.

Printed are the size of the task vectors, ‖τ‖/‖w‖; the share of what was merged in that rounding left; accuracy; and the
loss (cross-entropy on test rows) gained over the base with the same heads, in % of what the fp32 export gains.

What is trained and measured is kept in the folder --work; a second start goes on where the first one was stopped.
"""

import argparse
import json
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerBase
from transformers.utils import logging

from adamerge import Merge
from adamerge.experts.progress_bars import without_bars

TASKS = ("trec", "subj", "movie", "customer", "news", "stackoverflow", "banking", "assistant")
RATES = (1e-6, 1e-5, 1e-4)
EXPORTS = (("fp32", torch.float32, "nearest"), ("nearest", torch.bfloat16, "nearest"),
           ("stochastic", torch.bfloat16, "stochastic"))  # fmt: skip

Folders: TypeAlias = Mapping[str, Path]
"""Folders of models by task."""


class Batch(NamedTuple):
    """Encoded rows, padded to the longest of them."""

    inputs: Mapping[str, Tensor]
    labels: Tensor


def load(file: Path, tokenizer: PreTrainedTokenizerBase, rows: int | None, size: int = 32) -> list[Batch]:
    """Batches of a file's rows, shuffled."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    random.Random(0).shuffle(lines)
    lines = lines[:rows]
    return [_encoded(lines[start : start + size], tokenizer) for start in range(0, len(lines), size)]


def _encoded(lines: Sequence[Mapping[str, str | int]], tokenizer: PreTrainedTokenizerBase) -> Batch:
    texts, labels = [cast(str, line["text"]) for line in lines], torch.tensor([line["label"] for line in lines])
    encoded = tokenizer(texts, truncation=True, max_length=64, padding=True, return_tensors="pt")
    return Batch(cast(Mapping[str, Tensor], dict(encoded)), labels)


def losses(place: Path, rows: Sequence[Batch]) -> tuple[float, float]:
    """Mean cross-entropy of the model in a folder, and its accuracy in %."""
    model, labels = _read(place), torch.cat([batch.labels for batch in rows])
    with torch.no_grad():
        logits = torch.cat([model(**batch.inputs).logits.float() for batch in rows])
    return nn.functional.cross_entropy(logits, labels).item(), 100 * (logits.argmax(-1) == labels).float().mean().item()


def _read(place: Path) -> BertForSequenceClassification:
    return BertForSequenceClassification.from_pretrained(place, dtype=torch.float32).eval()


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Make a folder, unless an earlier start did; it has its name only once it is complete."""
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        make(part)
        part.rename(folder)
    return folder


def in_16_bits(base: Path, folder: Path, dtype: torch.dtype) -> None:
    """Save the base with values that bf16 holds exactly, in bf16 or fp32."""
    BertModel.from_pretrained(base, dtype=torch.bfloat16).to(dtype).save_pretrained(folder)
    for file in [*base.glob("tokenizer*"), *base.glob("vocab*"), *base.glob("special*")]:
        shutil.copy(file, folder)


def cast_to_16(expert: Path, folder: Path) -> None:
    """Save an expert of the zoo in bf16."""
    BertForSequenceClassification.from_pretrained(expert, dtype=torch.bfloat16).save_pretrained(folder)


def with_the_bases_encoder(base: Path, expert: Path, folder: Path) -> None:
    """Save the base's encoder with the head of an expert."""
    head = _read(expert)
    model = BertForSequenceClassification.from_pretrained(base, num_labels=head.num_labels, dtype=torch.float32)
    model.classifier.load_state_dict(head.classifier.state_dict())
    model.save_pretrained(folder)


def train_head(base: Path, rows: Sequence[Batch], count: int, folder: Path) -> None:
    """Train a linear head of `count` labels on the base's features: 500 steps of Adam on all rows."""
    torch.manual_seed(0)
    labels = torch.cat([batch.labels for batch in rows])
    model = BertForSequenceClassification.from_pretrained(base, num_labels=count, dtype=torch.float32).eval()
    with torch.no_grad():
        features = torch.cat([model.bert(**batch.inputs).pooler_output for batch in rows])
    optimizer = torch.optim.Adam(model.classifier.parameters(), lr=1e-2)
    for _ in range(500):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model.classifier(features), labels).backward()
        optimizer.step()
    model.save_pretrained(folder)


def train_encoder(before: Path, rows: Sequence[Batch], rate: float, folder: Path) -> None:
    """Fine-tune the encoder below a frozen head with AdamW, one step per batch."""
    torch.manual_seed(0)
    model = _read(before).train()
    model.classifier.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.bert.parameters(), lr=rate, weight_decay=0.0)
    for batch in rows:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(**batch.inputs).logits, batch.labels).backward()
        optimizer.step()
    model.save_pretrained(folder)


def size_of(base: Path, experts: Folders) -> float:
    """‖expert − base‖ / ‖base‖ of the encoders, mean over the tasks."""
    start = BertModel.from_pretrained(base, dtype=torch.float32).state_dict()
    names = [name for name, tensor in start.items() if tensor.is_floating_point()]
    whole = sum(start[name].double().square().sum().item() for name in names)
    found: list[float] = []
    for place in experts.values():
        own = BertModel.from_pretrained(place, dtype=torch.float32).state_dict()
        moved = sum((own[name].double() - start[name].double()).square().sum().item() for name in names)
        found.append((moved / whole) ** 0.5)
    return sum(found) / len(found)


def measure(
    label: str, base: Path, experts: Folders, before: Folders, rows: Mapping[str, Sequence[Batch]], scale: float
) -> list[str]:
    """Merge, export in every way and read back; returns one line of the table per export."""
    pool = [str(place) for place in experts.values()]
    learned = Merge(str(base), pool, method="task_arithmetic", init=scale).learn()
    start = mean([losses(place, rows[task]) for task, place in before.items()])
    size, gains, lines = size_of(base, experts), dict[str, float](), list[str]()
    for way, dtype, rounding in EXPORTS:
        folder = base.with_name("exported")
        shutil.rmtree(folder, ignore_errors=True)
        exported = learned.export(folder, dtype=dtype, rounding=rounding)
        loss, accuracy = mean([losses(exported.checkpoints[task], rows[task]) for task in experts])
        gains[way] = start[0] - loss
        share = exported.surviving.share
        kept = f"{100 * gains[way] / gains['fp32']:.1f}"
        cells = [label, f"{size:.1e}", way, "" if share is None else f"{share:.3f}", f"{accuracy:.2f}"]
        lines.append(f"| {' | '.join([*cells, f'{gains[way]:+.5f}', kept])} |")
        shutil.rmtree(folder)
    return lines


def mean(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Means of loss and accuracy."""
    return sum(loss for loss, _ in pairs) / len(pairs), sum(accuracy for _, accuracy in pairs) / len(pairs)


class Bench:
    """The pools, made and measured once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.work = options, cast(Path, options.work)
        tokenizer = cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(options.zoo / "base"))
        places = {task: options.data / task for task in options.tasks}
        self.test = {task: load(place / "test.jsonl", tokenizer, options.rows) for task, place in places.items()}
        rows = 32 * options.steps
        self.learn = {task: load(place / "train.jsonl", tokenizer, rows) for task, place in places.items()}

    def cast_pool(self) -> None:
        """The zoo's experts, cast to bf16."""
        zoo, work = cast(Path, self.options.zoo), self.work
        base = once(work / "base_bf16", lambda part: in_16_bits(zoo / "base", part, torch.bfloat16))
        experts = {
            task: once(work / "zoo" / task, lambda part, t=task: cast_to_16(zoo / t, part)) for task in self.test
        }
        before = {
            task: once(work / "zoo_before" / task, lambda part, e=expert: with_the_bases_encoder(base, e, part))
            for task, expert in experts.items()
        }
        self._measured("zoo, bf16", base, experts, before)

    def trained_pool(self, rate: float) -> None:
        """Experts trained at one learning rate."""
        work, learn, zoo = self.work, self.learn, cast(Path, self.options.zoo)
        base = once(work / "base_fp32", lambda part: in_16_bits(zoo / "base", part, torch.float32))
        labels = {task: BertConfig.from_pretrained(zoo / task).num_labels for task in learn}
        before = {
            task: once(work / "heads" / task, lambda part, t=task: train_head(base, learn[t], labels[t], part))
            for task in learn
        }
        experts = {
            task: once(
                work / f"rate_{rate:g}" / task, lambda part, t=task: train_encoder(before[t], learn[t], rate, part)
            )
            for task in learn
        }
        self._measured(f"rate {rate:g}", base, experts, before)

    def _measured(self, label: str, base: Path, experts: Folders, before: Folders) -> None:
        """Print the lines of a pool, measured now or by an earlier start."""

        def write(part: Path) -> None:
            lines = measure(label, base, experts, before, self.test, self.options.scale)
            (part / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")

        print(
            (once(self.work / f"measured {label}", write) / "table.md").read_text(encoding="utf-8"), end="", flush=True
        )


def same_settings(options: argparse.Namespace) -> None:
    """Refuse a folder of work that was made with other settings."""
    file, now = options.work / "settings.json", {key: str(value) for key, value in sorted(vars(options).items())}
    del now["work"], now["rates"]
    options.work.mkdir(parents=True, exist_ok=True)
    if file.exists() and json.loads(file.read_text()) != now:
        raise SystemExit(f"{file}: made with other settings; choose another --work")
    file.write_text(json.dumps(now))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=Path("zoo"))
    parser.add_argument("--data", type=Path, default=Path("../shared/zoo/data"))
    parser.add_argument(
        "--work", type=Path, default=Path("runs/rounding"), help="folder of what is trained and measured"
    )
    parser.add_argument("--tasks", nargs="+", default=["trec", "subj", "stackoverflow", "banking"], choices=TASKS)
    parser.add_argument("--steps", type=int, default=40, help="of training the encoder, with 32 rows each")
    parser.add_argument("--rows", type=int, default=500, help="test rows per task")
    parser.add_argument("--scale", type=float, default=0.3, help="of task arithmetic")
    parser.add_argument("--rates", nargs="*", type=float, default=list(RATES))
    options = parser.parse_args()
    logging.set_verbosity_error()
    same_settings(options)
    bench = Bench(options)
    print("| experts | ‖τ‖/‖w‖ | export | surviving share | accuracy, % | loss gained | % of fp32's |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with without_bars():
        bench.cast_pool()
        for rate in options.rates:
            bench.trained_pool(rate)


if __name__ == "__main__":
    main()
