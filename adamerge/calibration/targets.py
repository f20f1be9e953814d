"""Targets: every expert's outputs on its own calibration rows, computed once and stored under a cache key."""

from collections.abc import Mapping, Sequence
from glob import escape
from pathlib import Path
from typing import get_args

import torch
from safetensors.torch import load_file
from torch import Tensor

from adamerge.batch import NEVER, Batch, Form, Outputs, present_at
from adamerge.calibration.cache_keys import digest_of_expert, key_of
from adamerge.calibration.row_scores import predictions
from adamerge.calibration.target_settings import TargetSettings
from adamerge.data.rows import Rows
from adamerge.merging.device import each_in_bf16
from adamerge.merging.execution import expert_of
from adamerge.merging.merged_model import MergedModel
from adamerge.objectives.divergences import spread_of
from adamerge.storage.kept import SILENT, Keeper, key_file
from adamerge.storage.write_safetensors import write_safetensors

MANY_CLASSES = 4096
"""Number of classes (vocabulary size) above which only the most likely ones are stored."""

FORMS: tuple[Form, ...] = get_args(Form)
"""What may be predicted, in the order in which it is stored."""

FEWEST, MOST = 64, 2 * MANY_CLASSES
"""Smallest and largest number of most likely classes that are stored."""


class Targets:
    """Stored outputs of one task's expert per row; of the positions, only the counted ones.

    Args:
        tensors: `logits` (N, C); or, for models that predict at every position, the concatenated positions of all rows,
            (P, C), or (P, k + 1) with `top` (P, k); `hidden.0`, … (P, D); and `lengths.…` (N,), positions per row.
            `form` is the place in `FORMS` of what is no class of one prediction; absent for classes.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self._form: Form = FORMS[int(tensors["form"])] if "form" in tensors else "classes"
        spread = self._form in ("numbers", "vectors")
        self._spread = spread_of(tensors["logits"], total=self._form == "vectors") if spread else None
        self._starts = {
            key.removeprefix("lengths."): [0, *lengths.cumsum(0).tolist()]
            for key, lengths in tensors.items()
            if key.startswith("lengths.")
        }

    def __call__(self, batch: Batch, like: Outputs) -> Outputs:
        """Return the stored outputs of a batch's rows, in the shape of the merged model's outputs; zero elsewhere.

        Args:
            batch: Rows, as the merged model got them.
            like: The merged model's outputs on the batch.
        """
        masks = _counted(batch, like)
        if "logits" not in self._starts:
            logits = self._tensors["logits"][batch.rows].to(like.logits.device)
        else:
            logits = self._placed("logits", batch, masks["logits"])
        if self._form == "spans":
            logits = _as_wide(logits, like.logits.shape[-1])
        top = self._placed("top", batch, masks["logits"]).long() if "top" in self._tensors else None
        hidden = (self._placed(f"hidden.{i}", batch, masks[f"hidden.{i}"]).to(h) for i, h in enumerate(like.hidden))
        return Outputs(logits, tuple(hidden), top, like.encoded, self._form, self._spread)

    def predictions(self, batch: Batch) -> Tensor:
        """Return the expert's predictions per row of a batch, or per counted position, flat; see `predictions`."""
        if "logits" not in self._starts:
            return predictions(self._tensors["logits"][batch.rows], None, self._form)
        if "top" in self._tensors:  # sorted, the most likely token first
            return self._of_rows("top", batch)[:, 0].long()
        return predictions(self._of_rows("logits", batch), None, self._form)

    def _of_rows(self, key: str, batch: Batch) -> Tensor:
        """Concatenate the stored positions of a batch's rows."""
        starts = self._starts[key]
        # Indexing, not cat: autocast would cast cat's result, and does not support fp16 hidden states beside bf16.
        return self._tensors[key][
            [place for row in batch.rows.tolist() for place in range(starts[row], starts[row + 1])]
        ]

    def _placed(self, key: str, batch: Batch, mask: Tensor) -> Tensor:
        """Place the rows of one tensor at the counted positions (B, S), whatever the padding: (B, S, …)."""
        kept = self._of_rows(key, batch)
        placed = kept.new_zeros(*mask.shape, kept.shape[-1], device=mask.device)
        placed[mask] = kept.to(mask.device)
        return placed


def compute_targets(
    model: MergedModel,
    rows: Mapping[str, Rows],
    settings: TargetSettings,
    size: int,
    folder: Path | None,
    keeper: Keeper = SILENT,
) -> dict[str, Targets]:
    """Run each expert once on its own rows, one expert at a time, or read the stored outputs.

    Args:
        model: Runs the experts.
        rows: Calibration rows per task.
        settings: Which outputs to store.
        size: Rows per forward pass.
        folder: Folder of the stored outputs, one file per task; None keeps them in memory only.
        keeper: Stores the outputs under their cache key.

    Returns:
        Stored outputs per task.
    """
    return {
        task: Targets(_kept_or_made(model, task, own, settings, size, folder, keeper)) for task, own in rows.items()
    }


def _kept_or_made(
    model: MergedModel, task: str, rows: Rows, settings: TargetSettings, size: int, folder: Path | None, keeper: Keeper
) -> dict[str, Tensor]:
    if folder is None:
        return _made(model, task, rows, settings, size)
    remove_former(folder, task)
    expert = digest_of_expert(model.experts.models[task])
    key = key_of(expert, {task: rows}, [settings.key, str(model.vectors.dtype)], size)
    return keeper(
        folder / f"{task}.safetensors",
        key,
        lambda path: write_safetensors(path, _made(model, task, rows, settings, size), {"format": "pt"}),
        lambda path: _read(path, len(rows)),
    )


