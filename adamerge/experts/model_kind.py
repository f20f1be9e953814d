"""The kind of a model: its main input, its prediction and its number of classes."""

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from types import MethodType
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from adamerge.experts.config_file import file_of
from adamerge.experts.skeleton import built
from adamerge.experts.spoilt_keys import spoilt_keys
from adamerge.experts.stateless import Stateless
from adamerge.storage.regular_files import reason_of
from adamerge.types import ConfigError

Prediction: TypeAlias = Literal["classes", "next token", "masked token"]

OTHER_OUTPUTS = ("start_logits", "text_embeds", "image_embeds", "last_hidden_state")
"""Outputs of models without logits that rows can be compared by: spans, and vectors."""

SMALL = 10**6
"""Number of parameters up to which a module is tried on the CPU first."""

_USABLE = (
    "Rows can be used with classifiers and regressions of texts, tokens or images, models of spans and of vectors, and "
    "language models (…For…Classification, …ForQuestionAnswering, …Model, …ForCausalLM, …ForConditionalGeneration, "
    "…ForMaskedLM): use one of these, or leave out this task's calibration and evaluation and use a data-free method."
)


@dataclass(frozen=True)
class ModelKind:
    """Properties of a model that data, objectives and metrics need; see `kind_of`.

    Attributes:
        architecture: Name of the module's class.
        main_input: Keyword argument of its rows: input_ids, pixel_values; of a plain module its first argument.
        predicts: Classes per row or per token, the next token, or masked tokens.
        encoder_decoder: Whether a decoder reads the states of an encoder.
        decoder_start: Start token of such a decoder.
        class_names: Name of each class by index, from the configuration's id2label, as pipelines read it.
        num_classes: Number of classes; 0 if unknown.
        problem_type: transformers' name of the kind of classification, if the configuration contains it.
        max_positions: Maximum number of tokens per row by the position embeddings; None without a limit.
    """

    architecture: str
    main_input: str = "input_ids"
    predicts: Prediction = "classes"
    encoder_decoder: bool = False
    decoder_start: int | None = None
    class_names: Mapping[int, str] = field(default_factory=dict[int, str])
    num_classes: int = 0
    problem_type: str | None = None
    max_positions: int | None = None

    @property
    def language_model(self) -> bool:
        """Whether it predicts a token at every position."""
        return self.predicts != "classes"


def kind_of(module: nn.Module) -> ModelKind:
    """Read the kind of a model from its class and configuration; no weights are read and the model is not run.

    Args:
        module: Any module; transformers' attributes are optional.

    Returns:
        Its kind.

    Example:
        >>> kind_of(nn.Linear(2, 3)).language_model
        False
    """
    config = getattr(module, "config", None)
    classes = getattr(module, "num_labels", None) or getattr(config, "num_labels", None)
    return ModelKind(
        type(getattr(module, "forwards_to", module)).__name__,
        _main_input(module),
        _prediction(module),
        bool(getattr(config, "is_encoder_decoder", False)),
        getattr(config, "decoder_start_token_id", None),
        {int(index): str(name) for index, name in (getattr(config, "id2label", None) or {}).items()},
        classes or 0,
        getattr(config, "problem_type", None),
        _positions(config, module),
    )


def classes_by_token(module: nn.Module, kind: ModelKind, inputs: Mapping[str, Tensor], task: str) -> bool:
    """Return whether a model outputs logits per token and not per row.

    This runs the model on one row with all parameters zero, on the meta device if possible, so no weights are read.
    Merging without rows requires nothing of a model's output.

    Args:
        module: The task's module; parameters may be on any device.
        kind: Its kind.
        inputs: Any encoded row.
        task: Name of the task in messages.

    Returns:
        Whether logits are (B, S, C), and not (B, C), those of a span or a vector.

    Raises:
        ConfigError: The model cannot be run, or returns nothing that rows can be compared by: logits of classes, labels
            or numbers per row or token, start and end of a span, or a vector.
    """
    return output_by_token(try_out(module, kind, inputs, task), kind, task)


def output_by_token(output: object, kind: ModelKind, task: str) -> bool:
    """Return whether an output is logits per token and not per row; see `classes_by_token`."""
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        if any(isinstance(getattr(output, key, None), Tensor) for key in OTHER_OUTPUTS):
            return False
        unnamed = "Its outputs have no names: remove return_dict and torchscript from config.json, if they are there. "
        more = unnamed if isinstance(output, tuple) else ""
        raise ConfigError(f"{task}: {kind.architecture} returns no logits. {more}{_USABLE}")
    shape = tuple(logits.shape)
    if len(shape) not in (2, 3) or (len(shape) == 3 and kind.main_input != "input_ids"):
        raise ConfigError(
            f"{task}: expected logits per row or token, but those of {kind.architecture} have the shape {shape}. "
            f"{_USABLE}"
        )
    return len(shape) == 3


def trial(module: nn.Module, inputs: Mapping[str, Tensor], *, hidden: bool = False) -> object:
    """Run a module with all parameters zero, on the meta device if possible; no weights are read.

    A small module is run on the CPU first, where its numbers take less time than their shapes on the meta device.

    Args:
        module: The module; parameters may be on any device.
        inputs: Any encoded row.
        hidden: Whether to request hidden states too.

    Returns:
        The module's output.
    """
    if sum(parameter.numel() for parameter in module.parameters()) <= SMALL:
        with suppress(Exception):
            return _trial(module, inputs, "cpu", hidden)
    for masked in masked_alike(inputs):
        with suppress(Exception):  # the module reads values of its inputs, or has tensors that are not buffers
            return _trial(module, masked, "meta", hidden)
    return _trial(module, inputs, "cpu", hidden)


