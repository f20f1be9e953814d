"""Ask a model whether a row's answer depends on the rows beside it, and choose batches in which it does not.

A model that reads padding, counts positions from the wrong side or shares something between rows answers a row
otherwise in a batch than alone. The answers of short and long rows, together in both orders and one by one, show it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from typing import NamedTuple, TypeAlias, cast

import torch
from torch import Tensor
from transformers import GenerationConfig

from adamerge.batch import Batch, unpadded
from adamerge.calibration.probe_words import AGAIN, ALONE, FINITE, notes, unknown
from adamerge.data.padding import Padding
from adamerge.data.rows import Rows
from adamerge.data.text_rows import Prompts, TextRows
from adamerge.storage.regular_files import reason_of

Logits: TypeAlias = Callable[[Mapping[str, Tensor]], Tensor]
"""Runs a model on a batch's inputs; returns logits, (B, …)."""

Generate: TypeAlias = Callable[[Mapping[str, Tensor], GenerationConfig], object]
"""Generates answers to a batch of prompts."""

Ask: TypeAlias = Callable[[Rows, Sequence[int]], list[Tensor]]
"""Returns a model's answer to each of some rows in one batch."""

_TRIED = 16
"""Pairs of rows of one length among which two different rows are sought."""

_OTHERS = 4
"""Rows between the shortest and the longest that are asked too: what a model reads may not show in every row."""

_TOKENS = 3
"""Generated tokens that are compared."""


@dataclass(frozen=True, eq=False)
class Model:
    """What the probe may do with a model.

    Attributes:
        architecture: Name of its class.
        logits: Runs it on a batch.
        generate: Generates with it.
        changed: Names of what its passes changed in it so far; restored after each pass.
        random: Whether its passes so far drew random numbers.
        reads_mask: Whether its forward pass has an argument for the attention mask.
        tolerance: Largest difference of two answers that rounding explains, relative to the largest logit.
    """

    architecture: str
    logits: Logits
    generate: Generate
    changed: Callable[[], Sequence[str]]
    random: Callable[[], bool] = lambda: False
    reads_mask: bool = True
    tolerance: float = 1e-4


class Verdict(NamedTuple):
    """How a model treats its rows.

    Attributes:
        rows: The rows, under a padding with which every row is answered as alone.
        notes: What a user should know, without the task.
        problem: Why nothing can be learned from its answers; empty if something can.
    """

    rows: Rows
    notes: tuple[str, ...] = ()
    problem: str = ""


def settle(model: Model, rows: Rows, limit: int | None = None) -> Verdict:
    """Choose a padding for rows with which a model answers every row as alone.

    Args:
        model: The model.
        rows: Its rows.
        limit: Length to which rows may be padded if the model reads padding; None without a limit.

    Returns:
        The rows under this padding, and what a user should know.
    """
    if isinstance(rows, Prompts):
        return _settle_prompts(model, rows, limit)
    broken: dict[Padding, int] = {}
    first: dict[int | None, tuple[int, Tensor]] = {}
    try:
        ask = _watched(_ask_forward(model.logits), broken, first)
        padding = choose(ask, rows, ladder(rows, model.reads_mask, limit), model.tolerance)
        other = _otherwise(ask, rows.under(padding), *first[padding.length], model.tolerance)
    except Exception as error:  # any class may raise anything
        return Verdict(
            rows.under(Padding(share="none")),
            (unknown(model.architecture, error),),
            f"{model.architecture} cannot be run on a row alone ({reason_of(error)}). {ALONE}",
        )
    problem = ""
    if padding.length in {own.length for own in broken}:
        row = 1 + next(row for own, row in broken.items() if own.length == padding.length)
        problem = f"{model.architecture} answers row {row} by numbers that are not finite. {FINITE}"
    elif other:
        problem = (
            f"{model.architecture} answers row {first[padding.length][0] + 1} otherwise when it is asked again. {AGAIN}"
        )
    unusual = Padding() if padding == rows.padding else padding  # what rows need is said with them
    found = notes(model.architecture, unusual, list(model.changed()), random=model.random())
    return Verdict(rows.under(padding), tuple(found), problem)


