"""What a module says of a row: one thing, one a token, or which token follows."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from adamerge.types import ConfigError

_WORKING = "Experts must be classifiers of texts, tokens or images, or language models: …For…Classification, \
…ForCausalLM, …ForConditionalGeneration, …ForMaskedLM."


def takes_images(module: nn.Module) -> bool:
    """Whether a module's main input is an image rather than text."""
    return getattr(module, "main_input_name", "input_ids") == "pixel_values"


def speaks(module: nn.Module) -> bool:
    """Whether a module says something at every position: language models do, classifiers say one thing a row."""
    embeddings = getattr(module, "get_output_embeddings", None)
    return embeddings is not None and embeddings() is not None


def fills_in(module: nn.Module) -> bool:
    """Whether a language model reads the words on both sides: it cannot generate, and perplexity means nothing."""
    generates = getattr(module, "can_generate", None)
    return speaks(module) and generates is not None and not generates()


def classes_by_token(module: nn.Module, inputs: Mapping[str, Tensor], task: str) -> bool:
    """Whether a module says something of each token, rather than one thing a row.

    Found by running it with all parameters zero, on the meta device where it can be: no weights are read.

    Args:
        module: The task's, its parameters on any device.
        inputs: Some row as it takes it.
        task: For messages.

    Raises:
        ConfigError: It cannot be run, or what it says are not logits of at least two classes that exclude each other
            (a regression, a multi-label classifier).
    """
    kind = type(module).__name__
    try:
        output = trial(module, inputs)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{task}: {kind} cannot be run on {', '.join(inputs)} ({reason}). {_WORKING}") from error
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise ConfigError(f"{task}: {kind} returns no logits. {_WORKING}")
    shape = tuple(logits.shape)
    if len(shape) not in (2, 3) or (len(shape) == 3 and takes_images(module)):
        raise ConfigError(f"{task}: expected logits for each row or token, but those of {kind} are {shape}. {_WORKING}")
    problem = getattr(getattr(module, "config", None), "problem_type", None)
    if shape[-1] < 2 or problem == "regression":
        raise ConfigError(
            f"{task}: expected at least two classes, but {kind} is a regression (num_labels: {shape[-1]}, "
            f"problem_type: {problem}); entropy, agreement and accuracy mean nothing there. {_WORKING}"
        )
    if problem == "multi_label_classification":
        raise ConfigError(
            f"{task}: expected classes of which a row has one, but {kind} says of each by itself whether it applies "
            f"(problem_type: {problem}); the entropy of a softmax, agreement and accuracy mean nothing there. "
            f"{_WORKING}"
        )
    return len(shape) == 3


def trial(module: nn.Module, inputs: Mapping[str, Tensor], *, hidden: bool = False) -> object:
    """What a module returns with all parameters zero, on the meta device where it can be: no weights are read.

    Args:
        module: Its parameters may be on any device.
        inputs: Some row as it takes it.
        hidden: Whether to ask for hidden states too.
    """
    try:
        seen = {name: tensor for name, tensor in inputs.items() if name != "attention_mask"}  # changes no shape
        return _trial(module, seen, "meta", hidden)
    except Exception:  # it looks into its inputs, or keeps tensors that are no buffers
        return _trial(module, inputs, "cpu", hidden)


@torch.no_grad()
def _trial(module: nn.Module, inputs: Mapping[str, Tensor], device: str, hidden: bool) -> object:
    zero = torch.zeros((), device=device)
    state = {name: zero.expand(parameter.shape) for name, parameter in module.named_parameters()}
    state |= {name: buffer.to(device) for name, buffer in module.named_buffers()}
    module.eval()
    extra = {"output_hidden_states": True} if hidden else {}
    return functional_call(module, state, (), {**{name: t.to(device) for name, t in inputs.items()}, **extra})
