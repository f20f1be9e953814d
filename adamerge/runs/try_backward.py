"""Try the backward pass of every model on a randomly initialised copy, before anything is learned or written."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from adamerge.data.rows import Rows
from adamerge.data.text_rows import Prompts
from adamerge.experts.experts import Experts
from adamerge.experts.model_kind import forward_inputs
from adamerge.experts.predicted import predicted
from adamerge.experts.random_copy import LARGEST, count, random_state, shortened, small
from adamerge.experts.stateless import Stateless
from adamerge.merging.recomputation import backward, without_checkpointing
from adamerge.types import ConfigError


def try_backward(experts: Experts, rows: Mapping[str, Rows]) -> None:
    """Refuse models whose backward pass fails, or would run parts of them again.

    A model that cannot be run forwards is passed over: whoever asks it how rows must be padded says why.

    Args:
        experts: Base and experts; those that share a module are tried once.
        rows: Rows to learn from, by task.

    Raises:
        ConfigError: Names the task and what failed.
    """
    tried: set[nn.Module] = set()
    for task, own in rows.items():
        module = experts.models[task].module
        if module in tried:
            continue
        tried.add(module)
        answered = own.answered([[0]] * len(own)) if isinstance(own, Prompts) else own
        inputs = answered.batch(answered.by_length(range(len(answered)))[-1:]).inputs
        for copy in (shortened(module), module):
            if count(copy) <= LARGEST and (predictions := _predictions(experts, task, copy, inputs)) is not None:
                with _told(task):
                    backward(predictions.float().sum())
                break


def _predictions(experts: Experts, task: str, module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor | None:
    """Run a copy of a task's model forwards, with gradients; None if that fails or leads to none."""
    state = random_state(module)
    learned = {name: nn.Parameter(state[name]) for name in small(state)}  # gradients of vast embeddings are not needed
    run = Stateless(module, written=frozenset(learned))
    try:
        with torch.enable_grad(), _told(task), without_checkpointing(module):
            output = run({**state, **learned}, (), forward_inputs(module, inputs))
        found = predicted(output, experts.models[task], inputs)[0]
    except ConfigError:
        raise
    except Exception:  # any class may raise anything
        return None
    return found if found.requires_grad else None


@contextmanager
def _told(task: str) -> Iterator[None]:
    """Name the task in what refuses its model."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(*(f"{task}: {problem}" for problem in error.problems)) from error
