"""What a run is made from, by hash: written when it begins, compared when it goes on, is exported or measured."""

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias, TypedDict, cast

from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.experts import Experts
from adamerge.results.beside import files_beside
from adamerge.runs.config import MergeConfig
from adamerge.runs.earlier_run import EarlierRun
from adamerge.runs.load_rows import Data
from adamerge.runs.paths import anchor
from adamerge.runs.run_directory import RunDirectory
from adamerge.storage.atomic_files import write_text
from adamerge.storage.digest import digest_of_path, finish
from adamerge.storage.own_files import EVERY, Form, check_form, own_file, own_json
from adamerge.storage.regular_files import settings_of
from adamerge.types import ConfigError

Hashes: TypeAlias = Mapping[str, str]
"""SHA-256 by name of a file."""

INDEX = "index.json"
"""Ending of files that say which file holds which tensor; not hashed by runs before they were."""

_WAY = "Restore it, or start a new run in another run_dir."
_MODEL: Form = {"source": str, "sha256": {EVERY: str}}
_INPUTS: dict[str, Form] = {
    "base": _MODEL,
    "experts": {EVERY: _MODEL},
    "data": {EVERY: {EVERY: str}},
    "processors": {EVERY: str},
    "processor_files": {"base": {EVERY: str}, "experts": {EVERY: {EVERY: str}}},
    "start": _MODEL,
    "packages": {EVERY: str},
}
_RECIPE: Form = {"config": str, "coefficients": {"sha256": str}, EVERY: object}
_LATER: Form = {"files": {EVERY: str}, "card": {EVERY: object}}
"""What recipes of version 0.1.0 do not have."""


class Recipe(TypedDict):
    """What is read again of recipe.json."""

    config: str
    coefficients: Hashes


def inputs(config: MergeConfig, experts: Experts, data: Data) -> dict[str, object]:
    """Hash the inputs of a run: models, rows, and the earlier run whose coefficients are the start.

    Files that were read completely before are not read again.

    Args:
        config: Configuration.
        experts: Base and experts.
        data: Rows with their fingerprints.

    Returns:
        Sources and SHA-256 of base, experts, rows and start, and the version that read them, as JSON values.
    """
    start = {"start": config.init.hashed()} if isinstance(config.init, EarlierRun) else {}
    return {
        **hash_models(config, experts),
        **hash_rows(data),
        **start,
        "packages": {"adamerge": version("adamerge")},
    }


def hash_rows(data: Data) -> dict[str, object]:
    """Hash the rows, and the tokenizers and processors that read them."""
    return {"data": dict(data.fingerprints), "processors": dict(data.processors)}


def hash_models(config: MergeConfig, experts: Experts) -> dict[str, object]:
    """Hash the weights and configurations of base and experts, and the files beside them that are exported."""
    assert experts.checkpoint is not None
    tasks = {model.name: experts.tasks[model.name].checkpoint for model in config.models}
    sources = {name: checkpoint for name, checkpoint in tasks.items() if checkpoint is not None}
    finish(file for checkpoint in (experts.checkpoint, *sources.values()) for file in checkpoint.tensors.files.values())
    return {
        "base": {"source": anchor(config.base_model), "sha256": hash_files(experts.checkpoint)},
        "experts": {
            name: {"source": anchor(checkpoint.source), "sha256": hash_files(checkpoint)}
            for name, checkpoint in sources.items()
        },
        "processor_files": {
            "base": hash_processor(experts.checkpoint),
            "experts": {name: hash_processor(checkpoint) for name, checkpoint in sources.items()},
        },
    }


