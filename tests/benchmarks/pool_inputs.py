"""The pools of tests/benchmarks/pools.py: what each merges, made where it does not exist yet.

text-8      the eight classifiers of ../shared/zoo, calibrated on rows that no expert was trained on
vision-4    the four digits experts of `adamerge demo`
vision-6    a vision transformer of 5 M parameters and six experts, each on digits that are altered in another way
noise       text-8 with two experts of it trained for a few steps only, and an expert that is of no task
good        the experts of noise that are neither, to compare with
language-5  SmolLM2-135M and five LoRA adapters; prompts alone are the calibration, and exact match is measured
"""

import copy
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import torch
from pool import make_irrelevant
from rich.console import Console
from transformers import AutoModelForSequenceClassification, AutoTokenizer, ViTConfig, ViTForImageClassification

from adamerge import demo
from adamerge.storage.atomic_files import whole_folder

TEXT = ("trec", "subj", "movie", "customer", "news", "stackoverflow", "banking", "assistant")
BAD = ("movie", "stackoverflow")
"""The tasks of `noise` whose experts were trained for a few steps only."""

LANGUAGE = ("topics", "intents", "sums", "family", "sentiment")

Pool = Mapping[str, object]
"""base_model, models and data of a configuration."""


def text_8(folder: Path, shared: Path) -> Pool:
    """The zoo's eight classifiers."""
    zoo = folder / "zoo"
    return _text(zoo, {task: zoo / task for task in TEXT}, shared)


def good(folder: Path, shared: Path) -> Pool:
    """Those of text-8 that are good in `noise`."""
    zoo = folder / "zoo"
    return _text(zoo, {task: zoo / task for task in TEXT if task not in BAD}, shared)


def noise(folder: Path, shared: Path) -> Pool:
    """The same with two undertrained experts, and one whose rows are permuted and which has no calibration rows."""
    zoo, own = folder / "zoo", folder / "noise"
    if not own.exists():
        with whole_folder(own) as part:
            make_irrelevant(zoo, part)
            for task in BAD:
                undertrain(zoo / "base", zoo / task, shared / "data" / task / "train.jsonl", part / task)
    experts = {task: (own if task in BAD else zoo) / task for task in TEXT}
    found = _text(zoo, experts, shared)
    return {**found, "models": [*found["models"], {"model": str(own / "permuted_subj")}]}


def vision_4(folder: Path, shared: Path) -> Pool:
    """The demo's experts."""
    del shared
    place = folder / "demo"
    if not (place / "models").exists():
        demo.prepare(place, Console())
    return _vision(place, list(demo.TASKS))


def vision_6(folder: Path, shared: Path) -> Pool:
    """A larger vision transformer, six tasks."""
    del shared
    place = folder / "vision_6"
    if not place.exists():
        with whole_folder(place) as part:
            train_vision(part)
    return _vision(place, list(ALTERED))


def language_5(folder: Path, shared: Path) -> Pool:
    """The language pool."""
    data = shared / "llm/data"
    models = [
        {
            "model": str(folder / "llm" / task),
            "calibration": str(data / task / "unlabeled.jsonl"),
            "evaluation": {"path": str(data / task / "test.jsonl"), "metric": "exact_match"},
        }
        for task in LANGUAGE
    ]
    answers = {"positions": "completion", "pseudo_answers": {"max_new_tokens": 12}}
    return {
        "base_model": str(folder / "llm/base"),
        "models": models,
        "data": {"micro_batch": 4, "batch_size": 4, **answers},
    }


POOLS: Mapping[str, Callable[[Path, Path], Pool]] = {
    "text-8": text_8,
    "vision-4": vision_4,
    "vision-6": vision_6,
    "good": good,
    "noise": noise,
    "language-5": language_5,
}


