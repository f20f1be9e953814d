"""Ask every task's model how its rows must be batched: the experts with their weights, or random copies of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from transformers import PretrainedConfig

from adamerge.batch import Batch
from adamerge.calibration.probe import Model, Verdict, settle
from adamerge.data.rows import Rows, move
from adamerge.data.settings import Batching
from adamerge.data.text_rows import Prompts, TextRows
from adamerge.data.tokenize import token_limit
from adamerge.experts.config_file import file_of
from adamerge.experts.experts import Expert, Experts
from adamerge.experts.model_kind import forward_inputs, names_argument
from adamerge.experts.predicted import predicted
from adamerge.experts.random_copy import LARGEST, count, random_state, shortened, small
from adamerge.experts.skeleton import built
from adamerge.experts.spoilt_keys import spoilt_keys
from adamerge.experts.stateless import Stateless
from adamerge.merging.device import device_of
from adamerge.merging.execution import expert_of
from adamerge.merging.generating import Generating
from adamerge.merging.merged_model import MergedModel
from adamerge.runs.centre import over_one_group, plain_vectors
from adamerge.runs.choose_memory import execution_ahead, fitting
from adamerge.runs.config import MergeConfig
from adamerge.runs.load_rows import Data
from adamerge.types import ConfigError

_FULL_DEPTH = 5e9
"""Numbers of a model times tokens of its longest row up to which a copy keeps all blocks."""

_UNLIMITED = 10**6
"""A row length that is no length of training."""

ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-3}
"""Largest difference of two answers that rounding explains, relative to the largest logit; 0.05 in half precision."""


def settle_rows(data: Data, experts: Experts, how: Batching, model: MergedModel | None = None) -> Data:
    """Put every task's rows under a padding with which its model answers each row as alone.

    Args:
        data: The rows.
        experts: Base and experts.
        how: Maximum number of tokens per row, and of rows per forward pass.
        model: Runs the experts with their own weights. None asks randomly initialised copies of them; no weights are
            read.

    Returns:
        The rows, with notes on every model that does not answer rows of any length together as it does alone.

    Raises:
        ConfigError: A model cannot be run on rows, or answers them by numbers that are not finite.
    """
    notes: dict[str, None] = {}
    problems: dict[str, None] = {}
    found: dict[str, dict[str, Rows]] = {"calibration": {}, "evaluation": {}}
    for purpose, tasks in (("calibration", data.calibration), ("evaluation", data.evaluation)):
        for task, rows in tasks.items():
            verdict = _verdict(experts.models[task], rows, how, model)
            found[purpose][task] = verdict.rows
            notes |= dict.fromkeys(f"{task}: {note}" for note in verdict.notes)
            problems |= {f"{task}: {verdict.problem}": None} if verdict.problem else {}
    if problems:
        raise ConfigError(*problems)
    return replace(data, **found, notes=(*data.notes, *notes))


def settled(config: MergeConfig, experts: Experts, names: Sequence[str], data: Data) -> Data:
    """Put rows under a padding that the experts, with their own weights, answer as rows alone.

    Args:
        config: Device, dtype, maximum length of a row, and rows per forward pass.
        experts: Base and experts.
        names: Parameters to merge.
        data: The rows.

    Returns:
        The rows, with notes.

    Raises:
        ConfigError: As `settle_rows`, or a run takes more memory than is free, and the user has set no limit.
    """
    device = device_of(config.trainer.accelerator)
    choice = fitting(execution_ahead(config, experts, names, data.calibration, device))
    if not data.calibration and not data.evaluation:
        return data
    model = over_one_group(experts, plain_vectors(config, experts, names), choice.blocks)
    return settle_rows(data, experts, config.data, model)


def _verdict(expert: Expert, rows: Rows, how: Batching, model: MergedModel | None) -> Verdict:
    limit, size = _limit(expert, rows, how.max_length), how.micro_batch
    if model is not None:
        return settle(asked(model, expert), rows, limit, size)
    question = asked_of_copy(expert, rows)
    if isinstance(question, str):
        return Verdict(rows, (question,))
    verdict = settle(question, rows, limit, size)
    if not verdict.problem:
        return verdict
    again = asked_of_copy(expert, rows, seed=1, whole=True)  # chance may have drawn numbers that overflow
    return verdict if isinstance(again, str) else settle(again, rows, limit, size)


def asked(model: MergedModel, expert: Expert) -> Model:
    """Ask an expert with its own weights."""
    device, dtype, placed = model.vectors.device, model.vectors.dtype, expert_of(model, expert.name)

    def moved(inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return move(Batch(inputs, torch.empty(0)), device, dtype).inputs

    return Model(
        expert.kind.architecture,
        lambda inputs: placed(moved(inputs)).logits,
        lambda inputs, how: placed.generate(moved(inputs), how),
        lambda: sorted(expert.forward.changed),
        lambda: placed.random,
        names_argument(expert.module, "attention_mask"),
        ROUNDING.get(dtype, 5e-2),
        partial(_blame, expert),
    )


def asked_of_copy(expert: Expert, rows: Rows, *, seed: int = 0, whole: bool = False) -> Model | str:
    """Ask a randomly initialised copy, with two blocks if all would take long; or return why there is none.

    Args:
        expert: The task's expert.
        rows: Its rows.
        seed: Random seed of the parameters.
        whole: Keep all blocks.
    """
    tokens = max(tensor.numel() for tensor in rows.batch(rows.by_length(range(len(rows)))[:1]).inputs.values())
    module = expert.module
    if count(module) * tokens > _FULL_DEPTH and not whole:
        short = shortened(module)
        module = short if _runs(expert, short, rows) else module
    if count(module) > LARGEST:
        return (
            f"{expert.kind.architecture}: a copy of it has {count(module) / 1e9:.1f} billion parameters, so only fit "
            "finds out whether its answer to a row depends on the rows beside it."
        )
    state = random_state(module, seed)
    run = Stateless(module, written=small(state))
    return Model(
        expert.kind.architecture,
        partial(_logits, run, expert, module, state),
        torch.no_grad()(partial(Generating(module), state)),
        lambda: sorted(run.changed),
        lambda: run.random,
        names_argument(module, "attention_mask"),
        blame=partial(_blame, expert),
    )


def _blame(expert: Expert, rows: Rows, error: Exception, again: Callable[[Model], object]) -> str:
    """Name the keys of config.json without which a randomly initialised copy can be asked."""

    def attempt(config: PretrainedConfig) -> None:
        question = asked_of_copy(replace(expert, module=built(config, expert.kind.architecture)), rows)
        if not isinstance(question, str):
            again(question)

    file = file_of(getattr(expert.module, "config", None))
    keys = spoilt_keys(file, error, attempt)
    return f"If {', '.join(keys)} in {file} is not that of training, correct it. " if keys else ""


def _runs(expert: Expert, module: torch.nn.Module, rows: Rows) -> bool:
    """Return whether a shortened copy can be run."""
    try:
        _logits(Stateless(module), expert, module, random_state(module), rows.batch([0]).inputs)
    except Exception:  # any class may raise anything
        return False
    return True


@torch.no_grad()
def _logits(
    run: Stateless, expert: Expert, module: torch.nn.Module, state: Mapping[str, Tensor], inputs: Mapping[str, Tensor]
) -> Tensor:
    return predicted(run(state, (), forward_inputs(module, inputs)), expert, inputs)[0]


def _limit(expert: Expert, rows: Rows, max_length: int | None) -> int | None:
    """Return the length to which rows were padded in training, as far as settings and tokenizer tell it."""
    if not isinstance(rows, TextRows | Prompts):
        return None
    limit = token_limit(expert.kind, rows.tokenizer, max_length)
    return limit if limit < _UNLIMITED else None
