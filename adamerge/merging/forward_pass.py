"""One forward pass of an expert's module: its arguments, and logits and hidden states among what it returns."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from adamerge.batch import Outputs
from adamerge.experts.experts import Expert
from adamerge.experts.model_kind import forward_inputs, trial
from adamerge.experts.predicted import predicted
from adamerge.merging.recomputation import without_checkpointing
from adamerge.types import ConfigError

Layers: TypeAlias = tuple[int | str, ...]
"""Which hidden states: indices, negative ones from the end, or "middle"."""


def call(
    expert: Expert, run: Callable[[Mapping[str, object]], Any], inputs: Mapping[str, Tensor], layers: Layers
) -> Outputs:
    """Run a forward pass of an expert's module, and return its logits and some hidden states.

    Args:
        expert: The expert.
        run: Runs the module, given keyword arguments.
        inputs: Inputs of a batch.
        layers: Hidden states to return.
    """
    with without_checkpointing(expert.module):
        return outputs_of(run(arguments_of(expert, inputs, layers)), expert, inputs, layers)


def arguments_of(expert: Expert, inputs: Mapping[str, Tensor], layers: Layers) -> dict[str, object]:
    """Return the keyword arguments of a forward pass that returns some hidden states."""
    return {**forward_inputs(expert.module, inputs), **({"output_hidden_states": True} if layers else {})}


def outputs_of(output: object, expert: Expert, inputs: Mapping[str, Tensor], layers: Layers) -> Outputs:
    """Take predictions and some hidden states from what an expert's module returned.

    Args:
        output: What it returned.
        expert: The expert.
        inputs: Inputs of the pass.
        layers: Hidden states to return.
    """
    logits, form = predicted(output, expert, inputs)
    if not layers or isinstance(output, Tensor):
        return Outputs(logits, form=form)
    states, encoded = _hidden_states(output)
    chosen = choose_layers(len(states), layers, encoded)
    hidden = tuple(states[i] for i in chosen)
    return Outputs(logits, hidden, None, tuple(i < encoded for i in chosen), form)


def try_layers(module: torch.nn.Module, inputs: Mapping[str, Tensor], layers: Layers) -> None:
    """Refuse hidden states that a module does not have; no weights are read.

    Raises:
        ConfigError: A layer is out of range, or the module returns no hidden states.
    """
    states, encoded = _hidden_states(trial(module, inputs, hidden=True))
    if not states:
        raise ConfigError(f"objective: {type(module).__name__} returns no hidden states; align with its logits alone.")
    choose_layers(len(states), layers, encoded)


def choose_layers(count: int, layers: Layers, encoded: int = 0) -> tuple[int, ...]:
    """Convert requested layers to indices of hidden states, from 0 on.

    Args:
        count: Number of hidden states.
        layers: Requested layers.
        encoded: Number of hidden states, the first ones, that come from the encoder of an encoder-decoder; "middle" is
            then the encoder's last.

    Raises:
        ConfigError: A layer is out of range.

    Example:
        >>> choose_layers(7, (0, -1, "middle"))
        (0, 6, 3)
    """
    for layer in layers:
        if isinstance(layer, int) and not -count <= layer < count:
            raise ConfigError(
                f"objective: expected layers from {-count} to {count - 1}, found {layer}: the model has {count} hidden "
                "states, that of the embeddings among them."
            )
    middle = encoded - 1 if encoded else count // 2
    return tuple(middle if layer == "middle" else int(layer) % count for layer in layers)


def _hidden_states(output: object) -> tuple[tuple[Tensor, ...], int]:
    """Find the hidden states of encoder or decoder, or both, the encoder's first; and how many are an encoder's."""
    keys = ("encoder_hidden_states", "decoder_hidden_states", "hidden_states")
    encoded, *rest = (getattr(output, key, None) or () for key in keys)
    return (*encoded, *(state for states in rest for state in states)), len(encoded)