def remove_former(folder: Path, task: str) -> None:
    """Remove a task's outputs that version 0.1.0 stored: it put keys into the names of files.

    Args:
        folder: Folder of the stored outputs.
        task: Name of the task; another task may have the name of such a file, but then has a key beside it.
    """
    for former in folder.glob(f"{escape(task)}.{'[0-9a-f]' * 16}.safetensors"):
        if not key_file(former).exists():
            former.unlink()


def _read(path: Path, rows: int) -> dict[str, Tensor]:
    """Read stored outputs.

    Raises:
        ValueError: They are of another number of rows, or positions.
    """
    tensors = load_file(path)
    keys = ("logits", *(key for key in tensors if key not in ("top", "form")))
    lengths = {key: tensors.get(f"lengths.{key}") for key in keys}
    for key, own in lengths.items():
        if not key.startswith("lengths.") and len(tensors[key]) != (rows if own is None else int(own.sum())):
            raise ValueError(f"{key}: expected outputs of {rows} rows")
        if own is not None and len(own) != rows:
            raise ValueError(f"lengths.{key}: expected {rows} rows")
    return tensors


@torch.no_grad()
def _made(model: MergedModel, task: str, rows: Rows, settings: TargetSettings, size: int) -> dict[str, Tensor]:
    parts: dict[str, dict[int, Tensor]] = {}
    form: Form = "classes"
    answers = expert_of(model, task).outputs(rows.batches(size), settings.layers)
    for _, batch, outputs in each_in_bf16(answers, model.vectors.device, bf16=settings.bf16):
        masks, form = _counted(batch, outputs), outputs.form
        for key, values in _outputs(outputs, settings, masks.get("logits")).items():
            mask = masks.get("logits" if key == "top" else key)
            own = values if mask is None else [value[row] for value, row in zip(values, mask, strict=True)]
            parts.setdefault(key, {}).update(zip(batch.rows.tolist(), (value.cpu() for value in own), strict=True))
    made: dict[str, Tensor] = {} if form == "classes" else {"form": torch.tensor(FORMS.index(form))}
    for key, values in parts.items():
        ordered = [values[row] for row in range(len(rows))]
        if ordered[0].ndim == 1:
            made[key] = torch.stack(ordered)
        else:
            made[key] = torch.cat(_equally_wide(key, ordered, form))
            made[f"lengths.{key}"] = torch.tensor([len(value) for value in ordered])
    return made


def _counted(batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
    """Return which positions are stored, bool, (B, S): of each hidden state, and of logits that have positions."""
    encoded = outputs.encoded or (False,) * len(outputs.hidden)
    states = zip(outputs.hidden, encoded, strict=True)
    masks = {f"hidden.{i}": present_at(batch, state, own) for i, (state, own) in enumerate(states)}
    if outputs.logits.ndim > 2:
        everywhere = torch.ones(outputs.logits.shape[:2], dtype=torch.bool)
        masks["logits"] = everywhere if batch.positions is None else batch.positions
    return {key: mask.to(outputs.logits.device) for key, mask in masks.items()}


def _outputs(outputs: Outputs, settings: TargetSettings, counted: Tensor | None) -> dict[str, Tensor]:
    """Select what is stored of a batch: (B, …) tensors per key."""
    kept = {f"hidden.{i}": state.to(_half(state)) for i, state in enumerate(outputs.hidden)}
    logits = outputs.logits
    if counted is None or settings.whole or outputs.form != "classes" or logits.shape[-1] <= MANY_CLASSES:
        return {"logits": logits, **kept}
    count = FEWEST
    while True:
        top, log_probabilities = top_and_rest(logits, min(count, logits.shape[-1]), settings.temperature)
        if count >= min(MOST, logits.shape[-1]) or log_probabilities[counted][:, -1].exp().mean() <= settings.tail:
            return {"logits": log_probabilities, "top": top.int(), **kept}
        count *= 2


def _as_wide(logits: Tensor, width: int) -> Tensor:
    """Cut or fill the logits of spans to the number of tokens of a batch; what is cut is padding."""
    more = width - logits.shape[-1]
    return logits[..., :width] if more <= 0 else torch.nn.functional.pad(logits, (0, more), value=NEVER)


def _equally_wide(key: str, rows: Sequence[Tensor], form: Form) -> list[Tensor]:
    """Pad rows' stored tokens (S, k) to one width: repeat a token, with probability 0.

    Other tensors have one width already, but for the logits of spans (2, S). The last of the log-probabilities
    (S, k + 1) is that of all other tokens.
    """
    if form == "spans" and key == "logits":
        return [_as_wide(row, max(own.shape[-1] for own in rows)) for row in rows]
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
    """Find the most likely classes, their log-probabilities, and the log-probability of all other classes together.

    Args:
        logits: (…, C).
        count: Number of most likely classes, k < C.
        temperature: Divisor of the logits, T > 0.

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
    """Choose fp16, or bf16 if the values exceed fp16's range."""
    return torch.float16 if state.abs().max() < 6e4 else torch.bfloat16
