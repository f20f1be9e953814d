"""Which weights a class reads itself, without calling their layer: factors of PEFT have no effect there.

PEFT puts the factors of a layer into its call, B A x + W x, and leaves W as it is. A class that computes with
`self.layer.weight` computes without them; once they are merged, it computes with them.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adamerge.experts.from_modules import emptied
from adamerge.experts.known_writes import like
from adamerge.experts.made_up_inputs import made_up_inputs
from adamerge.experts.model_kind import trial
from adamerge.experts.random_copy import LARGEST, count, shortened, unnumbered


class Reads(NamedTuple):
    """What a trial pass of a class has read; names of parameters are without the numbers of blocks.

    Attributes:
        called: Parameters that their own layer has read.
        elsewhere: Those that another module has read, with the name of its class.
    """

    called: frozenset[str]
    elsewhere: Mapping[str, str]

    def reached(self, name: str) -> bool:
        """Return whether a parameter was read at all."""
        return unnumbered(name) in self.called or self.reader(name) is not None

    def reader(self, name: str) -> str | None:
        """Name the class that reads a parameter elsewhere than in a call of its layer."""
        return self.elsewhere.get(unnumbered(name))


_FOUND: WeakKeyDictionary[type[nn.Module], dict[str, Reads]] = WeakKeyDictionary()


def reads_of(module: nn.Module) -> Reads:
    """Find out what a class reads, in a pass on made-up inputs with all parameters 0; no weights are read.

    Args:
        module: A model of transformers; parameters may be on any device.

    Returns:
        What was read; nothing if the class can be run on none of these inputs.
    """
    known = _FOUND.setdefault(type(module), {})
    if (settings := like(module)) not in known:
        known[settings] = _of_trial(module)
    return known[settings]


def _of_trial(module: nn.Module) -> Reads:
    short = shortened(module)
    for one in (short, emptied(module)):
        if count(one) > LARGEST and one is not short:
            break
        for inputs in made_up_inputs(one):
            with suppress(Exception):  # a class that needs other inputs, or as many blocks as its configuration says
                watch = _Watch(one)
                with watch:
                    trial(one, inputs)
                return Reads(frozenset(watch.called), watch.elsewhere)
    return Reads(frozenset(), {})


class _Watch(TorchDispatchMode):
    """Notes in which module every parameter is read; what is only asked for its dtype or shape is not."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.called: set[str] = set()
        self.elsewhere: dict[str, str] = {}
        self._module = module
        self._running: list[nn.Module] = []
        self._names: dict[int, set[str]] = {}
        for part in module.modules():
            part.register_forward_pre_hook(self._enter, prepend=True)
            part.register_forward_hook(self._leave, always_call=True)

    def _enter(self, part: nn.Module, args: object) -> None:
        if not self._running:  # now it has the parameters of the pass
            for name, parameter in self._module.named_parameters(remove_duplicate=False):
                self._names.setdefault(id(parameter), set()).add(name)
        self._running.append(part)

    def _leave(self, part: nn.Module, args: object, output: object) -> None:
        while self._running and self._running.pop() is not part:
            pass
        if not self._running:
            self._names.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        given = (one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor))
        for names in (self._names[id(one)] for one in given if id(one) in self._names):
            if not func._schema.is_mutable:  # RWKV scales weights in place
                self._note(names)
        return func(*args, **(kwargs or {}))

    def _note(self, names: set[str]) -> None:
        reader = self._running[-1]
        own = any(self._module.get_submodule(name.rpartition(".")[0]) is reader for name in names)
        for name in map(unnumbered, names):
            if own:
                self.called.add(name)
            else:
                self.elsewhere[name] = type(reader).__name__