def masked_alike(inputs: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """List batches of the same shapes whose mask can be on the meta device, where a mask of two dimensions is read.

    Without mask first; then with one of all positions, for classes that find out packed rows where there is none.

    Example:
        >>> rows = {"input_ids": torch.ones(1, 3, dtype=torch.long), "attention_mask": torch.ones(1, 3)}
        >>> [{name: tuple(own.shape) for name, own in batch.items()} for batch in masked_alike(rows)]
        [{'input_ids': (1, 3)}, {'input_ids': (1, 3), 'attention_mask': (1, 1, 3, 3)}]
    """
    unmasked = {name: tensor for name, tensor in inputs.items() if name != "attention_mask"}
    tokens = inputs.get("input_ids")
    if tokens is None or tokens.ndim != 2:
        return [unmasked]
    rows, length = tokens.shape
    return [unmasked, {**unmasked, "attention_mask": torch.ones(rows, 1, length, length)}]


def _main_input(module: nn.Module) -> str:
    """Name of the main input; a class that names another one, and takes token ids too (Perceiver), gets token ids."""
    name = getattr(module, "main_input_name", None) or next(iter(forward_arguments(module)), "input_ids")
    return "input_ids" if name == "inputs" and names_argument(module, "input_ids") else name


def _positions(config: object, module: nn.Module) -> int | None:
    """Return the maximum number of tokens by the positions; None without a limit, which XLNet writes as -1.

    Classes such as RoBERTa count positions from `padding_idx` + 1 on, so that 514 positions hold 512 tokens.
    """
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    tables = [part for name, part in module.named_modules() if "position" in name and isinstance(part, nn.Embedding)]
    unused = max((1 + own.padding_idx for own in tables if own.padding_idx is not None), default=0)
    return max(positions - unused, 1)


def _prediction(module: nn.Module) -> Prediction:
    """Find what a model predicts: language models have output embeddings; masked ones cannot generate."""
    embeddings = getattr(module, "get_output_embeddings", None)
    if embeddings is None or embeddings() is None:
        return "classes"
    generates = getattr(module, "can_generate", None)
    return "masked token" if generates is not None and not generates() else "next token"


def try_out(module: nn.Module, kind: ModelKind, inputs: Mapping[str, Tensor], task: str) -> object:
    """Return what `trial` does; a class that cannot be run on such a row is refused."""
    try:
        return trial(module, inputs)
    except Exception as error:
        file = file_of(getattr(module, "config", None))
        keys = spoilt_keys(file, error, lambda config: trial(built(config, kind.architecture), inputs))
        raise ConfigError(
            f"{task}: {kind.architecture} cannot be run on {', '.join(inputs)} ({reason_of(error)}). If "
            f"{', '.join(keys) or 'a value'} in {file} is not that of training, correct it. {_USABLE}"
        ) from error


@torch.no_grad()
def _trial(module: nn.Module, inputs: Mapping[str, Tensor], device: str, hidden: bool) -> object:
    meta, shapes = device == "meta", {name: parameter.shape for name, parameter in module.named_parameters()}
    zeros = torch.zeros(max((shape.numel() for shape in shapes.values()), default=0), device=device)
    # Zeros on meta take no memory, so a pass may write into its own; elsewhere all are views, with real strides.
    state = {n: torch.zeros(s, device=device) if meta else zeros[: s.numel()].view(s) for n, s in shapes.items()}
    state |= {name: buffer.to(device) for name, buffer in module.named_buffers()}
    extra = {"output_hidden_states": True} if hidden else {}
    given = forward_inputs(module, {name: tensor.to(device) for name, tensor in inputs.items()})
    return Stateless(module, written=None if meta else frozenset())(state, (), {**given, **extra})


def accepted(module: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the attention mask and the segment ids if a module's forward pass does not take them.

    Args:
        module: The module.
        inputs: Keyword arguments for its forward pass.

    Returns:
        The inputs; others that it does not take are left for it to complain about.
    """
    ours = {"attention_mask", "token_type_ids"}
    return {name: tensor for name, tensor in inputs.items() if name not in ours or takes(module, name)}


def forward_inputs(module: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, object]:
    """Return the keyword arguments of a forward pass: the accepted inputs, and no cache, which is for generation.

    In eval mode classes make a cache by default; RWKV writes into it in place, so that there is no gradient.

    Args:
        module: The module.
        inputs: The inputs.
    """
    return {**accepted(module, inputs), **({"use_cache": False} if names_argument(module, "use_cache") else {})}


def logits_of(output: object) -> Tensor:
    """Return the logits among a module's outputs.

    Raises:
        ConfigError: There are none.
    """
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise ConfigError(f"expected logits, found {type(output).__name__}. {_USABLE}")
    return logits


def names_argument(module: nn.Module, name: str) -> bool:
    """Return whether a module's forward pass has an argument of this name.

    Example:
        >>> names_argument(nn.Linear(1, 1), "input")
        True
    """
    return name in forward_arguments(module)


def takes(module: nn.Module, name: str) -> bool:
    """Return whether a module's forward pass has an argument of this name, or takes any.

    Example:
        >>> takes(nn.Linear(1, 1), "input"), takes(nn.Linear(1, 1), "attention_mask")
        (True, False)
    """
    arguments = forward_arguments(module)
    return name in arguments or any(argument.kind is argument.VAR_KEYWORD for argument in arguments.values())


def forward_arguments(module: nn.Module) -> Mapping[str, inspect.Parameter]:
    """Return the arguments of a module's forward pass by name; of a wrapper those of the module that it runs."""
    module = getattr(module, "forwards_to", module)
    function = getattr(module.forward, "__func__", None)
    return inspect.signature(module.forward).parameters if function is None else _without_self(function)


@cache
def _without_self(function: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(MethodType(function, object())).parameters
