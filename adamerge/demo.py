"""Demo: train a small vision transformer and four experts on digits, for `adamerge fit` to merge."""

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from adamerge.experts.progress_bars import bars_on_terminals, without_bars
from adamerge.runs.learn_merge import print_lines
from adamerge.runs.run_directory import RunDirectory
from adamerge.storage.atomic_files import whole_folder, write_text
from adamerge.types import ConfigError

Pictures: TypeAlias = NDArray[np.uint8]
"""Grey images, (N, 16, 16)."""


def _occluded(pictures: Pictures) -> Pictures:
    """Cover the lower right quarter with white."""
    covered = pictures.copy()
    covered[:, 8:, 8:] = 255
    return covered


TASKS: Mapping[str, Callable[[Pictures], Pictures]] = {
    "upright": lambda pictures: pictures,
    "rotated": lambda pictures: np.rot90(pictures, axes=(1, 2)),
    "inverted": lambda pictures: 255 - pictures,
    "occluded": _occluded,
}
"""Change of the digits per task."""


@dataclass(frozen=True)
class Training:
    """Options of training the base and its experts.

    The base is trained on a few digits of all four tasks, each expert on many digits of one task. The expert on
    occluded digits has a higher learning rate: its task vector is the longest, so that adding all task vectors with one
    coefficient lowers the scores on the other tasks.

    Attributes:
        few: Digits per task that the base is trained on.
        many: Digits that each expert is trained on.
        calibration: Unlabeled digits per task for calibration; all further digits are for evaluation.
        width: Hidden channels.
        base_steps: Optimiser steps of the base.
        expert_steps: Optimiser steps of each expert.
        batch: Digits per step.
        base_rate: Highest learning rate of the base.
        rates: Highest learning rate of each expert.
        seed: Seed of all random numbers.
    """

    few: int = 80
    many: int = 900
    calibration: int = 256
    width: int = 128
    base_steps: int = 500
    expert_steps: int = 200
    batch: int = 64
    base_rate: float = 1e-3
    rates: tuple[float, ...] = (3e-3, 3e-3, 3e-3, 9e-3)
    seed: int = 0


TRAINING = Training()

CONFIG = """\
# The default method on a base and four experts that `adamerge demo` trains on scikit-learn's digits.
# To merge them once more: adamerge fit --config demo/demo.yaml --run_dir demo/another_run
base_model: demo/models/base
models:
  - model: demo/models/upright
    calibration: demo/data/upright/calibration
    evaluation: demo/data/upright/evaluation
  - model: demo/models/rotated
    calibration: demo/data/rotated/calibration
    evaluation: demo/data/rotated/evaluation
  - model: demo/models/inverted
    calibration: demo/data/inverted/calibration
    evaluation: demo/data/inverted/evaluation
  - model: demo/models/occluded
    calibration: demo/data/occluded/calibration
    evaluation: demo/data/occluded/evaluation
run_dir: demo/run
"""
"""Configuration that `fit` runs, for the folder `demo`; configs/demo.yaml has the same text."""


def demo(folder: Path, fit: Callable[[list[str]], int], console: Console) -> int:
    """Say what will happen, write everything that the merge needs, merge, and say where the report is.

    Sets torch to one thread: with several, products this small mostly wait, up to ten times as long on a busy machine.

    Args:
        folder: Folder to write to; models that an earlier call finished there are used again.
        fit: Runs `adamerge fit` with arguments; returns its exit code.
        console: Prints progress.

    Returns:
        Exit code of `adamerge fit`.

    Raises:
        ConfigError: scikit-learn is missing, or the folder already has a run.
    """
    run = RunDirectory(folder / "run")
    if run.path.exists():
        raise ConfigError(
            f"{run.path}: already exists. Delete it to run the demo again, choose another --folder, or merge the same "
            f"experts again: adamerge fit --config {folder / 'demo.yaml'} --run_dir {folder / 'another_run'}"
        )
    torch.set_num_threads(1)
    print_lines(console, _what_will_happen(run, len(_digits(TRAINING.seed)[1])))
    code = fit(["--config", str(prepare(folder, console))])
    if code == 0:
        print_lines(console, [f"report: {run.report}"])
    return code


def _what_will_happen(run: RunDirectory, digits: int) -> Iterator[str]:
    """Say what is trained, merged and measured, how long it takes, and where everything is written."""
    folder, left = run.path.parent, digits - TRAINING.many - TRAINING.calibration
    there = f"are in {folder / 'models'}" if (folder / "models").exists() else "are trained"
    yield f"1. A small vision transformer and {len(TASKS)} experts of it in digits ({', '.join(TASKS)}) {there}."
    yield f"2. They are merged by the default method, on {TRAINING.calibration} unlabeled digits of each task."
    yield f"3. Base, experts and merges are measured on {left} other digits of each task."
    yield f"It takes about a minute on two cores. All is written to {folder}, the result to {run.path}."


def prepare(folder: Path, console: Console) -> Path:
    """Write models and data, unless they exist, and demo.yaml.

    Args:
        folder: Folder to write to.
        console: Prints progress.

    Returns:
        Path of demo.yaml.

    Raises:
        ConfigError: scikit-learn is missing.
    """
    pictures, labels = _digits(TRAINING.seed)
    if not (folder / "data").exists():
        with whole_folder(folder / "data") as data:
            for task, alter in TASKS.items():
                _save_rows(alter(pictures), labels, data / task)
    if (folder / "models").exists():
        console.print(f"base and experts: already in {folder / 'models'}", markup=False, highlight=False)
    else:
        with whole_folder(folder / "models") as models, _one_thread():
            _train_all(pictures, torch.from_numpy(labels), models, console)
    config = folder / "demo.yaml"
    write_text(config, CONFIG.replace("demo/", f"{folder.as_posix()}/"))
    return config


