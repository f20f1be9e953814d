"""One Hugging Face checkpoint: its configuration, its module without weights, its tensors."""

import copy
import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from huggingface_hub import list_repo_files, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig

from adamerge.experts.adapter_config import is_adapter
from adamerge.storage.weights import Header, InMemory, MappedFiles, Weights
from adamerge.types import ConfigError, IncompatibleExpertsError

_NOT_PICKLES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.py"]
_PICKLES = ["*.bin"]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An open checkpoint: headers are read, tensors are not.

    Attributes:
        source: The path or hub id as the user wrote it.
        folder: Folder of its files.
        config: Its transformers configuration.
        tensors: Its tensors by name on disk.
        trust_remote_code: Whether Python code beside the weights may run.
        notes: What to tell the user about it.
    """

    source: str
    folder: Path
    config: PretrainedConfig
    tensors: Weights
    trust_remote_code: bool = False
    notes: tuple[str, ...] = ()

    @property
    def architecture(self) -> str:
        """Name of the model class that saved the checkpoint."""
        return (getattr(self.config, "architectures", None) or ["AutoModel"])[0]

    def settings(self) -> dict[str, object]:
        """Return the content of config.json; for an adapter, that of the model that it was trained as."""
        file = self.folder / "config.json"
        return json.loads(file.read_text() if file.exists() else self.config.to_json_string())


def open_checkpoint(source: str, *, allow_pickle: bool = False, trust_remote_code: bool = False) -> Checkpoint:
    """Open a checkpoint by directory or hub id (`id` or `id@revision`).

    Args:
        source: The directory or hub id.
        allow_pickle: Whether pickled weights may be read.
        trust_remote_code: Whether Python code beside the weights may run.

    Returns:
        The checkpoint; only headers are read.

    Raises:
        ConfigError: No such directory or hub id, or only pickled weights without permission to read them.
        IncompatibleExpertsError: Weights that cannot be read, or quantised weights.
    """
    folder = locate(source, allow_pickle)
    if is_adapter(folder):
        raise ConfigError(
            f"{source}: an adapter, expected a complete checkpoint. As an expert an adapter can be merged as it is; a "
            "base must be complete: give the model that the adapter was trained on."
        )
    if not (folder / "config.json").exists():
        raise ConfigError(
            f"{source}: expected the folder of a Hugging Face checkpoint, but it has no config.json. Correct the path."
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder / 'config.json'}: expected the configuration of a transformers model, but transformers cannot "
            f"read it: {error}"
        ) from error
    if getattr(config, "quantization_config", None):
        raise IncompatibleExpertsError(
            f"{source}: expected floating-point weights, but the checkpoint is quantised (config.json has "
            "quantization_config). Use the checkpoint from before quantisation, or save a dequantised copy."
        )
    return Checkpoint(source, folder, config, _tensors(source, folder, allow_pickle), trust_remote_code)


def skeleton(config: PretrainedConfig, architecture: str, *, trust_remote_code: bool = False) -> nn.Module:
    """Build the module of a checkpoint in eval mode: buffers are allocated, parameters are on the meta device.

    Args:
        config: The configuration of the checkpoint.
        architecture: Name of the model class.
        trust_remote_code: Whether Python code beside the weights may run.

    Returns:
        The module.

    Raises:
        ConfigError: transformers has no class of this name.
    """
    config = copy.deepcopy(config)
    for auto, reference in (getattr(config, "auto_map", None) or {}).items():
        if trust_remote_code and reference.endswith("." + architecture):
            with parameters_on_meta():
                return getattr(transformers, auto).from_config(config, trust_remote_code=True).eval()
    if architecture == "AutoModel":
        with parameters_on_meta():
            return transformers.AutoModel.from_config(config).eval()
    cls = getattr(transformers, architecture, None)
    if cls is None:
        raise ConfigError(
            f"config.json names the architecture {architecture}, which transformers {transformers.__version__} does "
            "not have. If its code is beside the weights, set trust_remote_code: true; otherwise update transformers."
        )
    with parameters_on_meta():
        return cls._from_config(config, dtype=torch.float32).eval()


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Build modules inside the block with parameters on the meta device and allocated buffers.

    `torch.device("meta")` would also move the buffers, and buffers that no checkpoint stores (rotary frequencies,
    position indices) could not be restored.
    """
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:  # a parameter that is on meta already may be tied: keep it
            parameter = nn.Parameter(parameter.to("meta"), parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = register_on_meta  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        nn.Module.register_parameter = register


def locate(source: str, allow_pickle: bool) -> Path:
    """Find the folder of a checkpoint or adapter: a directory, or what the hub has under that id.

    Args:
        source: The directory or hub id (`id` or `id@revision`).
        allow_pickle: Whether pickled weights may be downloaded.

    Raises:
        ConfigError: There is no such directory or hub id.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    name, _, revision = source.partition("@")
    if folder.exists() or not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name):
        raise ConfigError(
            f"{source}: expected the folder of a checkpoint or a hub id, but there is no such folder. Correct the path."
        )
    try:
        patterns = _NOT_PICKLES + (_PICKLES if allow_pickle else [])
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"{source}: no folder of this name, and the Hugging Face hub did not return it ({reason}). Correct the "
            "name."
        ) from error


def _tensors(source: str, folder: Path, allow_pickle: bool) -> Weights:
    files = _files(folder, "model.safetensors")
    if files:
        return MappedFiles(files)
    pickles = _files(folder, "pytorch_model.bin")
    only = str(pickles[0]) if pickles else _pickle_on_the_hub(source)
    if only and not allow_pickle:
        raise ConfigError(
            f"{only}: expected safetensors, but the weights are pickled, and unpickling can run code. Set "
            "allow_pickle: true to read them (with weights_only=True), or convert them to safetensors."
        )
    if not pickles:
        raise ConfigError(
            f"{folder}: expected model.safetensors or model.safetensors.index.json, found neither. Correct the path, "
            "or save the model there."
        )
    tensors: dict[str, Tensor] = {}
    for file in pickles:
        try:
            tensors |= torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
        except Exception as error:  # torch raises any exception on damaged bytes
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reason = next((line for line in lines if "unsupported" in line.lower()), lines[0])
            raise IncompatibleExpertsError(
                f"{file}: torch.load(weights_only=True) cannot read it: {reason}. Copy or download the file again, or "
                "convert it to safetensors."
            ) from error
    return InMemory(tensors, pickles)


def _pickle_on_the_hub(source: str) -> str | None:
    """Name a pickled file on the hub that was not downloaded because of `allow_pickle`; None if unknown."""
    if Path(source).expanduser().is_dir():
        return None
    name, _, revision = source.partition("@")
    try:
        names = list_repo_files(name, revision=revision or None)
    except Exception:  # the hub does not answer: the caller raises its own error
        return None
    return next((f"{source}: {file}" for file in names if Path(file).match("pytorch_model*.bin")), None)


def _files(folder: Path, name: str) -> list[Path]:
    """List the files of a checkpoint, sharded or not, by the name that a single file would have."""
    index = folder / f"{name}.index.json"
    if (folder / name).exists():
        return [folder / name]
    if not index.exists():
        return []
    try:
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError) as error:
        raise IncompatibleExpertsError(
            f"{index}: expected JSON with a weight_map, found something else ({error!r}). Copy or download the file "
            "again."
        ) from error
    for shard in shards:
        if not (folder / shard).exists():
            raise IncompatibleExpertsError(
                f"{folder / shard}: missing, but {index.name} lists it. Copy or download the file again."
            )
    return [folder / shard for shard in shards]


def quantised(headers: Mapping[str, Header], names: Sequence[str]) -> list[str]:
    """List the names whose dtype is integer or 8-bit float, for which no task vector can be computed."""
    return [name for name in names if not headers[name].dtype.is_floating_point or headers[name].dtype.itemsize == 1]
