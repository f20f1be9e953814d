"""Which class of model an adapter was trained as, over a base of that kind, or of another with the same modules."""

from collections.abc import Iterator
from typing import NamedTuple

import transformers
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from adamerge.experts.adapter_config import AdapterConfig
from adamerge.experts.checkpoint import Checkpoint
from adamerge.types import ConfigError

AUTO_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
}
"""transformers' automatic class by PEFT's name of the task."""
_OTHER_AUTO_CLASSES = (
    *("AutoModelForMaskedLM", "AutoModelForMultipleChoice", "AutoModelForImageClassification"),
    *("AutoModelForImageTextToText", "AutoModelForAudioClassification", "AutoModelForSpeechSeq2Seq", "AutoModel"),
)


class TrainedAs(NamedTuple):
    """What an adapter was trained as.

    Attributes:
        architecture: Name of the class, of the base's kind.
        part: model_type of the part of the base that the adapter's names may be of; None if the base has no parts.
        other: Says that the adapter names a class of another kind than the base; empty if it does not.
        within: Whether that is the kind of a part of the base.
    """

    architecture: str
    part: str | None = None
    other: str = ""
    within: bool = False


def trained_as(config: AdapterConfig, base: Checkpoint) -> TrainedAs:
    """Find the class that an adapter was trained as: the one that it names, or that of its task, or the base's.

    Raises:
        ConfigError: The base has no class for the adapter's task.
    """
    cls = getattr(transformers, config.base_class or "", None)
    if isinstance(cls, type) and issubclass(cls, PreTrainedModel):
        return _named(config, base, cls)
    auto = AUTO_CLASSES.get(config.task_type or "")
    if auto is None:
        return TrainedAs(base.architecture, _text(base.config) if config.scales_directly else None)
    known = _classes(auto, base.config)
    if known:
        return TrainedAs(base.architecture if base.architecture in known else known[0], _text(base.config))
    if _text(base.config) and _classes(auto, base.config.get_text_config()):
        return TrainedAs(base.architecture, _text(base.config))
    raise ConfigError(
        f"{config.source}: expected a base that {auto} knows, because the adapter's task_type is "
        f"{config.task_type}, found a {base.config.model_type}. Give the adapter's own base."
    )


def _named(config: AdapterConfig, base: Checkpoint, cls: type[PreTrainedModel]) -> TrainedAs:
    own = cls.config_class
    if own is None or isinstance(base.config, own):
        return TrainedAs(cls.__name__)
    other = (
        f"{config.source}: the adapter was trained on a {cls.__name__} ({own.model_type}), expected one over "
        f"{base.source}, a {base.architecture} ({base.config.model_type})"
    )
    if own.model_type in set(_kinds(base.config)):
        return TrainedAs(base.architecture, own.model_type, other, within=True)
    alike = (_classes(auto, base.config) for auto in _autos() if cls.__name__ in _names(auto))
    twin = next((names[0] for names in alike if names), base.architecture)
    return TrainedAs(twin, _text(base.config), other)


def part_of(module: nn.Module, kind: str | None) -> str:
    """Find the path of the part of a model that has a model_type; empty if there is none."""
    models = ((path, one) for path, one in module.named_modules() if path and isinstance(one, PreTrainedModel))
    return next((path for path, one in models if kind and one.config.model_type == kind), "")


def _kinds(config: PretrainedConfig) -> Iterator[str]:
    """Yield the model_type of every part."""
    parts = (getattr(config, name, None) for name in config.sub_configs)
    yield from (one.model_type for one in parts if isinstance(one, PretrainedConfig))


def _text(config: PretrainedConfig) -> str | None:
    text = config.get_text_config()
    return None if text is config else text.model_type


def _autos() -> tuple[str, ...]:
    return (*AUTO_CLASSES.values(), *_OTHER_AUTO_CLASSES)


def _names(auto: str) -> set[str]:
    """List the classes that one of transformers' automatic classes knows."""
    found = getattr(transformers, auto)._model_mapping._model_mapping.values()
    return {name for one in found for name in (one if isinstance(one, tuple | list) else (one,))}


def _classes(auto: str, config: PretrainedConfig) -> list[str]:
    mapping = getattr(transformers, auto)._model_mapping
    found = mapping[type(config)] if type(config) in mapping else ()
    return [one.__name__ for one in (found if isinstance(found, tuple) else (found,))]
