"""What every expert says of its own calibration rows: computed once, kept on disk, keyed by content."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from adamerge.batch import Batch, Outputs, present_at
from adamerge.calibration.cache_keys import digest_of_expert, key_of
from adamerge.data.rows import Rows, move
from adamerge.merging.merged_model import Layers, MergedModel
from adamerge.storage.atomic_files import write_safetensors
from adamerge.storage.kept import Keeper

MANY_CLASSES = 4096
"""Above this many words only the likeliest are kept."""

FEWEST, MOST = 64, 2 * MANY_CLASSES
"""How many of the likeliest words are kept at least, and at most."""


@dataclass(frozen=True)
class TargetSettings:
    """What is kept of an expert's outputs.

    Of a large vocabulary the likeliest words are kept, plus the log of the rest's probability. The divergence that is
    then learned from is below the whole one by the rest's probability times the divergence within the rest, so with as
    many words as leave out a thousandth it lacks less than a thousandth of a nat wherever the rest differs by less than
    a nat.

    Attributes:
        layers: Hidden states, kept in half precision.
        whole: Keep all words, whatever the vocabulary's size.
        tail: Else the probability that words that are not kept may have, on average over the positions of a batch.
        temperature: With which the log-probabilities of a large vocabulary are made.
        size: Rows that pass an expert together.
    """

    layers: Layers = ()
    whole: bool = False
    tail: float = 1e-3
    temperature: float = 1.0
    size: int = 32


class Targets:
    """One task's kept outputs, row by row; of positions, those that count.

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
        """The kept outputs of a batch's rows, where those of the merged model on the same batch are; zero elsewhere."""
        masks = _counted(batch, like)
        if "logits" not in self._starts:
            logits = self._tensors["logits"][batch.rows].to(like.logits.device)
        else:
            logits = self._placed("logits", batch, masks["logits"])
        top = self._placed("top", batch, masks["logits"]).long() if "top" in self._tensors else None
        hidden = (self._placed(f"hidden.{i}", batch, masks[f"hidden.{i}"]).to(h) for i, h in enumerate(like.hidden))
        return Outputs(logits, tuple(hidden), top, like.encoded)

    def predictions(self, batch: Batch) -> Tensor:
        """The expert's most likely class of each of a batch's rows, or of each position that counts, flat, int64."""
        if "logits" not in self._starts:
            return self._tensors["logits"][batch.rows].argmax(-1)
        if "top" in self._tensors:  # the likeliest word comes first
            return self._of_rows("top", batch)[:, 0].long()
        return self._of_rows("logits", batch).argmax(-1)

    def _of_rows(self, key: str, batch: Batch) -> Tensor:
        """Positions of a batch's rows in one tensor, one row's after the other's."""
        starts = self._starts[key]
        # By indices: cat would be cast under autocast, which knows no half-precision hidden states beside bf16.
        return self._tensors[key][
            [place for row in batch.rows.tolist() for place in range(starts[row], starts[row + 1])]
        ]

    def _placed(self, key: str, batch: Batch, mask: Tensor) -> Tensor:
        """Rows of one tensor at the positions (B, S) that count, however they are padded: (B, S, …)."""
        kept = self._of_rows(key, batch)
        placed = kept.new_zeros(*mask.shape, kept.shape[-1], device=mask.device)
        placed[mask] = kept.to(mask.device)
        return placed


def compute_targets(
    model: MergedModel,
    rows: Mapping[str, Rows],
    settings: TargetSettings,
    folder: Path | None,
    keeper: Keeper | None = None,
) -> dict[str, Targets]:
    """Run each expert once over its own rows, one expert at a time, or read what an earlier run kept.

    Args:
        model: Runs the experts.
        rows: Calibration rows by task.
        settings: What to keep.
        folder: Where it is kept, a file per task; None keeps it in memory alone.
        keeper: Keeps it.

    Returns:
        Kept outputs by task.
    """
    keeper = keeper or Keeper()
    return {task: Targets(_kept_or_made(model, task, own, settings, folder, keeper)) for task, own in rows.items()}


