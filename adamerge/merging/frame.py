"""The code of a model around its blocks: a copy without parameters, whose blocks hand over their calls."""

# pyright: standard

import copy
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, NamedTuple, Self, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from adamerge.experts.module_contents import Contents, contents_of, unchanged
from adamerge.merging.turns import HandOver, Turns
from adamerge.types import ConfigError


class ReadOutsideError(RuntimeError):
    """A model reads a parameter of a block from outside the block.

    Attributes:
        name: The parameter's name in the module.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is read from outside its module")
        self.name = name


class Absent(torch.Tensor):
    """A parameter of which only shape, dtype and device exist.

    Example:
        >>> weight = Absent.of("weight", torch.Size([2, 3]), torch.float32, torch.device("cpu"))
        >>> weight.shape, weight.dtype
        (torch.Size([2, 3]), torch.float32)
        >>> weight + 1
        Traceback (most recent call last):
        adamerge.merging.frame.ReadOutsideError: weight is read from outside its module
    """

    full_name: str

    @classmethod
    def of(cls, name: str, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Self:
        """Make one."""
        absent = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=device)  # pyright: ignore
        absent.full_name = name
        return absent

    @classmethod
    @override
    def __torch_dispatch__(
        cls, func: object, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> object:
        for value in (*args, *(kwargs or {}).values()):
            for one in value if isinstance(value, list | tuple) else [value]:
                if isinstance(one, Absent):
                    raise ReadOutsideError(one.full_name)
        raise ReadOutsideError("a parameter")


@dataclass(frozen=True)
class Surroundings:
    """Settings of torch that belong to a thread: whether there are gradients, and mixed precision.

    Attributes:
        device: Type of the device of the computation.
        gradients: Whether gradients are recorded.
        autocast: Whether autocast is on.
        dtype: Its dtype.
        cached: Whether it keeps what it casts.
    """

    device: str
    gradients: bool
    autocast: bool
    dtype: torch.dtype
    cached: bool

    @classmethod
    def now(cls, device: str) -> Self:
        """Return the settings of the calling thread."""
        return cls(
            device,
            torch.is_grad_enabled(),
            torch.is_autocast_enabled(device),
            torch.get_autocast_dtype(device),
            torch.is_autocast_cache_enabled(),
        )

    @contextmanager
    def again(self, gradients: bool | None = None) -> Generator[None]:
        """Apply them inside the block; `gradients` overrides whether gradients are recorded."""
        with (
            torch.set_grad_enabled(self.gradients if gradients is None else gradients),
            torch.autocast(self.device, dtype=self.dtype, enabled=self.autocast, cache_enabled=self.cached),
        ):
            yield


class Call(NamedTuple):
    """A call of a block.

    Attributes:
        path: Path of the block in its module.
        args: Arguments.
        kwargs: Keyword arguments.
        surroundings: Settings of torch where it is called.
    """

    path: str
    args: tuple[object, ...]
    kwargs: dict[str, object]
    surroundings: Surroundings


class Frame:
    """A copy of a module whose blocks hand over their calls instead of running; it serves one pass at a time.

    Args:
        module: The module.
        around: Paths of the modules around blocks (`blocks.frames`).
        dtype: Floating-point dtype that parameters seem to have.
        device: Device that parameters seem to be on.

    Raises:
        ConfigError: The module cannot be copied.
    """

    def __init__(self, module: nn.Module, around: frozenset[str], dtype: torch.dtype, device: torch.device) -> None:
        self._device = device
        self._absent = {
            name: Absent.of(name, own.shape, dtype if own.is_floating_point() else own.dtype, device)
            for name, own in module.named_parameters()
        }
        self.module = _copied(module, around, self._absent)
        self._modules = tuple(self.module.named_modules())
        self._blocks = tuple(path for path, part in self._modules if path not in around and _has_parameters(part))
        self._hand_over: HandOver[Call] | None = None
        self._contents: Contents | None = None
        self._filled: dict[str, Tensor] = {}
        self._versions: list[tuple[str, Tensor, int]] = []
        for path in self._blocks:
            part = self.module.get_submodule(path)
            part.forward = self._stand_in(path, part.forward)

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Give the module some tensors, by their names in it, until `empty`."""
        self._versions = [(name, tensor, tensor._version) for name, tensor in tensors.items()]
        self._filled = {name: self._put(name, tensor) for name, tensor in tensors.items()}

    def empty(self) -> None:
        """Take back what `fill` gave."""
        for name, tensor in self._filled.items():
            self._put(name, tensor)
        self._filled, self._versions = {}, []

    def _put(self, name: str, tensor: Tensor) -> Tensor:
        """Put a parameter or buffer in the place of another one, and return that."""
        owner, leaf = _owner(self.module, name)
        held = owner._parameters if leaf in owner._parameters else owner._buffers
        former = cast(Tensor, held[leaf])
        held[leaf] = tensor  # pyright: ignore
        return former

    def run(self, inputs: Mapping[str, object], *, gradients: bool) -> Turns[Call, object]:
        """Begin a forward pass, which hands over the call of every block.

        Args:
            inputs: Keyword arguments of the module.
            gradients: Whether gradients are recorded.
        """
        return Turns(partial(self._run, inputs, Surroundings.now(self._device.type), gradients))

    def _run(
        self, inputs: Mapping[str, object], surroundings: Surroundings, gradients: bool, hand_over: HandOver[Call]
    ) -> object:
        self._hand_over = hand_over
        found = contents_of(self._modules, self._contents)
        self._contents = found._replace(kept=[one for one in found.kept if one.key != "_parameters"])  # as `fill` gives
        with surroundings.again(gradients), unchanged(self.module, self._modules, self._contents) as changed:
            output = self.module(**inputs)
        blocks = tuple(f"{path}." for path in self._blocks)
        for name in changed:
            if (
                name.startswith(blocks) and "_hooks" not in name
            ):  # hooks of the copy run where the copy's block is called
                raise refusal(self.module, f"changes its own blocks in a forward pass ({name})")
        for name, tensor, version in self._versions:
            if tensor._version != version:
                raise refusal(self.module, f"changes its own parameters in a forward pass ({name})")
        return output

    def _stand_in(self, path: str, forward: Callable[..., object]) -> Callable[..., object]:
        @wraps(forward)  # some models look at the arguments of their blocks
        def stand_in(*args: object, **kwargs: object) -> object:
            assert self._hand_over is not None
            return self._hand_over(Call(path, args, kwargs, Surroundings.now(self._device.type)))

        return stand_in