def _watched(ask: Ask, broken: dict[Padding, int], first: dict[int | None, tuple[int, Tensor]]) -> Ask:
    """Record of every padding the first row, its answer, and the first one answered by infinite numbers, or none."""

    def asked(rows: Rows, indices: Sequence[int]) -> list[Tensor]:
        answers = ask(rows, indices)
        if len(indices) == 1:
            first.setdefault(rows.padding.length, (indices[0], answers[0]))
        if len(indices) == 1 and any((answer.isnan() | answer.isposinf()).any() for answer in answers):
            broken.setdefault(rows.padding, indices[0])
        return answers

    return asked


def _otherwise(ask: Ask, rows: Rows, row: int, before: Tensor, tolerance: float) -> bool:
    """Ask for a row again, after others; returns whether the answer is another one."""
    again = ask(rows, [row])[0]
    size = finite(before).abs().max().item()
    return again.shape != before.shape or not _close(again, before, tolerance * size)


def ladder(rows: Rows, reads_mask: bool, limit: int | None) -> list[Padding]:
    """List the paddings to try, the fastest first; under the last one no row shares a forward pass.

    Args:
        rows: The rows.
        reads_mask: Whether the model takes an attention mask. One that does not was trained on padding; one that does
            gets a fixed length only if it cannot be run otherwise.
        limit: Length to which rows were padded in training, if it is known.
    """
    if isinstance(rows, Prompts):
        return [rows.padding, Padding(share="equal"), Padding(share="none")]
    if not isinstance(rows, TextRows):
        return list(dict.fromkeys([rows.padding, Padding(share="none")]))
    whole = [] if limit is None else [Padding(length=limit)]
    first, last = ([], whole) if reads_mask else (whole, [])  # without a mask, training was on padding
    return [Padding(), Padding("left"), *first, Padding(share="equal"), Padding(share="none"), *last]


def choose(ask: Ask, rows: Rows, paddings: Iterable[Padding], tolerance: float) -> Padding:
    """Return the first padding under which rows that share a forward pass are answered as alone.

    Args:
        ask: Asks the model.
        rows: The rows.
        paddings: The paddings to try.
        tolerance: Largest difference that rounding explains, relative to the largest logit.

    Raises:
        Exception: What the model raises on a single row, under every padding.

    Example:
        >>> from adamerge.data.rows import TensorRows
        >>> rows = TensorRows({"x": torch.tensor([[1.0], [2.0]])})
        >>> paddings = [Padding(), Padding(share="none")]
        >>> choose(lambda rows, i: list(rows.batch(i).inputs["x"] - 1), rows, paddings, 1e-4).share
        'any'
        >>> choose(lambda rows, i: list(rows.batch(i).inputs["x"] - len(i)), rows, paddings, 1e-4).share
        'none'
    """
    alone: dict[int | None, dict[int, Tensor]] = {}
    problem: Exception | None = None
    for padding in paddings:
        own, pairs = rows.under(padding), _pairs(rows, padding)
        try:
            if padding.length not in alone:
                alone[padding.length] = {i: ask(own, [i])[0] for i in dict.fromkeys(chain(*_pairs(rows, Padding())))}
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # any class may raise anything
            problem = problem or error
            continue
        if all(_as_alone(ask, own, pair, alone[padding.length], tolerance) for pair in pairs):
            return padding
    raise problem or ValueError("no padding was tried")


def _pairs(rows: Rows, padding: Padding) -> list[tuple[int, int]]:
    """List pairs of rows that share a forward pass: short ones beside the longest, two of one length, a row twice."""
    if padding.share == "none":
        return []
    order = rows.by_length(range(len(rows)))
    short, long = order[-1], order[0]
    mixed = [(short, long), (long, short), *((row, long) for row in _between(rows, order))]
    equal = islice(((a, b) for a, b in pairwise(order) if rows.length(a) == rows.length(b)), _TRIED)
    twins = next((pair for pair in equal if _differ(rows, *pair)), (long, long))
    return list(dict.fromkeys([*(mixed if padding.share == "any" else []), twins, (short, short)]))


