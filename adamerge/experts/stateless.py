"""Run a module on given parameters so that the pass changes neither the module, nor the parameters, nor random states.

Some modules change themselves in a forward pass: BigBird replaces its attention at the first short row, RWKV scales two
matrices of its deeper layers. The next batch would then get another model than the first.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from adamerge.experts.known_writes import known_writes, remember_writes
from adamerge.experts.module_contents import contents_of, unchanged
from adamerge.experts.one_block import copies
from adamerge.experts.opaque_states import version_of
from adamerge.experts.random_numbers import same_other_numbers, same_random_numbers
from adamerge.types import ConfigError, Parameters

WATCHED = 8
"""Passes that are watched for draws from Python's and numpy's generators, which takes half a millisecond for each."""


class Stateless:
    """Runs one module, always as it was when this object was made.

    Args:
        module: The module, put into eval mode; its parameters may be on the meta device.
        seed: Seed of the random numbers that every pass draws; None leaves the random state as it is.
        written: Parameters that a pass changes; None finds them in the first pass, during which copies are kept.

    Attributes:
        changed: Names of what passes changed in the module, its buffers and its parameters; all are restored.
        random: Whether a pass drew random numbers.
        elsewhere: Whether one of the first passes drew some from Python or numpy; only then later passes are seeded so.

    Example:
        >>> class Counts(nn.Linear):
        ...     calls = 0
        ...     def forward(self, input):
        ...         self.calls += 1
        ...         return super().forward(input) * self.calls
        >>> run = Stateless(Counts(1, 1, bias=False))
        >>> state = {"weight": torch.ones(1, 1)}
        >>> [run(state, (torch.ones(1, 1),)).item() for _ in range(2)], sorted(run.changed)
        ([1.0, 1.0], ['calls'])
    """

    def __init__(self, module: nn.Module, seed: int | None = 0, written: frozenset[str] | None = None) -> None:
        self._module, self._seed, self._written = module.eval(), seed, written  # dropout would add randomness
        self._modules = tuple(module.named_modules())
        self._contents = contents_of(self._modules)
        self._parameters = frozenset(name for name, _ in module.named_parameters())
        self.changed: set[str] = set()
        self.random = self.elsewhere = False
        self._watched = 0 if seed is None else WATCHED

    def __call__(
        self, state: Parameters, args: Sequence[object] = (), inputs: Mapping[str, object] | None = None
    ) -> Any:  # noqa: ANN401 - whatever the module returns
        """Run a forward pass.

        The first pass finds the parameters that the module changes; later passes run on copies of these. If a pass
        multiplies a parameter by a number, the gradient is multiplied by it too.

        Args:
            state: Parameters and buffers under the module's names; the module's own buffers are the default.
            args: Arguments.
            inputs: Keyword arguments.

        Returns:
            What the module returns.

        Raises:
            ConfigError: The pass changes a parameter in a way whose gradient is unknown, or one that the first pass
                did not change.
        """
        if self._written is None:
            self._written = known_writes(self._module)
        if self._written is None:
            output = self._first(state, args, inputs)
            if not self._written:
                return output
        return self._pass(state, args, inputs)

    def _first(self, state: Parameters, args: Sequence[object], inputs: Mapping[str, object] | None) -> Any:  # noqa: ANN401
        """Run a pass to find the parameters that it changes, and restore them.

        Copies are kept meanwhile, as much as the state itself, so it is done once for all modules of one class and
        configuration: before any of their tasks has a gradient.
        """
        own = {name: tensor for name, tensor in state.items() if name in self._parameters}
        versions = {name: version_of(tensor) for name, tensor in own.items()}
        kept = copies(own, {name: tensor.dtype for name, tensor in own.items()}, _device(own))
        written: set[str] = set()
        try:
            output = self._pass(state, args, inputs)
        finally:
            for name, copy in kept.items():
                if version_of(own[name]) != versions[name] or not _equal(own[name], copy):
                    written.add(name)
                    with torch.no_grad():
                        own[name].copy_(copy)
        self._written = frozenset(written)
        self.changed |= written
        if not any(tensor.is_meta for tensor in own.values()):  # where only changes in place are seen
            remember_writes(self._module, self._written)
        return output

    def _pass(self, state: Parameters, args: Sequence[object], inputs: Mapping[str, object] | None) -> Any:  # noqa: ANN401
        self._contents = contents_of(self._modules, self._contents)
        given = self._copies(state)
        versions = {name: version_of(tensor) for name, tensor in given.items()}
        with (
            unchanged(self._module, self._modules, self._contents) as changed,
            same_random_numbers(self._seed, _device(given)) as drawn,
            self._seeded_elsewhere() as elsewhere,
        ):
            output = functional_call(
                self._module,
                used := dict(given),
                tuple(args),
                dict(inputs or {}),
                tie_weights=self._contents.tied,
            )
        self._watched -= self._watched > 0
        self.elsewhere |= elsewhere()
        self.random |= drawn() or self.elsewhere
        self.changed.update(changed)
        touched = {n for n, tensor in given.items() if used[n] is not tensor or version_of(tensor) != versions[n]}
        self.changed |= touched
        if self._written is not None:
            self._account(state, given, touched)
        return output

    def _seeded_elsewhere(self) -> AbstractContextManager[Callable[[], bool]]:
        seeded = self._seed is not None and (self.elsewhere or self._watched)
        return same_other_numbers(self._seed or 0) if seeded else nullcontext(lambda: False)

    def _copies(self, state: Parameters) -> dict[str, Tensor]:
        """Copy the buffers, and the parameters that a pass changes."""
        buffers = self._contents.buffers
        copied = {name: buffer.clone() for name, buffer in {**buffers, **state}.items() if name in buffers}
        return {**state, **copied, **{name: state[name].clone() for name in (self._written or ()) if name in state}}

    def _account(self, state: Parameters, given: Parameters, touched: set[str]) -> None:
        """Correct the gradient of parameters that a pass changed; refuse any that the first one did not change."""
        written = self._written or frozenset()
        new = sorted((touched & self._parameters & state.keys()) - written)
        if new:
            raise ConfigError(
                f"{type(self._module).__name__}: expected a forward pass that leaves its parameters as they are, or "
                f"changes the same ones in every pass, but this pass changed {', '.join(new[:3])} in place, which the "
                "first pass did not. Change the module so that it works on copies."
            )
        for name in sorted(written & state.keys()):
            if given[name].requires_grad:
                _scale_gradient(type(self._module).__name__, name, state[name].detach(), given[name])


def _scale_gradient(module: str, name: str, before: Tensor, used: Tensor) -> None:
    """Multiply the gradient of a parameter by the number that the pass multiplied the parameter by.

        w' = s·w  ⇒  ∂L/∂w = s·∂L/∂w'

    Raises:
        ConfigError: The change is not a multiplication.
    """
    after = used.detach()
    place = before.abs().argmax()
    scale = (after.flatten()[place] / before.flatten()[place]).item() if before.abs().max() > 0 else 1.0
    if not torch.allclose(after, scale * before, rtol=1e-5, atol=0.0):
        raise ConfigError(
            f"{module}: its forward pass changes the parameter {name} in place, by more than a factor, so the gradient "
            "of the merged parameter is unknown. Use a data-free method, or change the module so that it works on a "
            "copy."
        )
    gradient: Callable[[Tensor], Tensor] = lambda g: g * scale  # noqa: E731
    used.register_hook(gradient)


def _equal(one: Tensor, two: Tensor) -> bool:
    return one.is_meta or torch.equal(one.detach(), two.detach())


def _device(state: Parameters) -> torch.device:
    return next(iter(state.values())).device if state else torch.device("cpu")
