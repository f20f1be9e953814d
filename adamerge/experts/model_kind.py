"""What kind of model this is: what it reads, what it predicts, and with how many classes."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call

from adamerge.types import ConfigError

Prediction: TypeAlias = Literal["classes", "next token", "masked token"]

_WORKING = "Experts must be classifiers of texts, tokens or images, or language models: …For…Classification, \
…ForCausalLM, …ForConditionalGeneration, …ForMaskedLM."


@dataclass(frozen=True)
class ModelKind:
    """What data, objectives and metrics need to know of a model; see `kind_of`.

    Attributes:
        architecture: Name of the module's class.
        main_input: Which keyword argument its rows are given by: input_ids, pixel_values; of a plain module the first.
        predicts: The classes of a row or of each token; the next token; or a token whose both sides are read.
        encoder_decoder: Whether a decoder reads the states of an encoder.
        decoder_start: Token that such a decoder starts with.
        classes: Index of each class by name, as far as the configuration names them.
        num_classes: How many classes there are; 0 where that is not known.
        problem_type: transformers' word for what the classes mean, if the configuration says.
        max_positions: Tokens per row that the position embeddings allow; None where nothing limits them.
    """

    architecture: str
    main_input: str = "input_ids"
    predicts: Prediction = "classes"
    encoder_decoder: bool = False
    decoder_start: int | None = None
    classes: Mapping[str, int] = field(default_factory=dict[str, int])
    num_classes: int = 0
    problem_type: str | None = None
    max_positions: int | None = None

    @property
    def language_model(self) -> bool:
        """Whether it predicts a token at every position."""
        return self.predicts != "classes"


def kind_of(module: nn.Module) -> ModelKind:
    """Read the kind of a model from its class and its configuration; no weights are read, nothing is run.

    Example:
        >>> kind_of(nn.Linear(2, 3)).language_model
        False
    """
    config = getattr(module, "config", None)
    classes = getattr(module, "num_labels", None) or getattr(config, "num_labels", None)
    return ModelKind(
        type(module).__name__,
        getattr(module, "main_input_name", None) or _first_argument(module),
        _prediction(module),
        bool(getattr(config, "is_encoder_decoder", False)),
        getattr(config, "decoder_start_token_id", None),
        getattr(config, "label2id", None) or {},
        classes or 0,
        getattr(config, "problem_type", None),
        getattr(config, "max_position_embeddings", None),
    )


def classes_by_token(module: nn.Module, kind: ModelKind, inputs: Mapping[str, Tensor], task: str) -> bool:
    """Whether a model gives logits for each token, rather than once per row.

    Only a row can tell: the model runs on one with all parameters zero, on the meta device where possible, so that no
    weights are read. Merging without rows asks nothing of what a model returns.

    Args:
        module: The task's, its parameters on any device.
        kind: Its kind.
        inputs: Some row as the module takes it.
        task: For messages.

    Raises:
        ConfigError: The model cannot be run, or does not return logits of at least two classes that exclude each other
            (a regression, a multi-label classifier).
    """
    logits = _logits(module, kind, inputs, task)
    shape, problem = tuple(logits.shape), kind.problem_type
    if len(shape) not in (2, 3) or (len(shape) == 3 and kind.main_input != "input_ids"):
        raise ConfigError(
            f"{task}: expected logits for each row or token, but those of {kind.architecture} are {shape}. {_WORKING}"
        )
    if shape[-1] < 2 or problem == "regression":
        raise ConfigError(
            f"{task}: expected at least two classes, but {kind.architecture} is a regression (num_labels: "
            f"{shape[-1]}, problem_type: {problem}); entropy, agreement and accuracy mean nothing there. {_WORKING}"
        )
    if problem == "multi_label_classification":
        raise ConfigError(
            f"{task}: expected classes that exclude each other, but {kind.architecture} predicts for each by itself "
            f"whether it applies (problem_type: {problem}); the entropy of a softmax, agreement and accuracy mean "
            f"nothing there. {_WORKING}"
        )
    return len(shape) == 3


def trial(module: nn.Module, inputs: Mapping[str, Tensor], *, hidden: bool = False) -> object:
    """Run a module with all parameters zero, on the meta device where possible: no weights are read.

    Args:
        module: Its parameters may be on any device.
        inputs: Some row as it takes it.
        hidden: Whether to ask for hidden states too.

    Returns:
        Whatever the module returns.
    """
    try:
        seen = {name: tensor for name, tensor in inputs.items() if name != "attention_mask"}  # changes no shape
        return _trial(module, seen, "meta", hidden)
    except Exception:  # it looks into its inputs, or keeps tensors that are no buffers
        return _trial(module, inputs, "cpu", hidden)


def _first_argument(module: nn.Module) -> str:
    """Name of the first argument of a plain module's forward pass."""
    return next(iter(inspect.signature(module.forward).parameters), "input_ids")


def _prediction(module: nn.Module) -> Prediction:
    """Language models have output embeddings; those that read both sides of a token cannot generate."""
    embeddings = getattr(module, "get_output_embeddings", None)
    if embeddings is None or embeddings() is None:
        return "classes"
    generates = getattr(module, "can_generate", None)
    return "masked token" if generates is not None and not generates() else "next token"


def _logits(module: nn.Module, kind: ModelKind, inputs: Mapping[str, Tensor], task: str) -> Tensor:
    try:
        output = trial(module, inputs)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"{task}: {kind.architecture} cannot be run on {', '.join(inputs)} ({reason}). {_WORKING}"
        ) from error
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise ConfigError(f"{task}: {kind.architecture} returns no logits. {_WORKING}")
    return logits


@torch.no_grad()
def _trial(module: nn.Module, inputs: Mapping[str, Tensor], device: str, hidden: bool) -> object:
    zero = torch.zeros((), device=device)
    state = {name: zero.expand(parameter.shape) for name, parameter in module.named_parameters()}
    state |= {name: buffer.to(device) for name, buffer in module.named_buffers()}
    module.eval()
    extra = {"output_hidden_states": True} if hidden else {}
    return functional_call(module, state, (), {**{name: t.to(device) for name, t in inputs.items()}, **extra})