def _text(zoo: Path, experts: Mapping[str, Path], shared: Path) -> dict[str, object]:
    rows = {task: shared / "data" / task for task in experts}
    models = [
        {
            "model": str(place),
            "calibration": str(rows[task] / "unlabeled.jsonl"),
            "evaluation": str(rows[task] / "test.jsonl"),
        }
        for task, place in experts.items()
    ]
    return {"base_model": str(zoo / "base"), "models": models, "data": {"micro_batch": 8}}


def _vision(place: Path, tasks: list[str]) -> Pool:
    models = [
        {
            "model": str(place / "models" / task),
            "calibration": str(place / "data" / task / "calibration"),
            "evaluation": str(place / "data" / task / "evaluation"),
        }
        for task in tasks
    ]
    return {"base_model": str(place / "models/base"), "models": models, "data": {"micro_batch": 64}}


def undertrain(base: Path, expert: Path, rows: Path, out: Path, steps: int = 25) -> None:
    """Train a classifier from the base for so few steps that it is some 15 points below the expert."""
    torch.manual_seed(0)
    labels = json.loads((rows.parent / "labels.json").read_text(encoding="utf-8"))
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(labels))
    tokenizer = AutoTokenizer.from_pretrained(expert)
    read = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    known = {name: place for place, name in enumerate(labels)}
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    for step in range(steps):
        some = read[16 * step : 16 * step + 16]
        batch = tokenizer([row["text"] for row in some], return_tensors="pt", padding=True, truncation=True)
        answers = [known.get(row["label"], row["label"]) for row in some]
        model(**batch, labels=torch.tensor(answers)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = known
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _shifted(pictures: demo.Pictures) -> demo.Pictures:
    return np.roll(pictures, 4, axis=2)


def _noisy(pictures: demo.Pictures) -> demo.Pictures:
    drawn = np.random.default_rng(0).integers(0, 160, pictures.shape)
    return np.clip(pictures.astype(np.int64) + drawn, 0, 255).astype(np.uint8)


ALTERED: Mapping[str, Callable[[demo.Pictures], demo.Pictures]] = {
    "rotated": partial(np.rot90, axes=(1, 2)),
    "upside_down": partial(np.flip, axis=1),
    "inverted": lambda pictures: 255 - pictures,
    "shifted": _shifted,
    "noisy": _noisy,
    "stripes": lambda pictures: np.where(np.arange(16)[:, None] % 4 < 2, pictures, 0).astype(np.uint8),
}
"""How the digits are altered for each expert of vision-6."""


def train_vision(folder: Path) -> None:
    """Train a base on a few digits of all tasks, and an expert on many of each."""
    from adamerge.demo import TRAINING, _digits, _pixels, _save, _save_rows

    pictures, labels = _digits(TRAINING.seed)
    pixels = {task: _pixels(alter(pictures[: TRAINING.many])) for task, alter in ALTERED.items()}
    few, many = (torch.from_numpy(labels[:count]) for count in (TRAINING.few, TRAINING.many))
    torch.manual_seed(0)
    base = ViTForImageClassification(
        ViTConfig(
            image_size=16,
            patch_size=8,
            hidden_size=256,
            num_hidden_layers=6,
            num_attention_heads=8,
            intermediate_size=1024,
            id2label={digit: str(digit) for digit in range(10)},
            label2id={str(digit): digit for digit in range(10)},
        )
    )
    datasets.disable_progress_bars()
    seen = torch.cat([images[: TRAINING.few] for images in pixels.values()])
    adam = torch.optim.AdamW(base.parameters(), weight_decay=0.0)
    demo.train(base, adam, 3e-4, 300, seen, few.repeat(len(ALTERED)), lambda: None)
    _save(base, folder / "models/base")
    for number, (task, images) in enumerate(pixels.items()):
        expert, rate = copy.deepcopy(base), 3e-3 * (1 + number % 3)
        optimizer = torch.optim.SGD(expert.parameters(), momentum=0.9)
        demo.train(expert, optimizer, rate, 150, images, many, lambda: None)
        _save(expert, folder / "models" / task)
        _save_rows(ALTERED[task](pictures), labels, folder / "data" / task)
