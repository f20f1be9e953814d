"""The module of a checkpoint without its weights, built by transformers from the configuration."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import transformers
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.initialization import guard_torch_init_functions

from adamerge.experts.config_file import file_of, numbers
from adamerge.experts.spoilt_keys import spoilt_keys
from adamerge.storage.regular_files import reason_of
from adamerge.types import ConfigError, IncompatibleExpertsError

MOST_PARAMETERS = 2**16
"""Number of parameters above which a module is not built: each is a tensor by name, and they are made one by one."""


def skeleton(config: PretrainedConfig, architecture: str, *, trust_remote_code: bool = False) -> nn.Module:
    """Build the module of a checkpoint in eval mode: buffers are allocated, parameters are on the meta device.

    Args:
        config: The configuration of the checkpoint.
        architecture: Name of the model class.
        trust_remote_code: Whether Python code beside the weights may run.

    Raises:
        ConfigError: transformers has no class of this name, or cannot build it.
        IncompatibleExpertsError: The module has more parameters than `MOST_PARAMETERS`.
    """
    file = file_of(config)
    try:
        return built(config, architecture, trust_remote_code=trust_remote_code)
    except (ConfigError, IncompatibleExpertsError):
        raise
    except Exception as error:  # transformers raises anything
        keys = spoilt_keys(file, error, lambda one: built(one, architecture)) if not trust_remote_code else []
        place = f"{file}: {', '.join(keys)}" if keys else file
        raise ConfigError(
            f"{place}: expected the configuration of a {architecture}, but transformers cannot build one from it "
            f"({reason_of(error)}). Correct it, or copy or download it again."
        ) from error


def built(config: PretrainedConfig, architecture: str, *, trust_remote_code: bool = False) -> nn.Module:
    """Build a module as `skeleton` does, where transformers may raise anything.

    Args:
        config: As for `skeleton`.
        architecture: As for `skeleton`.
        trust_remote_code: As for `skeleton`.
    """
    config, file = copy.deepcopy(config), file_of(config)
    auto_map = getattr(config, "auto_map", None)
    with parameters_on_meta(), _at_most(MOST_PARAMETERS, config, file):
        for auto, reference in (auto_map if isinstance(auto_map, dict) and trust_remote_code else {}).items():
            if str(reference).endswith("." + architecture):
                return _allocated(getattr(transformers, auto).from_config(config, trust_remote_code=True))
        if architecture == "AutoModel":
            return _allocated(transformers.AutoModel.from_config(config))
        return _allocated(_class_of(architecture, file)._from_config(config, dtype=torch.float32))


def _class_of(architecture: str, file: str) -> type[PreTrainedModel]:
    """Find transformers' class of a model by the name that a file gives."""
    cls = getattr(transformers, architecture, None)
    if not (isinstance(cls, type) and issubclass(cls, PreTrainedModel)):
        raise ConfigError(
            f"{file} names the architecture {architecture}, which transformers {transformers.__version__} does "
            "not have. If its code is beside the weights, set trust_remote_code: true; otherwise update transformers."
        )
    return cls


def _allocated(module: nn.Module) -> nn.Module:
    """Put a module into eval mode, and allocate buffers that it made after its parameters, with `zeros_like`."""
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            if buffer.is_meta:
                part.register_buffer(
                    name, torch.zeros_like(buffer, device="cpu"), name not in part._non_persistent_buffers_set
                )
    return module.eval()


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Build modules inside the block with parameters on the meta device and allocated buffers.

    `torch.device("meta")` would also move buffers, and those that no checkpoint stores (rotary frequencies) be lost.
    """
    with _registered_as(_on_meta), guard_torch_init_functions():
        yield


def _on_meta(parameter: nn.Parameter | None) -> nn.Parameter | None:
    if parameter is None or parameter.is_meta:  # one that is on meta already may be tied: keep it
        return parameter
    moved = nn.Parameter(parameter.to("meta"), parameter.requires_grad)
    moved._is_hf_initialized = True  # pyright: ignore # no numbers are drawn that are not kept
    return moved


@contextmanager
def _at_most(most: int, config: PretrainedConfig, file: str) -> Iterator[None]:
    """Stop building modules inside the block when there are too many: a count in config.json may be anything.

    Raises:
        IncompatibleExpertsError: More parameters than that were registered.
    """
    left = most

    def counted(parameter: nn.Parameter | None) -> nn.Parameter | None:
        nonlocal left
        left -= 1
        if left < 0:
            key, number = max(numbers(config.to_dict()), key=lambda one: one[1])
            raise IncompatibleExpertsError(
                f"{file}: expected a model of at most {most} parameters (tensors by name), found more. Correct the "
                f"counts of its layers; the largest number in the file is {key}: {number}."
            )
        return parameter

    with _registered_as(counted):
        yield


@contextmanager
def _registered_as(change: Callable[[nn.Parameter | None], nn.Parameter | None]) -> Iterator[None]:
    """Let modules inside the block register what a function makes of each parameter."""
    register = nn.Module.register_parameter

    def register_changed(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, change(parameter))

    nn.Module.register_parameter = register_changed  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        nn.Module.register_parameter = register
