"""What every expert says of its own calibration rows: computed once, kept on disk, keyed by content."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from adamerge.data import Rows, move
from adamerge.files import write_safetensors
from adamerge.merged import Layers, MergedModel
from adamerge.types import Batch, Outputs

MANY_CLASSES = 4096
"""Above this many words only the likeliest are kept."""


@dataclass(frozen=True)
class TargetSettings:
    """What is kept of an expert's outputs.

    Attributes:
        layers: Hidden states, kept in half precision.
        top: How many of the likeliest words are kept of a large vocabulary, plus the log of the rest's probability.
        temperature: With which those log-probabilities are made.
        size: Rows that pass an expert together.
    """

    layers: Layers = ()
    top: int = 64
    temperature: float = 1.0
    size: int = 32


class Targets:
    """One task's kept outputs, row by row.

    Args:
        tensors: `logits` (N, C), or for models that speak at every position the rows' positions one after the other,
            (P, C) or (P, k + 1) with `top` (P, k); `hidden.0`, … (P, D); and `lengths.…` (N,), positions a row.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self._starts = {
            key.removeprefix("lengths."): [0, *lengths.cumsum(0).tolist()]
            for key, lengths in tensors.items()
            if key.startswith("lengths.")
        }

    def __call__(self, batch: Batch, like: Outputs) -> Outputs:
        """The kept outputs of a batch's rows, as long as those of the merged model on the same batch."""
        rows, device = batch.rows.tolist(), like.logits.device
        if "logits" in self._starts:
            logits = self._padded("logits", rows, like.logits).to(device)
        else:
            logits = self._tensors["logits"][batch.rows].to(device)
        top = self._padded("top", rows, like.logits).to(device) if "top" in self._tensors else None
        hidden = (self._padded(f"hidden.{i}", rows, state).to(state) for i, state in enumerate(like.hidden))
        return Outputs(logits, tuple(hidden), top)

    def _padded(self, key: str, rows: Sequence[int], like: Tensor) -> Tensor:
        """Rows of one tensor, cut or filled with zeros (that never count) to the length of `like`, (B, S, …)."""
        tensor, starts = self._tensors[key], self._starts[key]
        padded = tensor.new_zeros(len(rows), like.shape[1], tensor.shape[-1])
        for place, row in enumerate(rows):
            part = tensor[starts[row] : starts[row + 1]][: like.shape[1]]
            padded[place, : len(part)] = part
        return padded


def compute_targets(
    model: MergedModel, rows: Mapping[str, Rows], settings: TargetSettings, folder: Path | None
) -> dict[str, Targets]:
    """Run each expert once over its own rows, one expert at a time, or read what an earlier run kept.

    Args:
        model: Runs the experts.
        rows: Calibration rows by task.
        settings: What to keep.
        folder: Where it is kept; None keeps it in memory alone.

    Returns:
        Kept outputs by task.
    """
    return {task: Targets(_kept_or_made(model, task, own, settings, folder)) for task, own in rows.items()}


def _kept_or_made(
    model: MergedModel, task: str, rows: Rows, settings: TargetSettings, folder: Path | None
) -> dict[str, Tensor]:
    if folder is None:
        return _made(model, task, rows, settings)
    path = folder / f"{task}.{_key(model, task, rows, settings)}.safetensors"
    kept = _kept(path)
    if kept is None:
        kept = _made(model, task, rows, settings)
        folder.mkdir(parents=True, exist_ok=True)
        for former in folder.glob(f"{task}.*.safetensors"):  # of another expert, other rows or settings
            former.unlink()
        write_safetensors(path, kept, {"sha256": _digest(kept)})
    return kept


def _kept(path: Path) -> dict[str, Tensor] | None:
    """What is kept, if it is there and undamaged."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            expected = (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return None
    return tensors if _digest(tensors) == expected else None


@torch.no_grad()
def _made(model: MergedModel, task: str, rows: Rows, settings: TargetSettings) -> dict[str, Tensor]:
    order = list(rows.by_length(range(len(rows))))
    parts: dict[str, dict[int, Tensor]] = {}
    for start in range(0, len(order), settings.size):
        batch = rows.batch(order[start : start + settings.size])
        batch = move(batch, model.vectors.device, model.vectors.dtype)
        for key, values in _outputs(model.forward_expert(task, batch.inputs, settings.layers), settings).items():
            parts.setdefault(key, {}).update(zip(batch.rows.tolist(), values.cpu(), strict=True))
    made: dict[str, Tensor] = {}
    for key, values in parts.items():
        ordered = [values[row] for row in range(len(rows))]
        if ordered[0].ndim == 1:
            made[key] = torch.stack(ordered)
        else:
            made[key] = torch.cat(ordered)
            made[f"lengths.{key}"] = torch.tensor([len(value) for value in ordered])
    return made


def _outputs(outputs: Outputs, settings: TargetSettings) -> dict[str, Tensor]:
    """What is kept of a batch: (B, …) tensors by key."""
    kept = {f"hidden.{i}": state.to(_half(state)) for i, state in enumerate(outputs.hidden)}
    logits = outputs.logits
    if logits.ndim < 3 or logits.shape[-1] <= MANY_CLASSES:
        return {"logits": logits, **kept}
    top, log_probabilities = top_and_rest(logits, settings.top, settings.temperature)
    return {"logits": log_probabilities, "top": top, **kept}


def top_and_rest(logits: Tensor, count: int, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """The likeliest words and their log-probabilities, with the log-probability of all the rest together.

    Args:
        logits: (…, C).
        count: k < C.
        temperature: T > 0 divides the logits.

    Returns:
        Indices, int64, (…, k), and log-probabilities, (…, k + 1).

    Example:
        >>> top, known = top_and_rest(torch.tensor([2.0, 1.0, 0.0, 0.0]), 2)
        >>> top.tolist(), round(known.exp().sum().item(), 5)
        ([0, 1], 1.0)
    """
    log_probabilities = (logits.float() / temperature).log_softmax(-1)
    known, top = log_probabilities.topk(count, dim=-1)
    others = log_probabilities.scatter(-1, top, -torch.inf)
    return top, torch.cat([known, others.logsumexp(-1, keepdim=True)], -1)


def _half(state: Tensor) -> torch.dtype:
    """Half precision with the range that the numbers need."""
    return torch.float16 if state.abs().max() < 6e4 else torch.bfloat16


def _key(model: MergedModel, task: str, rows: Rows, settings: TargetSettings) -> str:
    """Hash of what the outputs depend on: the expert's numbers, the rows as the model sees them, the settings."""
    digest = hashlib.sha256(json.dumps([settings.layers, settings.top, settings.temperature]).encode())
    for name, tensor in sorted(model.experts.state_of(task).items()):
        digest.update(name.encode() + _bytes(tensor))
    for batch in rows.batches(settings.size):
        for name, tensor in sorted(batch.inputs.items()):
            digest.update(name.encode() + str(tuple(tensor.shape)).encode() + _bytes(tensor))
    return digest.hexdigest()[:16]


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + _bytes(tensors[name]))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
