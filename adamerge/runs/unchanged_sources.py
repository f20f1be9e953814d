"""Open the models of an earlier run, and name what of them changed since, also where that keeps them from opening."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias, cast

from adamerge.experts.checkpoint import locate
from adamerge.experts.experts import Experts
from adamerge.runs.build_model import open_experts
from adamerge.runs.config import MergeConfig
from adamerge.runs.inputs import check_inputs, hash_models, read_inputs
from adamerge.runs.paths import anchor
from adamerge.storage.digest import digest_of_path
from adamerge.types import ConfigError, IncompatibleExpertsError

_Hashed: TypeAlias = Callable[[Path, str], str]
"""Hashes a file, or returns the hash that it had."""

_ADAPTER = "adapter_config.json"
_SETTINGS = ("config.json", _ADAPTER)
"""Files of which a new one changes how a folder is read."""

_WEIGHTS = (".safetensors", ".bin")
_BENEATH = "model/"
"""Start of the names of what lies below an adapter with a model of its own."""


def open_unchanged(config: MergeConfig, record: Path) -> Experts:
    """Open base and experts of a run, and check that they are those that it began with.

    Args:
        config: Configuration of the run.
        record: File with the hashes of its inputs.

    Raises:
        ConfigError: Names every file that changed; or a model cannot be found.
        IncompatibleExpertsError: Lists every problem of every expert.
    """
    with told_what_changed(config, record):
        experts = open_experts(config)
    check_inputs(hash_models(config, experts), record)
    return experts


@contextmanager
def told_what_changed(config: MergeConfig, record: Path) -> Generator[None]:
    """Say, of models that are not opened inside the block, which of their files changed since a run, if any did.

    Models that are opened are compared afterwards, when their weights are read anyway.

    Args:
        config: Configuration of the run.
        record: File with the hashes of its inputs; without it nothing is known.

    Raises:
        ConfigError: Names every file that changed; or else what was raised inside.
    """
    try:
        yield
    except (ConfigError, IncompatibleExpertsError) as error:
        if record.exists():
            _compare(config, record, error)
        raise


def _compare(config: MergeConfig, record: Path, reason: Exception) -> None:
    """Compare the files that a run names with those of the same name now; weights if they were written since.

    Raises:
        ConfigError: Some changed.
    """
    then = read_inputs(record)
    try:
        now = _now(config, then, partial(_unless_older, record.stat().st_mtime_ns))
    except ConfigError:  # a model is not there, which is the reason
        return
    try:
        check_inputs(now, record)
    except ConfigError as changed:
        raise changed from reason


def _unless_older(time: int, file: Path, former: str) -> str:
    """Hash a file; weights that are older than the record, and may be large, are those of the run."""
    return former if file.suffix in _WEIGHTS and file.stat().st_mtime_ns <= time else digest_of_path(file)


def _now(config: MergeConfig, then: Mapping[str, object], hashed: _Hashed) -> dict[str, object]:
    """Hash the files that a run names, as far as they are there.

    Raises:
        ConfigError: A model is not there.
    """
    base = locate(config.base_model, config.allow_pickle)
    beside = _part(then, "processor_files")
    experts: dict[str, object] = {}
    of_experts: dict[str, object] = {}
    for model in config.models:
        known = _part(then, "experts", model.name, "sha256")
        source = model.adapter or model.model
        own = locate(source, config.allow_pickle, inside=True)
        below = locate(model.model, config.allow_pickle, inside=True) if model.adapter else base
        hashes = _own(known, own, hashed) | _beneath(known, below, hashed)
        experts[model.name] = {"source": anchor(source), "sha256": hashes}
        folders = [own, below] if _ADAPTER in known else [own]
        of_experts[model.name] = _found(_part(beside, "experts", model.name), folders, hashed)
    hashes = _own(_part(then, "base", "sha256"), base, hashed)
    found: dict[str, object] = {"base": {"source": anchor(config.base_model), "sha256": hashes}, "experts": experts}
    if config.tokenizer is not None:  # files of others are in the place of theirs
        return found
    return {**found, "processor_files": {"base": _found(_part(beside, "base"), [base], hashed), "experts": of_experts}}


def _part(content: Mapping[str, object], *keys: str) -> Mapping[str, str]:
    """Return the hashes at a path of keys; none if there is nothing."""
    for key in keys:
        content = cast(Mapping[str, Mapping[str, object]], content).get(key, {})
    return cast(Mapping[str, str], content)


def _own(known: Mapping[str, str], folder: Path, hashed: _Hashed) -> dict[str, str]:
    """Hash what is read of a model in its own folder, and settings that are new there."""
    names = [name for name in dict.fromkeys([*known, *_SETTINGS]) if not name.startswith(_BENEATH)]
    return _found({name: known.get(name, "") for name in names}, [folder], hashed)


def _beneath(known: Mapping[str, str], folder: Path, hashed: _Hashed) -> dict[str, str]:
    """Hash what is read of the model below an adapter, if that is not the base."""
    names = {name.removeprefix(_BENEATH): former for name, former in known.items() if name.startswith(_BENEATH)}
    return {f"{_BENEATH}{name}": found for name, found in _found(names, [folder], hashed).items()}


def _found(known: Mapping[str, str], folders: Sequence[Path], hashed: _Hashed) -> dict[str, str]:
    """Hash files by name, each in the first folder that has it."""
    places = {name: [folder / name for folder in folders if (folder / name).is_file()] for name in known}
    return {name: hashed(files[0], known[name]) for name, files in places.items() if files}