def _between(rows: Rows, order: Sequence[int]) -> list[int]:
    """Return rows spread over the order by length that a batch with the longest one pads."""
    shorter = [row for row in order[1:-1] if rows.length(row) != rows.length(order[0])]
    return shorter[:: -(-len(shorter) // _OTHERS)] if shorter else []


def _differ(rows: Rows, one: int, two: int) -> bool:
    """Return whether two rows of one length have different inputs."""
    first, second = rows.batch([one]).inputs, rows.batch([two]).inputs
    return any(not torch.equal(tensor, second[name]) for name, tensor in first.items())


def _as_alone(ask: Ask, rows: Rows, pair: Sequence[int], alone: Mapping[int, Tensor], tolerance: float) -> bool:
    try:
        together = ask(rows, list(pair))
    except torch.OutOfMemoryError:
        raise
    except Exception:  # some classes refuse batches
        return False
    size = max(finite(answer).abs().max().item() for answer in alone.values())
    answers = zip(together, (alone[i] for i in pair), strict=True)
    return all(one.shape == two.shape and _close(one, two, tolerance * size) for one, two in answers)


def finite(answer: Tensor) -> Tensor:
    """Replace infinite logits, of suppressed tokens, and those that are no number by 0."""
    return answer.nan_to_num(0.0, 0.0, 0.0)


def _close(one: Tensor, two: Tensor, tolerance: float) -> bool:
    same = torch.equal(one.isfinite(), two.isfinite())
    return same and bool((finite(one) - finite(two)).abs().max() <= tolerance)


def _ask_forward(logits: Logits) -> Ask:
    def ask(rows: Rows, indices: Sequence[int]) -> list[Tensor]:
        batch = rows.batch(indices)
        return counted(logits(batch.inputs), batch)

    return ask


def counted(logits: Tensor, batch: Batch) -> list[Tensor]:
    """Select each row's logits, at the positions that count and without a span's padding, in fp32 on the CPU."""
    masks = [...] * len(logits) if batch.positions is None else list(batch.positions.to(logits.device))
    rows = [row[mask].detach().float().cpu() for row, mask in zip(logits, masks, strict=True)]
    return rows if batch.positions is not None else [unpadded(row) for row in rows]


def _ask_generation(generate: Generate, filler: int | None) -> Ask:
    how = GenerationConfig(
        max_new_tokens=_TOKENS,
        do_sample=False,
        num_beams=1,
        pad_token_id=filler,
        output_scores=True,
        return_dict_in_generate=True,
    )

    def ask(rows: Rows, indices: Sequence[int]) -> list[Tensor]:
        prompts = cast(Prompts, rows)
        if prompts.start is not None:
            how.decoder_start_token_id = prompts.start
        output = generate(rows.batch(indices).inputs, how)
        scores = cast(tuple[Tensor, ...], getattr(output, "scores", None))
        return list(torch.stack([score.detach().float().cpu() for score in scores], 1))

    return ask


def _settle_prompts(model: Model, rows: Prompts, limit: int | None) -> Verdict:
    """Choose a padding for prompts, which are generated from, and for the rows that answers will make of them."""
    answers = settle(model, rows.answered([[0]] * len(rows)), limit)
    try:
        ask = _ask_generation(model.generate, cast(int, rows.tokenizer.pad_token_id))
        padding = choose(ask, rows, ladder(rows, model.reads_mask, limit), model.tolerance)
    except Exception as error:  # any class may raise anything
        problem = f"{model.architecture} cannot generate an answer to a row alone ({reason_of(error)}). {ALONE}"
        return Verdict(rows.under(Padding(share="none")), answers.notes, answers.problem or problem)
    note = {
        "any": "",
        "equal": f"{model.architecture} generates other answers to padded prompts: prompts of one length are "
        "answered together.",
        "none": f"{model.architecture} generates other answers to prompts in a batch: each is answered alone.",
    }[padding.share]
    found = cast(Prompts, rows.under(padding))
    found.answered_padding = answers.rows.padding
    return Verdict(found, (*([note] if note else []), *answers.notes), answers.problem)
