"""Generate with given parameters by the `generate` of a module's class."""

from collections.abc import Mapping
from typing import Protocol, cast

import torch
from torch import Tensor
from transformers import GenerationConfig

from adamerge.experts.model_kind import accepted
from adamerge.experts.stateless import Stateless
from adamerge.types import Parameters


class Generating:
    """Generates with given parameters by the `generate` of a module's class.

    Which parameters a pass changes is found in the first call, during which there are copies of all: use one object for
    all batches.

    Args:
        module: The module.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._module, self._run = module, Stateless(_Generator(module), seed=None)

    def __call__(self, state: Parameters, inputs: Mapping[str, Tensor], how: GenerationConfig) -> Tensor:
        """Generate.

        Args:
            state: Parameters and buffers under the module's names.
            inputs: Prompts.
            how: Options of generation.

        Returns:
            What `generate` returns: token ids (B, S), unless `how` requests more.
        """
        wrapped = {f"{_Generator.PREFIX}{name}": tensor for name, tensor in state.items()}
        return self._run(wrapped, (accepted(self._module, inputs), how))


class _Generates(Protocol):
    """What is used of a transformers model that generates."""

    generation_config: GenerationConfig | None

    def generate(self, **inputs: Tensor) -> Tensor: ...


class _Generator(torch.nn.Module):
    """Wrap a module so that its forward pass is its `generate`."""

    PREFIX = "model."

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.model = module

    def forward(self, inputs: Mapping[str, Tensor], how: GenerationConfig) -> Tensor:
        module = cast(_Generates, self.model.eval())
        own, module.generation_config = module.generation_config, how  # it would fill in what `how` leaves open
        try:
            return module.generate(**inputs)
        finally:
            module.generation_config = own
