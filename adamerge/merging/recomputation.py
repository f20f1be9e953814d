"""Backward passes that refuse modules which run again in them (gradient checkpointing, reversible layers).

`functional_call` gives a module its parameters for the time of the call. What runs again afterwards, to save memory,
reads the module's own parameters instead: the loss is right, and its gradient is not.
"""

import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from torch import OutOfMemoryError, Tensor, autograd, is_grad_enabled, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from adamerge.types import ConfigError

_CUT = "None of the inputs have requires_grad=True"
"""What torch warns of where nothing runs again, and the parameters get no gradient at all."""


def backward(
    loss: Tensor | Sequence[Tensor], gradient: Sequence[Tensor] | None = None, *, retain_graph: bool = False
) -> None:
    """Run a backward pass through a `functional_call`.

    Args:
        loss: A scalar, or tensors.
        gradient: Gradient of each of these tensors.
        retain_graph: As in torch.

    Raises:
        ConfigError: A module with parameters runs again, or the pass fails.

    Example:
        >>> import torch
        >>> x = torch.ones(1, requires_grad=True)
        >>> backward((3 * x).sum())
        >>> x.grad
        tensor([3.])
    """
    hook = register_module_forward_pre_hook(_refuse)
    try:
        autograd.backward(loss, gradient, retain_graph=retain_graph)
    except OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError) as error:  # parameters on the meta device; Reformer asserts training mode
        reason = (str(error).splitlines() or [""])[0]
        raise ConfigError(
            f"the backward pass failed ({reason}). A model that computes activations again during it (gradient "
            "checkpointing) cannot learn with merged parameters: switch that off, or use a data-free method."
        ) from error
    finally:
        hook.remove()


@contextmanager
def without_checkpointing(module: nn.Module) -> Generator[None]:
    """Switch off gradient checkpointing inside the block where a flag of transformers (gradient_checkpointing) does it.

    Most classes ignore the flag in eval mode; some, whose code comes with a checkpoint, do not.

    Raises:
        ConfigError: A module checkpoints what reads the inputs alone in torch's reentrant way, which gives it no
            gradient.
    """
    flagged = [part for part in module.modules() if part.__dict__.get("gradient_checkpointing") is True]
    for part in flagged:
        part.__dict__["gradient_checkpointing"] = False
    try:
        with warnings.catch_warnings():
            if is_grad_enabled():
                warnings.filterwarnings("error", _CUT)
            yield
    except UserWarning as error:
        if not str(error).startswith(_CUT):
            raise
        raise ConfigError(
            f"{type(module).__name__}: expected a gradient for every layer, but gradient checkpointing "
            "(use_reentrant=True) gives none to what reads the inputs alone. Switch it off in the module, or use a "
            "data-free method."
        ) from error
    finally:
        for part in flagged:
            part.__dict__["gradient_checkpointing"] = True


def _refuse(module: nn.Module, inputs: object) -> None:
    if any(True for _ in module.parameters()):
        raise ConfigError(
            f"{type(module).__name__}: expected a module that keeps its activations, but it runs again during the "
            "backward pass (gradient checkpointing or reversible layers), where its gradient would be wrong. Switch "
            "that off in the module (a smaller data.micro_batch saves memory too), or use a data-free method."
        )
