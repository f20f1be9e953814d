"""What a model predicts: classes, independent labels, numbers, a span of the text, or a vector of the whole row."""

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import normalize

from adamerge.batch import NEVER, Form, widened
from adamerge.experts.experts import Expert
from adamerge.experts.model_kind import OTHER_OUTPUTS, ModelKind, logits_of, output_by_token, trial, try_out
from adamerge.experts.pooling import pooled

Predicted: TypeAlias = tuple[Tensor, Form]
"""Logits, numbers or vectors, and what they are."""


def predicted(output: object, expert: Expert, inputs: Mapping[str, object]) -> Predicted:
    """Take what a model predicts from what its module returned.

    Args:
        output: What the module returned.
        expert: The task's expert; its folder says how sentence-transformers pools.
        inputs: Inputs of the pass.

    Returns:
        Predictions, (B, C) or (B, S, C), and their form. Spans are (B, 2, S): logits of start and end over the row's
        tokens, which are moved to the left; what is padding is -1e4. Vectors are (B, D) and of length 1.

    Raises:
        ConfigError: There is nothing of these kinds.
    """
    mask = inputs.get("attention_mask")
    mask = mask if isinstance(mask, Tensor) else None
    begin, end = getattr(output, "start_logits", None), getattr(output, "end_logits", None)
    if isinstance(begin, Tensor) and isinstance(end, Tensor):
        return _spans(torch.stack([begin, end], 1), mask), "spans"
    if not isinstance(output, Tensor) and getattr(output, "logits", None) is None:
        states = next((found for key in OTHER_OUTPUTS if (found := getattr(output, key, None)) is not None), None)
        if isinstance(states, Tensor):
            whole = widened(states)
            vectors = whole if whole.ndim == 2 else pooled(whole, mask, expert.pooling or ("mean",))
            return normalize(vectors, dim=-1), "vectors"
    logits = logits_of(output)
    return logits, form_of_logits(expert.kind, logits)


def form_of(expert: Expert, inputs: Mapping[str, Tensor]) -> Form:
    """Return what a task's model predicts, from a pass with all parameters zero; no weights are read.

    Args:
        expert: The task's expert.
        inputs: Any encoded row.
    """
    return predicted(trial(expert.module, inputs), expert, inputs)[1]


class Output(NamedTuple):
    """What a task's model returns.

    Attributes:
        per_token: Whether it is logits per token and not per row.
        form: What it is; without a meaning per token.
        outputs: Number of logits, or of numbers; 0 per token.
    """

    per_token: bool
    form: Form = "classes"
    outputs: int = 0


def output_of(expert: Expert, inputs: Mapping[str, Tensor], task: str) -> Output:
    """Try a task's model on a row with all parameters zero; see `classes_by_token` and `form_of`.

    Raises:
        ConfigError: The model cannot be run, or returns nothing that rows can be compared by.
    """
    output = try_out(expert.module, expert.kind, inputs, task)
    if output_by_token(output, expert.kind, task):
        return Output(per_token=True)
    logits, form = predicted(output, expert, inputs)
    return Output(per_token=False, form=form, outputs=logits.shape[-1])


def form_of_logits(kind: ModelKind, logits: Tensor) -> Form:
    """Return what logits are: transformers' problem type says it, or a last dimension of 1."""
    if kind.language_model:
        return "classes"
    if kind.problem_type == "multi_label_classification":
        return "labels"
    return "numbers" if kind.problem_type == "regression" or logits.shape[-1] == 1 else "classes"


def _spans(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Move the tokens of each row to the left, and fill what is padding: (B, 2, S)."""
    if mask is None:
        return logits
    present = mask.to(logits.device).bool()
    order = present.to(torch.int8).argsort(dim=1, descending=True, stable=True)  # (B, S)
    moved = logits.gather(2, order[:, None].expand_as(logits))
    return moved.masked_fill(~present.gather(1, order)[:, None], NEVER)
