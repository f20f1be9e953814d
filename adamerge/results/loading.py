"""How an exported folder is loaded: its transformers classes, and the task that the hub files it under."""

from dataclasses import dataclass
from pathlib import Path

from transformers.models.auto import modeling_auto

from adamerge.storage.regular_files import settings_of

_PIPELINES = {
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForImageClassification": "image-classification",
    "AutoModelForZeroShotImageClassification": "zero-shot-image-classification",
    "AutoModelForImageTextToText": "image-text-to-text",
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForMaskedLM": "fill-mask",
}
"""The hub's name of the task of each class."""

INDEX = "model.safetensors.index.json"
"""File that says which of several files holds which tensor."""

_PROCESSORS = {
    "processor_config.json": "AutoProcessor",
    "preprocessor_config.json": "AutoImageProcessor",
    "tokenizer_config.json": "AutoTokenizer",
}
"""Class that reads a folder's processor, by the first of these files that it has."""


@dataclass(frozen=True)
class Loading:
    """Classes that load an exported folder.

    Attributes:
        model: Name of the model class in `package`.
        processor: Name of the tokenizer or processor class in transformers; None if the folder has none.
        pipeline: The hub's name of the task; None if it has none.
        package: transformers, or peft for an adapter.
        several: Whether the weights are several files with an index.
    """

    model: str
    processor: str | None = None
    pipeline: str | None = None
    package: str = "transformers"
    several: bool = False


def loading_of(folder: Path) -> Loading:
    """Find the classes that load a folder, from its files.

    Args:
        folder: Folder with config.json or adapter_config.json.
    """
    processor = next((cls for file, cls in _PROCESSORS.items() if (folder / file).is_file()), None)
    if (folder / "adapter_config.json").is_file():
        settings = settings_of(folder / "adapter_config.json")
        kinds = {"CAUSAL_LM": "AutoPeftModelForCausalLM", "SEQ_CLS": "AutoPeftModelForSequenceClassification"}
        return Loading(kinds.get(str(settings.get("task_type")), "AutoPeftModel"), processor, package="peft")
    settings = settings_of(folder / "config.json")
    architectures = settings.get("architectures")
    name = str(architectures[0]) if isinstance(architectures, list) and architectures else "AutoModel"
    auto = auto_class(str(settings.get("model_type")), name)
    several = (folder / INDEX).is_file()
    return Loading(auto or name, processor, _PIPELINES.get(auto or ""), several=several)


def auto_class(model_type: str, architecture: str) -> str | None:
    """Name the auto class that opens a model as an architecture.

    Args:
        model_type: Key model_type of config.json.
        architecture: Name of the class.

    Example:
        >>> auto_class("bert", "BertForSequenceClassification"), auto_class("bert", "BertModel")
        ('AutoModelForSequenceClassification', 'AutoModel')
    """
    known = [name for name in modeling_auto.__all__ if name.startswith("AutoModel")]
    usual = [*_PIPELINES, "AutoModelForSeq2SeqLM"]
    for auto in [*usual, *(name for name in known if name not in usual)]:
        lazy = getattr(getattr(modeling_auto, auto, None), "_model_mapping", None)
        names = getattr(lazy, "_model_mapping", None)  # class names by model type; the lazy mapping would import them
        named = names.get(model_type) if isinstance(names, dict) else None
        if architecture in (named if isinstance(named, tuple) else (named,)):
            return auto
    return None