def hash_files(checkpoint: Checkpoint) -> dict[str, str]:
    """Hash what is read of a checkpoint by SHA-256, per file name: configuration, weights, and the index of these.

    Other files in its folder, such as a trainer's, may come and go.
    """
    folder, known = checkpoint.own_folder, checkpoint.tensors.files
    configs = [file for file in (folder / "config.json", folder / "adapter_config.json") if file.exists()]
    read = [file for file in known if file.parent == folder]
    indices = [file for file in folder.glob(f"*.{INDEX}") if _is_index_of(file, read)]
    files = sorted([*configs, *read, *indices])
    own = {file.name: known[file].hexdigest() if file in known else digest_of_path(file) for file in files}
    below = checkpoint.beneath
    if below is None or below.folder == folder:
        return own
    return {**own, **{f"model/{name}": digest for name, digest in hash_files(below).items()}}


def _is_index_of(file: Path, weights: Sequence[Path]) -> bool:
    """Return whether an index names one of the files that are read; `save_pretrained` may leave others behind."""
    places = settings_of(file).get("weight_map")
    return isinstance(places, dict) and not {one.name for one in weights}.isdisjoint(map(str, places.values()))


def hash_processor(checkpoint: Checkpoint) -> dict[str, str]:
    """Hash the files beside a checkpoint's weights that exports are made from, by path in its folder."""
    return {name: digest_of_path(file) for name, file in sorted(files_beside(checkpoint).items())}


def remember(made_from: Mapping[str, object], file: Path) -> None:
    """Write the inputs of a new run to a file; for a resumed run, check that they are the same, and say who goes on.

    Args:
        made_from: Result of `inputs`.
        file: File of the inputs.

    Raises:
        ConfigError: A checkpoint or rows changed since the run began; names which. Or a newer version went on with it.
    """
    if file.exists():
        check_inputs(made_from, file)
        made_from = {**read_inputs(file), "packages": made_from.get("packages", {})}
    write_text(file, json.dumps(made_from, indent=2, allow_nan=False) + "\n")


def check_inputs(now: Mapping[str, object], file: Path) -> None:
    """Check that the inputs of a run are those that it began with, as far as both are known.

    Args:
        now: Result of `inputs`, `hash_models` or `hash_rows`.
        file: File of the inputs.

    Raises:
        ConfigError: Names every file, and the rows of every task, that changed; or a newer version wrote the file.
    """
    changed = list(_changes(read_inputs(file), now))
    if changed:
        raise ConfigError(
            f"{file.parent}: expected what this run was made from, but it changed since: {'; '.join(changed)}. Restore "
            f"the former files ({file.name} has their SHA-256), or start a new run in another run_dir."
        )


def check_coefficients(run: RunDirectory) -> str | None:
    """Check that a run's coefficients are those that it learned; returns a note if nothing says so.

    Raises:
        ConfigError: The file was changed or replaced after the run.
    """
    if not run.recipe.exists():
        return f"note: {run.path} has no {run.recipe.name} with a hash of its coefficients; they are taken as they are."
    expected = read_recipe(run.recipe)["coefficients"]["sha256"]
    if expected != digest_of_path(run.coefficients):
        raise ConfigError(
            f"{run.coefficients}: expected the coefficients that this run learned ({run.recipe.name} has their "
            "SHA-256), but the file was changed or replaced since. Restore it, or learn again in another run_dir. "
            "Coefficients of your own are exported from Python: adamerge.results.export.export."
        )
    return None


def changed_rows(file: Path, data: Data) -> list[tuple[str, str]]:
    """List task and purpose (calibration, evaluation) of the rows that are not those of the run."""
    then = cast(Mapping[str, Hashes], read_inputs(file).get("data", {}))
    found = [(task, purpose, digest) for task, own in data.fingerprints.items() for purpose, digest in own.items()]
    return [(task, purpose) for task, purpose, digest in found if then.get(task, {}).get(purpose) != digest]


def read_inputs(file: Path) -> Mapping[str, object]:
    """Read the inputs of a run; what version 0.1.0 did not write is absent.

    Raises:
        ConfigError: The file is of a newer version.
        DamagedFileError: It is damaged.
    """
    what = "what the run was made from"
    content = own_json(file, what, _WAY, {EVERY: object})
    with own_file(file, what, _WAY):
        check_form(content, {key: form for key, form in _INPUTS.items() if key in content})
    _check_version(content, file)
    return content