def refusal(module: nn.Module, what: str) -> ConfigError:
    """Build the error of a model that cannot be run block by block."""
    return ConfigError(
        f"memory: streamed: expected a model that can be run one block at a time, but {type(module).__name__} {what}. "
        "Set memory: mapped."
    )


def _copied(module: nn.Module, around: frozenset[str], absent: Mapping[str, Tensor]) -> nn.Module:
    """Copy a module without its parameters and the buffers of its blocks."""
    kept: dict[int, Any] = {id(own): absent[name] for name, own in module.named_parameters()}
    kept |= {id(own): own for name, own in module.named_buffers() if name.rpartition(".")[0] not in around}
    try:
        made = copy.deepcopy(module, kept)
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise refusal(module, f"cannot be copied ({error})") from error
    for path, part in made.named_modules():
        part.__dict__.pop("_output_capturing_hooks_installed", None)  # transformers installs its hooks again
        if part.__dict__.get("gradient_checkpointing") is True:
            part.__dict__["gradient_checkpointing"] = False
        if getattr(part.__dict__.get("config"), "use_cache", False):
            part.config.use_cache = False  # pyright: ignore - a cache is for generation
        for hooks in (part._forward_hooks, part._forward_pre_hooks):
            for key, hook in list(hooks.items()):  # the blocks' own hooks run with the blocks
                if path not in around or getattr(hook, "__module__", "").startswith("transformers."):
                    del hooks[key]
    return made


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())