def _kept_or_made(
    model: MergedModel, task: str, rows: Rows, settings: TargetSettings, folder: Path | None, keeper: Keeper
) -> dict[str, Tensor]:
    if folder is None:
        return _made(model, task, rows, settings)
    for former in folder.glob(f"{task}.{'[0-9a-f]' * 16}.safetensors"):  # of version 0.1.0, whose keys were names
        former.unlink()
    expert = digest_of_expert(model.experts.tasks[task])
    key = key_of(expert, {task: rows}, [asdict(settings), str(model.vectors.dtype)], settings.size)
    return keeper(
        folder / f"{task}.safetensors",
        key,
        lambda path: write_safetensors(path, _made(model, task, rows, settings), {"format": "pt"}),
        load_file,
    )


@torch.no_grad()
def _made(model: MergedModel, task: str, rows: Rows, settings: TargetSettings) -> dict[str, Tensor]:
    order = list(rows.by_length(range(len(rows))))
    parts: dict[str, dict[int, Tensor]] = {}
    for start in range(0, len(order), settings.size):
        batch = rows.batch(order[start : start + settings.size])
        batch = move(batch, model.vectors.device, model.vectors.dtype)
        outputs = model.forward_expert(task, batch.inputs, settings.layers)
        masks = _counted(batch, outputs)
        for key, values in _outputs(outputs, settings, masks.get("logits")).items():
            mask = masks.get("logits" if key == "top" else key)
            own = values if mask is None else [value[row] for value, row in zip(values, mask, strict=True)]
            parts.setdefault(key, {}).update(zip(batch.rows.tolist(), (value.cpu() for value in own), strict=True))
    made: dict[str, Tensor] = {}
    for key, values in parts.items():
        ordered = [values[row] for row in range(len(rows))]
        if ordered[0].ndim == 1:
            made[key] = torch.stack(ordered)
        else:
            made[key] = torch.cat(_equally_wide(key, ordered))
            made[f"lengths.{key}"] = torch.tensor([len(value) for value in ordered])
    return made


def _counted(batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
    """Which positions are kept, bool, (B, S): of the logits where the model speaks at every position, of each state."""
    encoded = outputs.encoded or (False,) * len(outputs.hidden)
    states = zip(outputs.hidden, encoded, strict=True)
    masks = {f"hidden.{i}": present_at(batch, state, own) for i, (state, own) in enumerate(states)}
    if outputs.logits.ndim > 2:
        everywhere = torch.ones(outputs.logits.shape[:2], dtype=torch.bool)
        masks["logits"] = everywhere if batch.positions is None else batch.positions
    return {key: mask.to(outputs.logits.device) for key, mask in masks.items()}


def _outputs(outputs: Outputs, settings: TargetSettings, counted: Tensor | None) -> dict[str, Tensor]:
    """What is kept of a batch: (B, …) tensors by key."""
    kept = {f"hidden.{i}": state.to(_half(state)) for i, state in enumerate(outputs.hidden)}
    logits = outputs.logits
    if counted is None or settings.whole or logits.shape[-1] <= MANY_CLASSES:
        return {"logits": logits, **kept}
    count = FEWEST
    while True:
        top, log_probabilities = top_and_rest(logits, min(count, logits.shape[-1]), settings.temperature)
        if count >= min(MOST, logits.shape[-1]) or log_probabilities[counted][:, -1].exp().mean() <= settings.tail:
            return {"logits": log_probabilities, "top": top.int(), **kept}
        count *= 2


def _equally_wide(key: str, rows: Sequence[Tensor]) -> list[Tensor]:
    """Rows' kept words (S, k), as many for all of them: where fewer were kept, one comes again with no probability.

    Other tensors are as wide already. Of log-probabilities (S, k + 1) the last is that of the rest.
    """
    width = max(row.shape[-1] for row in rows)
    widened: list[Tensor] = []
    for row in rows:
        more = width - row.shape[-1]
        if more and key == "top":
            row = torch.cat([row, row[:, :1].expand(-1, more)], -1)
        elif more:
            row = torch.cat([row[:, :-1], row.new_full((len(row), more), -torch.inf), row[:, -1:]], -1)
        widened.append(row)
    return widened


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