def read_recipe(file: Path, what: str = "the recipe of a finished run", way: str = _WAY) -> Recipe:
    """Read the recipe of a finished run.

    Args:
        file: recipe.json.
        what: What it is expected to be, in errors.
        way: What the user can do, in errors.

    Raises:
        ConfigError: It is missing, cannot be read, or is of a newer version.
        DamagedFileError: It is damaged.
    """
    content = own_json(file, what, way, _RECIPE)
    with own_file(file, what, way):
        check_form(content, {key: form for key, form in _LATER.items() if key in content} | {EVERY: object})
    _check_version(content, file)
    return cast(Recipe, content)


def _check_version(content: Mapping[str, object], file: Path) -> None:
    """Refuse what a newer version wrote: its keys may be unknown here, or mean something else.

    Raises:
        ConfigError: The file is of a newer version.
    """
    packages = content.get("packages")
    made, own = str(packages.get("adamerge", "")) if isinstance(packages, Mapping) else "", version("adamerge")
    if _numbers(made) > _numbers(own):
        raise ConfigError(
            f"{file}: expected a run of adamerge {own} or an earlier version, found one of {made}, whose settings may "
            f'mean something else here. Install it: pip install "adamerge>={made}"'
        )


def _numbers(text: str) -> list[int]:
    """Read the numbers of a version.

    Example:
        >>> _numbers("0.10.1") > _numbers("0.9")
        True
    """
    return [int(part) for part in text.split(".") if part.isdecimal()]


def _changes(then: Mapping[str, object], now: Mapping[str, object]) -> Iterator[str]:
    """List what changed; what one of the two does not know (version 0.1.0 hashed less) is not compared."""
    for key, label in (("base", "base"), ("start", "init")):
        if key in then and key in now:
            yield from _of_model(label, then, now, (key,))
    for task in cast(Mapping[str, object], now.get("experts", {})):
        yield from _of_model(f"expert {task}", then, now, ("experts", task))
    for kind, words in (("data", "rows"), ("processors", "tokenizer or processor")):
        former, found = (cast(Mapping[str, object], one.get(kind)) for one in (then, now))
        if former is not None and found is not None:
            yield from (f"{words} of {task}" for task in found if former.get(task) != found[task])


def _of_model(
    label: str, then: Mapping[str, object], now: Mapping[str, object], keys: tuple[str, ...]
) -> Iterator[str]:
    """List the files of a model that changed, with its folder."""
    former, found = _at(then, *keys), _at(now, *keys)
    beside = [_at(one, "processor_files", *keys) for one in (then, now)]
    files = [*_files(_read_then(former, found), _at(found, "sha256"))]
    files += _files(*beside) if "processor_files" in then and "processor_files" in now else []
    if files:
        yield f"{label} ({found.get('source')}): {', '.join(files)}"


def _read_then(then: Mapping[str, object], now: Mapping[str, object]) -> Mapping[str, object]:
    """Return what was read of a model: earlier versions hashed files that nobody reads, and that are still there."""
    folder, read = Path(str(now.get("source"))), _at(now, "sha256")
    return {
        name: hashed for name, hashed in _at(then, "sha256").items() if name in read or not (folder / name).exists()
    }


def _files(then: Mapping[str, object], now: Mapping[str, object]) -> Iterator[str]:
    for name in dict.fromkeys([*then, *now]):
        if name not in now:
            yield f"{name} is gone"
        elif name not in then:
            yield from [] if name.endswith(INDEX) else [f"{name} is new"]  # former versions did not hash every index
        elif then[name] != now[name]:
            yield f"{name} has other content"


def _at(value: Mapping[str, object], *keys: str) -> Mapping[str, object]:
    """Return what stands at a path of keys; nothing if there is nothing."""
    for key in keys:
        found = value.get(key)
        value = cast(Mapping[str, object], found) if isinstance(found, Mapping) else {}
    return value
