"""One Hugging Face checkpoint: its configuration, its module without weights, its tensors."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from huggingface_hub import list_repo_files, snapshot_download
from transformers import PretrainedConfig

from adamerge.experts.adapter_formats import is_adapter, path_problem
from adamerge.experts.config_file import read_config_file
from adamerge.experts.file_patterns import DOWNLOADED
from adamerge.experts.implementations import drop_foreign, without_foreign
from adamerge.experts.name_patterns import several
from adamerge.experts.other_folders import way_on
from adamerge.experts.quantisation import quantisation_keys, without_quantization
from adamerge.experts.weight_files import files_within, open_weights, other_weights
from adamerge.storage.digest import Stamp, stamp_of
from adamerge.storage.file_names import at_home
from adamerge.storage.hub_errors import HUB_ERRORS, in_a_line
from adamerge.storage.regular_files import check_folder, is_folder, read_json, settings_of
from adamerge.storage.weights import Weights
from adamerge.types import ConfigError


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An open checkpoint: headers are read, tensors are not.

    Attributes:
        source: The path or hub id as the user wrote it.
        folder: Folder of its files.
        config: Its transformers configuration.
        tensors: Its tensors by name on disk.
        trust_remote_code: Whether Python code beside the weights may run.
        notes: What was read otherwise than files and configuration suggest, and what else to tell the user.
        stamps: Size, time and inode of every file of the folder and of its folders when the checkpoint was opened.
        beneath: Of an adapter over another checkpoint than the base: that checkpoint.
        adapter: Folder of the adapter's files, if it is one.
        given: Folder of a tokenizer or processor that replaces those beside the weights.
        over: Of an adapter: folder of the model that it is applied to, by whose settings it generates.
        allow_pickle: Whether pickled weights may be read.
        read_from: Folder of its own files, where `folder` holds its settings with another tokenizer.
    """

    source: str
    folder: Path
    config: PretrainedConfig
    tensors: Weights
    trust_remote_code: bool = False
    notes: tuple[str, ...] = ()
    beneath: "Checkpoint | None" = None
    adapter: Path | None = None
    given: Path | None = None
    over: Path | None = None
    allow_pickle: bool = False
    read_from: Path | None = None
    stamps: Mapping[Path, Stamp | None] = field(init=False)

    def __post_init__(self) -> None:
        """Remember which files there are."""
        found = [file for folder in self.folders for file in files_within(folder)]
        object.__setattr__(self, "stamps", {file: stamp_of(file) for file in found if file.is_file()})

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders of the files that accompany the weights: an adapter's go before those of the model below it."""
        below = self.beneath.folders if self.beneath else ()
        return tuple(dict.fromkeys([*filter(None, (self.given, self.adapter)), self.folder, *below]))

    @property
    def own_folder(self) -> Path:
        """Folder of its own files: an adapter's, or that of the weights and their settings as they were saved."""
        return self.adapter or self.read_from or self.folder

    @property
    def architecture(self) -> str:
        """Name of the model class that saved the checkpoint."""
        named = getattr(self.config, "architectures", None) or ["AutoModel"]
        return str(named if isinstance(named, str) else named[0])

    def settings(self) -> dict[str, object]:
        """Return the content of config.json, without foreign code; for an adapter, of the model it was trained as."""
        own = self.adapter is None
        content = read_json(self.folder / "config.json") if own else json.loads(self.config.to_json_string())
        return cast(dict[str, object], without_foreign(content, trusted=self.trust_remote_code))


def open_checkpoint(
    source: str, *, allow_pickle: bool = False, trust_remote_code: bool = False, inside: bool = False
) -> Checkpoint:
    """Open a checkpoint by directory or hub id (`id` or `id@revision`).

    Args:
        source: The directory or hub id.
        allow_pickle: Whether pickled weights may be read.
        trust_remote_code: Whether Python code beside the weights may run.
        inside: See `locate`.

    Only headers are read.

    Raises:
        ConfigError: No such directory or hub id, or only pickled weights without permission to read them.
        IncompatibleExpertsError: Weights that cannot be read, or quantised weights.
    """
    folder = locate(source, allow_pickle, inside=inside)
    if is_adapter(folder):
        raise ConfigError(
            f"{source}: an adapter, expected a complete checkpoint. As an expert an adapter can be merged as it is; a "
            "base must be complete: give the model that the adapter was trained on."
        )
    _check_adapter(source, folder)
    return read_checkpoint(source, folder, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)