def _digits(seed: int) -> tuple[Pictures, NDArray[np.int64]]:
    """Load 1797 digits of 8×8 pixels, shuffled and enlarged to 16×16, and their labels (N,)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ConfigError(
            'demo: expected scikit-learn, which has the digits, found it not installed: pip install "adamerge[demo]"'
        ) from error
    images, labels = (np.asarray(part) for part in load_digits(return_X_y=True))
    order = np.random.default_rng(seed).permutation(len(labels))
    grey = (images[order].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return grey.repeat(2, axis=1).repeat(2, axis=2), labels[order].astype(np.int64)


def _save_rows(pictures: Pictures, labels: NDArray[np.int64], folder: Path) -> None:
    """Write calibration rows without labels and evaluation rows with labels; no expert is trained on them."""
    start = TRAINING.many
    end = start + TRAINING.calibration
    image = {"image": datasets.Image()}
    unlabeled = datasets.Dataset.from_dict({"image": _images(pictures[start:end])}, datasets.Features(image))
    labeled = datasets.Dataset.from_dict(
        {"image": _images(pictures[end:]), "label": labels[end:].tolist()},
        datasets.Features({**image, "label": datasets.Value("int64")}),
    )
    datasets.disable_progress_bars()
    unlabeled.save_to_disk(str(folder / "calibration"))
    labeled.save_to_disk(str(folder / "evaluation"))


def _images(pictures: Pictures) -> list[Image.Image]:
    return [Image.fromarray(np.ascontiguousarray(picture)) for picture in pictures]


def _train_all(pictures: Pictures, labels: Tensor, folder: Path, console: Console) -> None:
    """Train and save the base, then every expert from it."""
    pixels = {task: _pixels(alter(pictures[: TRAINING.many])) for task, alter in TASKS.items()}
    few, many = labels[: TRAINING.few], labels[: TRAINING.many]
    console.print("training a small vision transformer on digits, then four experts from it")
    steps = TRAINING.base_steps + len(TASKS) * TRAINING.expert_steps
    with bars_on_terminals(console) as progress:
        bar = progress.add_task("training", total=steps)
        advance = partial(progress.advance, bar)
        started = time.perf_counter()
        base = _fresh()
        seen = torch.cat([images[: TRAINING.few] for images in pixels.values()])
        optimizer = torch.optim.AdamW(base.parameters(), weight_decay=0.0)
        train(base, optimizer, TRAINING.base_rate, TRAINING.base_steps, seen, few.repeat(len(TASKS)), advance)
        _save(base, folder / "base")
        console.print(f"base: {TRAINING.few} digits in four variants, {time.perf_counter() - started:.0f} s")
        for (task, images), rate in zip(pixels.items(), TRAINING.rates, strict=True):
            started = time.perf_counter()
            expert = copy.deepcopy(base)
            optimizer = torch.optim.SGD(expert.parameters(), momentum=0.9)
            train(expert, optimizer, rate, TRAINING.expert_steps, images, many, advance)
            _save(expert, folder / task)
            console.print(f"{task}: {TRAINING.many} digits, {time.perf_counter() - started:.0f} s")


def _pixels(pictures: Pictures) -> Tensor:
    """Convert pictures as the image processor does: (N, 3, 16, 16), from −1 to 1."""
    grey = torch.from_numpy(np.ascontiguousarray(pictures)).float() / 127.5 - 1
    return grey[:, None].expand(-1, 3, -1, -1).contiguous()


def _fresh() -> ViTForImageClassification:
    """Build an untrained model for 16×16 images in patches of 8×8."""
    config = ViTConfig(
        image_size=16,
        patch_size=8,
        hidden_size=TRAINING.width,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=2 * TRAINING.width,
        id2label={digit: str(digit) for digit in range(10)},
        label2id={str(digit): digit for digit in range(10)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(TRAINING.seed)
        return ViTForImageClassification(config)


def train(
    model: ViTForImageClassification,
    optimizer: Optimizer,
    rate: float,
    steps: int,
    pixels: Tensor,
    labels: Tensor,
    advance: Callable[[], None],
) -> None:
    """Minimise cross-entropy on random batches; the learning rate rises for a tenth of the steps, then falls."""
    draw = torch.Generator().manual_seed(TRAINING.seed)
    schedule = OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1, cycle_momentum=False)
    model.train()
    for _ in range(steps):
        chosen = torch.randint(len(pixels), (TRAINING.batch,), generator=draw)
        loss = cross_entropy(model(pixels[chosen]).logits, labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        advance()
    model.eval()


def _save(model: ViTForImageClassification, folder: Path) -> None:
    """Save weights, configuration and image processor, as in a published checkpoint."""
    with without_bars():
        model.save_pretrained(folder)
    processor = ViTImageProcessorPil(
        do_resize=False, size={"height": 16, "width": 16}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    processor.save_pretrained(folder)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: more would not be faster here, and rounding would depend on the number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
