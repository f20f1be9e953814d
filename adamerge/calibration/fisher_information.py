"""Diagonal Fisher information of every expert on its own calibration rows, one expert at a time."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from adamerge.calibration.cache_keys import digest_of_expert, key_of
from adamerge.data.rows import Rows, move
from adamerge.experts.progress_bars import bars_on_terminals
from adamerge.merging.mapped_task_vectors import Mapped
from adamerge.merging.merged_model import MergedModel
from adamerge.merging.recomputation import backward
from adamerge.storage.kept import SILENT, Keeper, Key
from adamerge.storage.weights import MappedFiles
from adamerge.storage.write_safetensors import write_safetensors
from adamerge.transforms import FisherSettings, Labels
from adamerge.transforms.dare import generator_for


def fisher_information(
    model: MergedModel,
    rows: Mapping[str, Rows],
    settings: FisherSettings,
    folder: Path,
    console: Console | None = None,
    keeper: Keeper = SILENT,
) -> Mapped:
    """Compute every expert's diagonal Fisher information, store it and map the files.

        Fₖ = meanₓ E_y (∂ log pₖ(y|x) / ∂θₖ)²

    θₖ is the unmerged expert with its own head, x are its own calibration rows, and y are labels drawn from the
    expert's predictions. If a model predicts at every position, the log-likelihood of a row is the sum over the counted
    positions. The gradient of each single row is squared, so each forward pass holds one row. Memory holds one expert
    at a time: its parameters, their gradients and the sum, three times its size.

    Args:
        model: The experts; its task vectors name the parameters.
        rows: Calibration rows per task; empty if they are not available: then stored results are read without comparing
            their rows.
        settings: Kind of labels, and number of rows.
        folder: Folder of the stored results, one file per expert.
        console: Shows a progress bar if it is a terminal.
        keeper: Stores each result under its cache key.

    Returns:
        F, held like task vectors.

    Raises:
        ConfigError: There are no rows, and no stored result has the same key.

    Reference:
        Matena, Raffel, Merging Models with Fisher-Weighted Averaging, NeurIPS 2022, section 3.
    """
    console = console or Console(quiet=True)
    stored: dict[str, MappedFiles] = {}
    with bars_on_terminals(console) as progress:
        for task in model.tasks:
            make = partial(_write, model, task, rows[task], settings, progress) if rows else None
            key, file = _key(model, task, rows, settings), folder / f"{task}.safetensors"
            stored[task] = keeper(file, key, make, lambda path: MappedFiles([path]))
    vectors = model.vectors
    return Mapped(stored, tuple(vectors.shapes), model.experts.base, None, vectors.dtype, vectors.device)


def _key(model: MergedModel, task: str, rows: Mapping[str, Rows], settings: FisherSettings) -> Key:
    what = [list(settings), task, list(model.vectors.shapes), str(model.vectors.dtype)]
    own = {task: rows[task]} if rows else {}
    return key_of(digest_of_expert(model.experts.tasks[task]), own, what, size=1)


def _write(model: MergedModel, task: str, rows: Rows, settings: FisherSettings, progress: Progress, file: Path) -> None:
    write_safetensors(file, _of_expert(model, task, rows, settings, progress), {"format": "pt"})


def log_likelihoods(logits: Tensor, labels: Labels, draw: torch.Generator) -> Iterator[tuple[float, Tensor]]:
    """Compute the log-likelihoods of one row under labels that the model predicts itself, each with its weight.

    Args:
        logits: (C,), or of the counted positions, (P, C).
        labels: sampled, expected or likeliest.
        draw: Random generator for sampled labels, on the CPU.

    Yields:
        Weight and log-likelihood; the weights sum to 1. All but the last need `retain_graph` in their backward pass.

    Example:
        >>> logits = torch.tensor([0.0, 1.0986])
        >>> [(round(w, 2), round(l.exp().item(), 2)) for w, l in log_likelihoods(logits, "expected", torch.Generator())]
        [(0.25, 0.25), (0.75, 0.75)]
    """
    logs = logits.log_softmax(-1)
    if labels == "expected":
        yield from zip(logs.detach().exp().tolist(), logs, strict=True)
        return
    seen = logs.detach().reshape(-1, logs.shape[-1]).cpu()  # (1 or P, C)
    chosen = seen.argmax(-1) if labels == "likeliest" else torch.multinomial(seen.exp(), 1, generator=draw).squeeze(1)
    yield 1.0, logs.reshape(-1, logs.shape[-1]).gather(-1, chosen.to(logs.device).unsqueeze(1)).sum()


def _of_expert(
    model: MergedModel, task: str, rows: Rows, settings: FisherSettings, progress: Progress
) -> dict[str, Tensor]:
    vectors, weights = model.vectors, model.experts.tasks[task].weights
    leaves = {
        name: weights[name].to(vectors.device, vectors.dtype, copy=True).requires_grad_() for name in vectors.shapes
    }
    total = {name: torch.zeros_like(leaf, requires_grad=False) for name, leaf in leaves.items()}
    count = len(rows) if settings.rows is None else min(settings.rows, len(rows))
    draw = generator_for(settings.seed, task)
    batches = rows.batches(1, range(count))
    for batch in progress.track(batches, total=count, description=f"Fisher information of {task}"):
        batch = move(batch, vectors.device, vectors.dtype)
        logits = model.forward(task, leaves, batch.inputs).logits[0]
        counted = logits if batch.positions is None or logits.ndim == 1 else logits[batch.positions[0]]
        for weight, value in log_likelihoods(counted, settings.labels, draw):
            backward(value, retain_graph=settings.labels == "expected")
            for name, leaf in leaves.items():
                if leaf.grad is not None:
                    total[name].addcmul_(leaf.grad, leaf.grad, value=weight / count)
                    leaf.grad = None
    return total