def read_checkpoint(source: str, folder: Path, *, allow_pickle: bool, trust_remote_code: bool) -> Checkpoint:
    """Open the complete checkpoint in a folder; an adapter beside it is passed over.

    Args:
        source: The directory or hub id as the user wrote it.
        folder: Its folder.
        allow_pickle: Whether pickled weights may be read.
        trust_remote_code: Whether Python code beside the weights may run.

    Raises:
        ConfigError: See `open_checkpoint`.
        IncompatibleExpertsError: See there.
    """
    if not (folder / "config.json").exists():
        raise ConfigError(
            f"{source}: expected the folder of a Hugging Face checkpoint, but it has no config.json."
            f"{way_on(folder) or ' Correct the path.'}"
        )
    config = read_config_file(folder, trust_remote_code=trust_remote_code)
    tensors, notes = _tensors(source, folder, allow_pickle, getattr(config, "transformers_weights", None))
    settings = settings_of(folder / "config.json")
    notes += drop_foreign(source, config, settings, trusted=trust_remote_code)
    keys = list(quantisation_keys(settings))
    if keys:
        notes += (without_quantization(source, config, keys, tensors),)
    return Checkpoint(source, folder, config, tensors, trust_remote_code, notes, allow_pickle=allow_pickle)


def locate(source: str, allow_pickle: bool, *, inside: bool = False) -> Path:
    """Find the folder of a checkpoint or adapter: a directory, or what the hub has under that id.

    Args:
        source: The directory or hub id (`id` or `id@revision`).
        allow_pickle: Whether pickled weights may be downloaded.
        inside: Whether it may be a folder in a repository of the hub (`id/folder`), as several adapters are kept.

    Raises:
        ConfigError: There is no such directory or hub id.
    """
    folder = at_home(source)
    if source.strip() and is_folder(folder):
        check_folder(folder)
        return folder
    name, _, revision = source.partition("@")
    name, within = _divided(name) if inside else (name, "")
    if os.path.lexists(folder) or not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name):
        raise ConfigError(path_problem(source, folder))
    try:
        patterns = [within + pattern for pattern in (*DOWNLOADED, *(["*.bin"] if allow_pickle else []))]
        found = Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns)) / within
    except HUB_ERRORS as error:
        raise ConfigError(
            f"{source}: no folder of this name, and the Hugging Face hub did not return it ({in_a_line(error)}). "
            "Correct the name."
        ) from error
    if not found.is_dir():
        raise ConfigError(f"{source}: {name} on the Hugging Face hub has no folder {within[:-1]}. Correct the name.")
    return found


def _divided(name: str) -> tuple[str, str]:
    """Divide what may be a folder inside a repository of the hub: `org/name/a/b` → `org/name`, `a/b/`."""
    parts = name.split("/")
    plain = len(parts) > 2 and all(re.fullmatch(r"[\w.-]*\w[\w.-]*", part) for part in parts)  # no .. among them
    return ("/".join(parts[:2]), "/".join(parts[2:]) + "/") if plain else (name, "")


def has_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter, alone or beside a complete checkpoint."""
    return (folder / "adapter_config.json").exists() or is_adapter(folder)


def _check_adapter(source: str, folder: Path) -> None:
    """Refuse a base with an adapter beside complete weights: transformers adds it to them on loading."""
    if has_adapter(folder):
        raise ConfigError(
            f"{source}: expected one checkpoint as base, but an adapter (adapter_config.json) is beside config.json. "
            "transformers would add the adapter to the weights. If they contain it already, or the base should be "
            "without it, remove adapter_config.json and adapter_model.safetensors; otherwise merge it first (peft: "
            "AutoPeftModel.from_pretrained(…).merge_and_unload().save_pretrained(…), into a new folder)."
        )


def _tensors(source: str, folder: Path, allow_pickle: bool, explicit: str | None) -> tuple[Weights, tuple[str, ...]]:
    found = open_weights(source, folder, allow_pickle=allow_pickle, explicit=explicit)
    if found is not None:
        return found
    if only := _pickle_on_the_hub(source) if not allow_pickle else None:
        raise ConfigError(
            f"{only}: expected safetensors, but the weights are pickled, and unpickling can run code. Set "
            "allow_pickle: true to read them (with weights_only=True), or convert them to safetensors."
        )
    named = several(other_weights(folder))
    beside = f" It has {named}, which transformers opens only by name." if named else ""
    what_to_do = way_on(folder) or " Correct the path, or save the model there with save_pretrained."
    raise ConfigError(
        f"{folder}: expected model.safetensors or model.safetensors.index.json, found neither.{beside}{what_to_do}"
    )


def _pickle_on_the_hub(source: str) -> str | None:
    """Name a pickled file on the hub that was not downloaded because of `allow_pickle`; None if unknown."""
    name, _, revision = source.partition("@")
    try:
        names = [] if os.path.isdir(at_home(source)) else list_repo_files(name, revision=revision or None)
    except Exception:  # the hub does not answer: the caller raises its own error
        return None
    return next((f"{source}: {file}" for file in names if Path(file).match("pytorch_model*.bin")), None)
