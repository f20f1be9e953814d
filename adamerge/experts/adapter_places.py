"""Where an adapter's tensors belong in a module: its names and those of older versions, ties, and what has no place."""

from collections.abc import Iterable, Iterator, Sequence

from torch import nn
from transformers import PreTrainedModel

from adamerge.experts.adapter_switch import FUSE
from adamerge.experts.config_file import file_of
from adamerge.experts.conversion import Conversion, places
from adamerge.experts.match_names import tied_names
from adamerge.experts.name_patterns import listed
from adamerge.types import IncompatibleExpertsError

OTHER_BASE = "Give the base that it was trained on"
_MERGE = "merge the adapter with PEFT where it was trained, and give the complete model"
UNTIE = "Load the base with tie_word_embeddings=False, merge the adapter with PEFT, and give the complete model"


class AdapterPlaces:
    """Finds parameters and modules by the names in an adapter, and collects every problem.

    Args:
        source: Name of the adapter in messages.
        module: The module that it was trained as, of today's transformers.
        names: Names of weights and other parameters in the adapter, as its transformers knew them.
        mlx: Whether mlx-lm wrote it.
        part: Path of the part of the module that names may be of: a model of text in one of images too.

    Attributes:
        modules: The module's submodules by path.
        stored: Shapes of its parameters and stored buffers.
        buffers: Names of the latter.
        problems: What does not fit, in words.
        part: As given.
        of_part: Names that were found in it.
    """

    def __init__(
        self, source: str, module: nn.Module, names: Iterable[str], *, mlx: bool = False, part: str = ""
    ) -> None:
        self._source, self._module, self._mlx, self.part = source, module, mlx, part
        self.of_part: set[str] = set()
        self.modules = dict(module.named_modules())
        self.problems: list[str] = []
        groups = tied_names(module)
        self._canonical = {alias: aliases[0] for aliases in groups for alias in aliases}
        self.stored = {name: tensor.shape for name, tensor in module.state_dict().items()}
        self.buffers = self.stored.keys() - self._canonical.keys()
        self._canonical |= {name: name for name in self.buffers}
        self._aliases = {aliases[0]: set(aliases) for aliases in groups if len(aliases) > 1}
        self._sides: dict[str, set[str]] = {}
        self._homes: dict[str, str] = {}
        self._made: dict[str, Conversion] = {}
        names = [*names]
        self._find(names)
        lost = [one for name in names if not self._known(name) for one in self._otherwise(name)]
        if lost:
            self._find(lost)

    def _find(self, names: Sequence[str]) -> None:
        """Find where transformers would put tensors of these names in a file."""
        found = places(self._module, names)
        self._homes |= {disk: name for name, several in found.names.items() for disk in several}
        self._made |= {disk: conversion for conversion in found.made.values() for disk in conversion.names}

    def _known(self, name: str) -> bool:
        return name in self._canonical or name in self._homes or name in self._made

    def parameter(self, name: str) -> str | None:
        """Find a parameter or stored buffer of the module by its name, today's or one of an older transformers."""
        for one in (name, *self._otherwise(name)):
            if (found := self._canonical.get(one) or self._canonical.get(self._homes.get(one, ""))) is not None:
                return found
        return None

    def path(self, path: str) -> str | None:
        """Find a module by its path, today's or one of an older transformers."""
        for one in (path, *self._otherwise(path)):
            renamed = self._homes.get(f"{one}.weight", "").removesuffix(".weight")
            found = next((name for name in (one, renamed) if name and name in self.modules), None)
            if found is not None:
                self.of_part |= {path} if one != path and self.part and found.startswith(f"{self.part}.") else set()
                return found
        return None

    def _otherwise(self, name: str) -> Iterator[str]:
        """Yield what a name may be that the class lacks: one in its part, or one of mlx-lm.

        mlx-lm calls the backbone `model` whatever transformers calls it, and may call its list of layers otherwise.
        """
        inner = name.removeprefix("language_model.").removeprefix("model.") if self._mlx else name
        backbone = getattr(self.modules.get(self.part, self._module), "base_model_prefix", "")
        if self.part:
            yield f"{self.part}.{inner}"
            yield from (f"{self.part}.{name.removeprefix(f'{one}.')}" for one in {"model", backbone} if one)
        if inner != name:
            prefix = self.part or backbone
            yield from (f"{prefix}.{inner}", inner)
            yield from (f"{prefix}.{layers}.{inner.partition('.')[2]}" for layers in self._lists(prefix, inner))

    def _lists(self, backbone: str, inner: str) -> Sequence[str]:
        """Return the name of a backbone's list of layers, if it has one, for a name of one of these layers."""
        if not inner.partition(".")[2][:1].isdigit() or backbone not in self.modules:
            return ()
        children = self.modules[backbone].named_children()
        found = [name for name, child in children if isinstance(child, nn.ModuleList)]
        return found if len(found) == 1 else ()

    def conversion(self, name: str) -> Conversion | None:
        """Find how a weight of an older version becomes a part of a tensor of the module."""
        return self._made.get(name)

    def tied(self, weight: str) -> bool:
        """Return whether a parameter has several names."""
        return weight in self._aliases

    def side(self, weight: str, alias: str) -> None:
        """Note which name of a tied parameter the adapter changes."""
        if weight in self._aliases:
            self._sides.setdefault(weight, set()).add(alias)

    def sides_of_rows(self, weight: str, path: str) -> set[str]:
        """Return the sides of a parameter that trained rows change: for PEFT all if they are the input's; note them."""
        sides = self._aliases.get(weight, {weight}) if self._of_input(path) else {f"{path}.weight"}
        for alias in sides:
            self.side(weight, alias)
        return sides

    def _of_input(self, path: str) -> bool:
        try:
            return (
                isinstance(self._module, PreTrainedModel) and self._module.get_input_embeddings() is self.modules[path]
            )
        except NotImplementedError:  # a class that has none, or does not say which
            return False

    def problem(self, name: str, what: str, way_out: str = OTHER_BASE) -> None:
        """Note what is wrong with a tensor of the adapter, and what to do."""
        self.problems.append(f"{self._source}: {name} {what}. {way_out}.")

    def has(self, path: str) -> bool:
        """Return whether the class has a module of this path, or had one in an older version."""
        return self.path(path) is not None or self.conversion(f"{path}.weight") is not None

    def other_base(self) -> str:
        """Say what to do where names of modules are not those of the class."""
        otherwise = f"If this is it, mlx-lm names its layers otherwise than transformers: {FUSE[0].lower()}{FUSE[1:]}"
        return f"{OTHER_BASE}. {otherwise}" if self._mlx else OTHER_BASE

    def lacking(self, key: str, target: str) -> None:
        """Note that a tensor changes a parameter that the base lacks, so that it has no value to be added to."""
        self.problem(
            key,
            f"changes {target}, which the base lacks: its values in training are in neither",
            f"{OTHER_BASE}. {FUSE}" if self._mlx else f"{OTHER_BASE}, or {_MERGE}",
        )

    def no_place(self, key: str, module: str) -> None:
        """Note that a tensor of the adapter belongs nowhere.

        Args:
            key: Its name.
            module: Path of the module that it names.
        """
        what = f"has no place in {type(self._module).__name__}"
        if self.path(module) is None:
            self.problem(key, what, self.other_base())
        else:
            own = f"{what}: {module} is there, but a LoRA adapter has no tensor of this name"
            self.problem(
                key, own, FUSE if self._mlx else "Save the adapter alone, with save_pretrained of PEFT's model"
            )

    def check(self, missing: Sequence[str], *, ties: bool) -> None:
        """Refuse the adapter if anything had no place.

        Args:
            missing: Parameters that neither base nor adapter has.
            ties: Whether a change of one side of tied parameters is one of both.

        Raises:
            IncompatibleExpertsError: One line per problem.
        """
        for weight, sides in self._sides.items():
            if sides != self._aliases[weight] and not ties:
                self.problem(
                    " and ".join(sorted(sides)),
                    f"is tied to {', '.join(sorted(self._aliases[weight] - sides))}, and the adapter changes one side "
                    "only, so that the trained model is none with tied embeddings",
                    UNTIE,
                )
        self.problems += [
            f"{self._source}: neither base nor adapter has {name} of {type(self._module).__name__}. If it is the head, "
            "it was not saved: name it in modules_to_save, or set task_type, when training; if the model never had it, "
            f"correct {file_of(getattr(self._module, 'config', None))}."
            for name in missing
        ]
        if self.problems:
            raise IncompatibleExpertsError(*listed(self.problems))
