"""One Hugging Face checkpoint: its configuration, its module without weights, its tensors under the module's names."""

import copy
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from huggingface_hub import list_repo_files, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from adamerge.storage.weights import Header, InMemory, MappedFiles, Weights
from adamerge.types import ConfigError, IncompatibleExpertsError

_NOT_PICKLES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.py"]
_PICKLES = ["*.bin"]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint on disk, opened: headers are read, tensors are not.

    Attributes:
        source: The path or hub id as the user wrote it.
        folder: Where its files are.
        config: Its transformers configuration.
        tensors: Its tensors by their names on disk.
        trust_remote_code: Whether code that lies beside the weights may run.
    """

    source: str
    folder: Path
    config: PretrainedConfig
    tensors: Weights
    trust_remote_code: bool = False

    @property
    def architecture(self) -> str:
        """Name of the class that the checkpoint was saved from."""
        return (getattr(self.config, "architectures", None) or ["AutoModel"])[0]


@dataclass(frozen=True)
class Match:
    """How names on disk and names in a module belong together.

    Attributes:
        names: Name on disk of each parameter and persistent buffer of the module that was found.
        missing: Parameters of the module that the checkpoint lacks.
        unexpected: Tensors on disk that the module has no place for.
    """

    names: Mapping[str, str]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def open_checkpoint(source: str, *, allow_pickle: bool = False, trust_remote_code: bool = False) -> Checkpoint:
    """Open a checkpoint by directory or hub id (`id` or `id@revision`).

    Raises:
        ConfigError: No such directory or hub id, or only pickled weights without permission to read them.
        IncompatibleExpertsError: Weights that cannot be read, or quantised ones.
    """
    folder = _locate(source, allow_pickle)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder / 'config.json'}: transformers cannot read it: {error}") from error
    if getattr(config, "quantization_config", None):
        raise IncompatibleExpertsError(
            f"{source}: the checkpoint is quantised (config.json has quantization_config), and quantised numbers "
            "cannot be merged. Use the checkpoint from before quantisation, or save a dequantised copy."
        )
    return Checkpoint(source, folder, config, _tensors(source, folder, allow_pickle), trust_remote_code)


def skeleton(config: PretrainedConfig, architecture: str, *, trust_remote_code: bool = False) -> nn.Module:
    """The module of a checkpoint in eval mode: buffers are real, parameters are on the meta device.

    Raises:
        ConfigError: transformers has no class of that name.
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
            "not have. If its code lies beside the weights, set trust_remote_code: true; else update transformers."
        )
    with parameters_on_meta():
        return cls._from_config(config, dtype=torch.float32).eval()


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Modules that are built inside have parameters without memory, but real buffers.

    `torch.device("meta")` would take the buffers too, and those that no checkpoint stores (rotary frequencies,
    position indices) could not be had back.
    """
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:  # one that is on meta already may be tied: keep it
            parameter = nn.Parameter(parameter.to("meta"), parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = register_on_meta  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        nn.Module.register_parameter = register


def match(checkpoint: Checkpoint, module: nn.Module) -> Match:
    """Pair a checkpoint's names with a module's; see `match_tensors`."""
    return match_tensors(checkpoint.source, checkpoint.tensors, module)


def match_tensors(source: str, tensors: Weights, module: nn.Module) -> Match:
    """Pair names of tensors with a module's, as transformers would when loading one into the other.

    A prefix that only one of them has is added or removed, transformers' own renamings are applied, and a tied
    parameter is found under any of its names. Where several of them are stored, their numbers are compared.

    Args:
        source: What the tensors are called in errors.
        tensors: Tensors by the names that they were saved under.
        module: Where they belong.

    Raises:
        IncompatibleExpertsError: transformers would fuse or split tensors on loading, so no file has them as they
            are; or a tied parameter is stored twice and differently.
    """
    wanted = module.state_dict()
    renamed = _renaming(source, module, wanted)
    found = {renamed(name): name for name in tensors.headers}
    names: dict[str, str] = {}
    missing: list[str] = []
    for aliases in tied_names(module):
        present = [found.pop(alias) for alias in aliases if alias in found]
        _check_tied(source, tensors, present, type(module).__name__)
        if present:
            names[aliases[0]] = present[0]
        else:
            missing.append(aliases[0])
    buffers = dict(module.named_buffers())
    names.update({name: found.pop(name) for name in wanted if name in found and name in buffers})
    ignored = [re.compile(p) for p in getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()]
    unexpected = (
        name
        for target, name in found.items()
        if target not in buffers and not any(p.search(name) for p in ignored) and not name.endswith(".position_ids")
    )
    return Match(names, tuple(missing), tuple(unexpected))


def tied_names(module: nn.Module) -> list[tuple[str, ...]]:
    """Names of each parameter of a module: more than one where parameters are tied, the first being canonical.

    Example:
        >>> a, b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        >>> b.weight = a.weight
        >>> tied_names(nn.Sequential(a, b))
        [('0.weight', '1.weight')]
    """
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [tuple(aliases) for aliases in names.values()]


def _check_tied(source: str, tensors: Weights, present: Sequence[str], what: str) -> None:
    """Refuse a tied parameter that is stored under several names with different numbers."""
    for other in present[1:]:
        first = present[0]
        if tensors.headers[first] != tensors.headers[other] or not torch.equal(tensors[first], tensors[other]):
            raise IncompatibleExpertsError(
                f"{source}: {first} and {other} are one tied parameter of {what}, but two different tensors here. If "
                "they are meant to be two, untie them (tie_word_embeddings: false in config.json, of the base and of "
                f"every expert); else remove {other}."
            )


def _renaming(source: str, module: nn.Module, wanted: dict[str, Tensor]) -> Callable[[str], str]:
    """What transformers calls a tensor on disk when it loads it into the module."""
    if not isinstance(module, PreTrainedModel):
        return lambda name: name
    conversions = get_model_conversion_mapping(module)
    converters = [rule for rule in conversions if isinstance(rule, WeightConverter)]
    renamings = [rule for rule in conversions if isinstance(rule, WeightRenaming)]

    def renamed(name: str) -> str:
        if name in wanted:
            return name
        target, converted = rename_source_key(name, renamings, converters, module.base_model_prefix, wanted)
        if converted is not None and target in wanted:
            raise IncompatibleExpertsError(
                f"{source}: transformers fuses or splits {name} when it loads a {type(module).__name__} (into "
                f"{target}); such checkpoints cannot be merged from their files."
            )
        return target

    return renamed


def _locate(source: str, allow_pickle: bool) -> Path:
    folder = Path(source).expanduser()
    if folder.is_dir():
        if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
            raise ConfigError(
                f"{source}: this is a LoRA adapter. Merge it into its base first "
                "(peft: AutoPeftModel.from_pretrained(…).merge_and_unload().save_pretrained(…))."
            )
        if not (folder / "config.json").exists():
            raise ConfigError(f"{source}: expected a Hugging Face checkpoint, but there is no config.json in it.")
        return folder
    name, _, revision = source.partition("@")
    if folder.exists() or not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name):
        raise ConfigError(f"{source}: expected a directory with a checkpoint, or a hub id; there is no such directory.")
    try:
        patterns = _NOT_PICKLES + (_PICKLES if allow_pickle else [])
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"{source}: no directory of that name here, and the Hugging Face hub does not give it either ({reason})."
        ) from error


def _tensors(source: str, folder: Path, allow_pickle: bool) -> Weights:
    files = _files(folder, "model.safetensors")
    if files:
        return MappedFiles(files)
    pickles = _files(folder, "pytorch_model.bin")
    only = str(pickles[0]) if pickles else _pickle_on_the_hub(source)
    if only and not allow_pickle:
        raise ConfigError(
            f"{only}: the weights are pickled, and unpickling can run code. Set allow_pickle: true to read them "
            "(with weights_only=True), or convert them to safetensors."
        )
    if not pickles:
        raise ConfigError(f"{folder}: expected model.safetensors or model.safetensors.index.json; it has neither.")
    tensors: dict[str, Tensor] = {}
    for file in pickles:
        try:
            tensors |= torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
        except Exception as error:  # torch raises whatever the bytes happen to break
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reason = next((line for line in lines if "unsupported" in line.lower()), lines[0])
            raise IncompatibleExpertsError(f"{file}: torch.load(weights_only=True) cannot read it: {reason}") from error
    return InMemory(tensors, pickles)


def _pickle_on_the_hub(source: str) -> str | None:
    """A pickle that was not downloaded for want of permission, as far as the hub can be asked."""
    if Path(source).expanduser().is_dir():
        return None
    name, _, revision = source.partition("@")
    try:
        names = list_repo_files(name, revision=revision or None)
    except Exception:  # offline, in whatever way: nothing is known, and the caller has an error of its own
        return None
    return next((f"{source}: {file}" for file in names if Path(file).match("pytorch_model*.bin")), None)


def _files(folder: Path, name: str) -> list[Path]:
    """The files of a checkpoint by the name a single one would have, whether or not it is sharded."""
    index = folder / f"{name}.index.json"
    if (folder / name).exists():
        return [folder / name]
    if not index.exists():
        return []
    try:
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError) as error:
        raise IncompatibleExpertsError(f"{index}: expected JSON with a weight_map ({error!r}).") from error
    for shard in shards:
        if not (folder / shard).exists():
            raise IncompatibleExpertsError(f"{folder / shard}: missing, but {index.name} lists it.")
    return [folder / shard for shard in shards]


def quantised(headers: Mapping[str, Header], names: Sequence[str]) -> list[str]:
    """Those names whose numbers are integers or 8-bit floats, which no task vector can be taken of."""
    return [name for name in names if not headers[name].dtype.is_floating_point or headers[name].dtype.itemsize == 1]
