"""Load a written adapter as users do, by PEFT and by transformers, and compare it with the merge."""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.experts import Expert
from adamerge.experts.progress_bars import without_bars

Expected: TypeAlias = Callable[[], Iterator[tuple[str, Tensor, float]]]
"""Every parameter of a task's merged model: name, values, and the norm by which it may differ."""

EXACT = 1e-5
"""Share of a parameter's norm by which it may differ: combining in fp32."""


def peft_version() -> str | None:
    """Return the installed version of PEFT; None if it is not installed."""
    try:
        return version("peft")
    except PackageNotFoundError:
        return None


def compare_with_adapter(expert: Expert, base: Checkpoint, folder: Path, expected: Expected) -> None:
    """Load an adapter by PEFT and by transformers' `load_adapter`, and compare every parameter with the merge.

    Raises:
        RuntimeError: A parameter differs by more than rounding and truncation.
    """
    for load in (_by_peft, _by_transformers):
        with _quiet():
            module = _loaded(load, _base_of(expert, base), folder)
        for name, value, tolerance in expected():
            found = _effective(module, name)
            gap = (found.double() - value.double()).norm().item()
            if found.shape != value.shape or not gap <= tolerance + EXACT * value.double().norm().item():
                raise RuntimeError(
                    f"{folder}: {name} differs from the merge by {gap:.2e} when the adapter is loaded "
                    f"({load.__name__.strip('_')}). Please report this."
                )


def _loaded(load: Callable[[PreTrainedModel, Path], nn.Module], base: PreTrainedModel, folder: Path) -> nn.Module:
    """Load an adapter; whatever either library raises says that it cannot."""
    try:
        return load(base, folder)
    except Exception as error:
        raise RuntimeError(
            f"{folder}: expected an adapter that PEFT and transformers load, but loading it failed "
            f"({load.__name__.strip('_')}: {type(error).__name__}: {error}). Export a complete checkpoint (export: "
            "checkpoint), and please report this."
        ) from error


def _base_of(expert: Expert, base: Checkpoint) -> PreTrainedModel:
    """Load the base as the class of a task's model, in fp32; a head that it lacks has random numbers."""
    own = cast(PreTrainedModel, expert.own_module)
    trust = {"trust_remote_code": True} if base.trust_remote_code else {}
    config = copy.deepcopy(own.config)
    with torch.random.fork_rng(devices=[]):
        load = cast(Callable[..., PreTrainedModel], type(own).from_pretrained)
        return load(base.folder, config=config, dtype=torch.float32, ignore_mismatched_sizes=True, **trust)


def _by_peft(base: PreTrainedModel, folder: Path) -> nn.Module:
    from peft import PeftModel

    return cast(nn.Module, PeftModel.from_pretrained(base, str(folder)).base_model.model)


def _by_transformers(base: PreTrainedModel, folder: Path) -> nn.Module:
    base.load_adapter(str(folder))
    return base


@torch.no_grad()
def _effective(module: nn.Module, name: str) -> Tensor:
    """Compute a parameter that a model with an adapter runs with."""
    path, _, word = name.rpartition(".")
    owner = module.get_submodule(path)
    if hasattr(owner, "modules_to_save"):
        (owner,) = cast(Mapping[str, nn.Module], owner.modules_to_save).values()
    above = module.get_submodule(path.rpartition(".")[0])
    if word == "in_proj_weight" and _is_attention(owner):
        return _of_attention(owner, lambda attention: attention.in_proj_weight)
    if word == "weight" and _is_attention(above):
        return _of_attention(above, lambda attention: attention.out_proj.get_base_layer().weight)
    if not hasattr(owner, "base_layer"):
        return getattr(owner, word)
    value = getattr(cast(Any, owner).get_base_layer(), word)
    for wrapper in _wrappers(owner, word):
        (adapter,) = {*cast(nn.ModuleDict, wrapper.lora_A), *cast(nn.ParameterDict, wrapper.lora_embedding_A)}
        value = value + cast(Callable[[str], Tensor], wrapper.get_delta_weight)(adapter)
    return value


def _wrappers(owner: nn.Module, word: str) -> Iterator[nn.Module]:
    """Yield those of nested wrappers that change a parameter: of several parameters each has its own."""
    while hasattr(owner, "base_layer"):
        if getattr(owner, "parameter_name", "weight") == word:
            yield owner
        owner = cast(nn.Module, owner.base_layer)


def _is_attention(module: nn.Module) -> bool:
    return isinstance(getattr(module, "base_layer", None), nn.MultiheadAttention)


def _of_attention(wrapper: nn.Module, read: Callable[[Any], Tensor]) -> Tensor:
    """Read a weight as it is in a forward pass of nn.MultiheadAttention, for which PEFT merges both projections."""
    own = cast(Any, wrapper)
    own.merge()
    value = read(own.get_base_layer()).clone()
    own.unmerge()
    return value


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence advice about heads that the base lacks; every parameter is compared."""
    with without_bars(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
