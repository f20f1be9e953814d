"""Ask a model whether a row's answer depends on the rows beside it, and choose batches in which it does not.

A model that reads padding, counts positions from the wrong side or shares something between rows answers a row
otherwise in a batch than alone. The answers of short and long rows, together in both orders and one by one, show it.
Some models need more than two neighbours, such as mixtures of experts with a capacity.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, TypeAlias, cast

import torch
from torch import Tensor
from transformers import GenerationConfig

from adamerge.batch import Batch, unpadded
from adamerge.calibration.probe_groups import TOGETHER, crowd_of, groups_of, room
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

_SUPPRESSED = -1e3
"""A logit that is not above it is of a class that is never to be predicted, where other logits are above."""

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
        blame: Says what in the model's files an error comes of; nothing if that is unknown.
    """

    architecture: str
    logits: Logits
    generate: Generate
    changed: Callable[[], Sequence[str]]
    random: Callable[[], bool] = lambda: False
    reads_mask: bool = True
    tolerance: float = 1e-4
    blame: Callable[[Rows, Exception, Callable[["Model"], object]], str] = lambda rows, error, again: ""


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


def settle(model: Model, rows: Rows, limit: int | None = None, size: int = TOGETHER) -> Verdict:
    """Choose a padding for rows with which a model answers every row as alone.

    Args:
        model: The model.
        rows: Its rows.
        limit: Length to which rows may be padded if the model reads padding; None without a limit.
        size: Maximum number of rows per forward pass.

    Returns:
        The rows under this padding, and what a user should know.
    """
    if isinstance(rows, Prompts):
        return _settle_prompts(model, rows, limit, size)
    broken: dict[Padding, int] = {}
    first: dict[int | None, tuple[int, Tensor]] = {}
    try:
        ask = _watched(_ask_forward(model.logits), broken, first)
        padding = choose(ask, rows, ladder(rows, model.reads_mask, limit), model.tolerance, size)
        other = _otherwise(ask, rows.under(padding), *first[padding.length], model.tolerance)
    except Exception as error:  # any class may raise anything
        blame = model.blame(rows, error, lambda other: _ask_forward(other.logits)(rows, _longest(rows)))
        return Verdict(
            rows.under(Padding(share="none")),
            (unknown(model.architecture, error),),
            f"{model.architecture} cannot be run on a row alone ({reason_of(error)}). {blame}{ALONE}",
        )
    problem = ""
    if padding.length in {own.length for own in broken}:
        row = 1 + next(row for own, row in broken.items() if own.length == padding.length)
        problem = f"{model.architecture} answers row {row} by numbers that are not finite. {FINITE}"
    elif other:
        problem = (
            f"{model.architecture} answers row {first[padding.length][0] + 1} otherwise when it is asked again. {AGAIN}"
        )
    unusual = Padding() if padding == rows.padding else padding  # the notes on rows report what they need
    found = notes(
        model.architecture, unusual, list(model.changed()), reads_mask=model.reads_mask, random=model.random()
    )
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
    return again.shape != before.shape or not _close(again, before, tolerance * _size([before]))


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


def choose(ask: Ask, rows: Rows, paddings: Iterable[Padding], tolerance: float, size: int = TOGETHER) -> Padding:
    """Return the first padding under which rows that share a forward pass are answered as alone.

    Args:
        ask: Asks the model.
        rows: The rows.
        paddings: The paddings to try.
        tolerance: Largest difference that rounding explains, relative to the largest logit.
        size: Maximum number of rows per forward pass.

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
    (long,) = _longest(rows)
    sample = dict.fromkeys([long, *chain(*groups_of(rows, Padding(), TOGETHER))])
    for padding in paddings:
        own, known = rows.under(padding), alone.setdefault(padding.length, {})
        try:
            _ask_alone(ask, own, sample, known)
            most = min(size, room(known[long], rows.length(long)))
            groups = groups_of(rows, padding, most)
            _ask_alone(ask, own, chain(*groups), known)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # any class may raise anything
            problem = problem or error
            continue
        crowd = [whole] if len(whole := crowd_of(rows, padding, most)) > 2 else []
        if all(_as_alone(ask, own, group, known, tolerance) for group in (*groups, *crowd)):
            return padding
    raise problem or ValueError("no padding was tried")


def _longest(rows: Rows) -> list[int]:
    return list(rows.by_length(range(len(rows)))[:1])


def _ask_alone(ask: Ask, rows: Rows, which: Iterable[int], known: dict[int, Tensor]) -> None:
    for row in which:
        if row not in known:
            known[row] = ask(rows, [row])[0]


def _as_alone(ask: Ask, rows: Rows, group: Sequence[int], alone: Mapping[int, Tensor], tolerance: float) -> bool:
    """Return whether those rows of a group whose answers alone are known are answered alike in it."""
    try:
        together = ask(rows, list(group))
    except torch.OutOfMemoryError:
        raise
    except Exception:  # some classes refuse batches
        return False
    size = _size(alone.values())
    answers = ((one, alone[row]) for one, row in zip(together, group, strict=True) if row in alone)
    return all(one.shape == two.shape and _close(one, two, tolerance * size) for one, two in answers)


def finite(answer: Tensor) -> Tensor:
    """Replace infinite logits, of suppressed tokens, and those that are no number by 0."""
    return answer.nan_to_num(0.0, 0.0, 0.0)


def _size(answers: Iterable[Tensor]) -> float:
    """Return the largest absolute logit of those that are not suppressed."""
    values = torch.cat([finite(answer).flatten() for answer in answers])
    shown = values[values > _SUPPRESSED]
    return (shown if len(shown) else values).abs().max().item()


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


def _settle_prompts(model: Model, rows: Prompts, limit: int | None, size: int) -> Verdict:
    """Choose a padding for prompts, which are generated from, and for the rows that answers will make of them."""
    answers = settle(model, rows.answered([[0]] * len(rows)), limit, size)
    filler = cast(int, rows.tokenizer.pad_token_id)
    try:
        ask = _ask_generation(model.generate, filler)
        padding = choose(ask, rows, ladder(rows, model.reads_mask, limit), model.tolerance, size)
    except Exception as error:  # any class may raise anything
        blame = model.blame(rows, error, lambda other: _ask_generation(other.generate, filler)(rows, _longest(rows)))
        problem = f"{model.architecture} cannot generate an answer to a row alone ({reason_of(error)}). {blame}{ALONE}"
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
