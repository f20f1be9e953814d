"""Open a LoRA adapter over a base as an expert: what it changes, tensor by tensor, and what it brings itself."""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers import PretrainedConfig

from adamerge.experts.adapter_config import AdapterConfig, is_adapter, read_adapter_config
from adamerge.experts.adapter_keys import Parts, group_keys
from adamerge.experts.adapter_reader import AdapterReader
from adamerge.experts.checkpoint import Checkpoint, locate, open_checkpoint, skeleton
from adamerge.experts.conversion import Converted
from adamerge.experts.heads import head_names
from adamerge.experts.low_rank import Adapted
from adamerge.experts.match_names import match
from adamerge.storage.weights import MappedFiles, Weights
from adamerge.types import ConfigError, Fact

FILES = ("adapter_model.safetensors", "adapters.safetensors")
"""File of an adapter's tensors, of PEFT and of mlx-lm."""

AUTO_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
}


def open_adapter(source: str, folder: Path, base: Checkpoint) -> Checkpoint:
    """Open an adapter as a checkpoint of the model that it was trained as; its tensors are the base's plus its changes.

    Args:
        source: The path or hub id as the user wrote it.
        folder: Folder of its files.
        base: The base that it is applied to.

    Returns:
        A checkpoint whose tensors have the names of its class's module, and are dense only when they are read.

    Raises:
        ConfigError: A kind of adapter that is not supported.
        IncompatibleExpertsError: A tensor without a place in the model, a wrong shape, or another base.
    """
    config = read_adapter_config(source, folder)
    file = _file(source, folder)
    tensors = MappedFiles([file])
    modules, whole = group_keys(source, tensors.headers)
    settings, architecture = _class_of(config, base, {name: tensors.shape(key) for name, (key, _) in whole.items()})
    module = skeleton(settings, architecture, trust_remote_code=base.trust_remote_code)
    found = match(base, module)
    reader = AdapterReader(config, module, Converted(base.tensors, found.names), tensors)
    changes, own = reader.changes(modules), reader.whole(whole)
    reader.check(found.missing, own)
    written = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    weights = Adapted(reader.base, {**changes, **reader.replaced}, own, (file,), written)
    described = _describe(config, modules, tensors, weights, own)
    notes = (described, *_other_base(config, base), *_contradictions(config, modules))
    return Checkpoint(source, folder, settings, weights, base.trust_remote_code, notes)


def open_expert(
    source: str, base: Checkpoint | None, *, allow_pickle: bool = False, trust_remote_code: bool = False
) -> Checkpoint:
    """Open an expert: a complete checkpoint, or an adapter over the base.

    Args:
        source: The directory or hub id.
        base: The base; None if it could not be opened, and then adapters are not opened.
        allow_pickle: Whether pickled weights may be read.
        trust_remote_code: Whether Python code beside the weights may run.

    Raises:
        ConfigError: See `open_checkpoint` and `open_adapter`.
        IncompatibleExpertsError: See there.
    """
    folder = locate(source, allow_pickle)
    if not is_adapter(folder):
        return open_checkpoint(source, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
    if base is None:
        raise ConfigError(f"{source}: an adapter, which cannot be read without its base. Correct base_model first.")
    return open_adapter(source, folder, base)


def _file(source: str, folder: Path) -> Path:
    for name in FILES:
        if (folder / name).exists():
            return folder / name
    pickled = next(folder.glob("*.bin"), None)
    what = f"only the pickled {pickled.name}" if pickled else "none"
    raise ConfigError(
        f"{source}: expected {' or '.join(FILES)}, found {what}. Save the adapter as safetensors "
        "(PEFT: save_pretrained(…, safe_serialization=True))."
    )


def _class_of(config: AdapterConfig, base: Checkpoint, whole: Mapping[str, torch.Size]) -> tuple[PretrainedConfig, str]:
    """Choose the class that the adapter was trained as, with as many labels as its head has."""
    settings = copy.deepcopy(base.config)
    architecture = _architecture(config, base)
    settings.architectures = [architecture]
    if architecture == base.architecture:
        return settings, architecture
    plain = skeleton(settings, architecture, trust_remote_code=base.trust_remote_code)
    shapes = {name: parameter.shape for name, parameter in plain.named_parameters()}
    heads = [name for name in head_names(plain) if name in whole and whole[name] != shapes[name]]
    if heads:
        settings.num_labels = whole[heads[0]][0]
    return settings, architecture


def _architecture(config: AdapterConfig, base: Checkpoint) -> str:
    if config.base_class and hasattr(transformers, config.base_class):
        return config.base_class
    auto = AUTO_CLASSES.get(config.task_type or "")
    if auto is None:
        return base.architecture
    mapping = getattr(transformers, auto)._model_mapping
    if type(base.config) not in mapping:
        raise ConfigError(
            f"{config.source}: expected a base that {auto} knows, because the adapter's task_type is "
            f"{config.task_type}, found a {base.config.model_type}. Give the adapter's own base."
        )
    cls = mapping[type(base.config)]
    return (cls[0] if isinstance(cls, tuple) else cls).__name__


def _describe(
    config: AdapterConfig, modules: Sequence[Parts], tensors: Weights, weights: Adapted, own: Mapping[str, Tensor]
) -> str:
    """Say what the adapter holds as the merge will use it."""
    factors = {parts.module: tensors.shape(parts.names["A"]) for parts in modules if "A" in parts.names}
    ranks = {module: min(shape) for module, shape in factors.items()}
    scales = sorted({round(config.scale(module, rank), 4) for module, rank in ranks.items()})
    targets = sorted({parts.module.rpartition(".")[2] for parts in modules})
    kind = "DoRA" if config.dora else "rsLoRA" if config.rslora else "LoRA"
    untouched = len(weights.headers) - len(weights.changed) - len(own)
    return Fact(
        f"{config.source}: {kind} adapter, rank {_range(sorted(set(ranks.values())))}, scale {_range(scales)}, changes "
        f"{len(weights.changed)} tensors ({', '.join(targets)}), brings {', '.join(own) or 'no head'}, leaves "
        f"{untouched} as in the base"
    )


def _range(values: Sequence[float]) -> str:
    if not values:
        return "none"
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"


def _contradictions(config: AdapterConfig, modules: Sequence[Parts]) -> Iterator[str]:
    """Warn where several patterns match a module with different values; PEFT sorts them when it saves them."""
    bad = [parts.module for parts in modules if len(set(config.alphas(parts.module))) > 1]
    if bad:
        yield (
            f"{config.source}: patterns of alpha_pattern contradict each other for {', '.join(bad[:3])}. The "
            "first in the file is taken, as PEFT does on loading; in training another may have been first, because "
            "PEFT sorts them when it saves. Write one pattern per module."
        )


def _other_base(config: AdapterConfig, base: Checkpoint) -> Iterator[str]:
    """Warn where the adapter names another base."""
    trained = Path(config.base_model).name.lower()
    if (
        trained
        and trained != Path(base.source).name.lower()
        and trained != Path(str(base.config._name_or_path)).name.lower()
    ):
        yield (
            f"{config.source}: the adapter names the base {config.base_model}, this base is {base.source}. If "
            "they are not the same weights, the merge is meaningless; a quantised copy of the same model is fine."
        )
