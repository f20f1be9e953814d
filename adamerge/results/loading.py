"""How an exported folder is loaded: its library and classes, and the task that the hub files it under."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from transformers.models.auto import modeling_auto

from adamerge.results.sentence_modules import ABOUT, MODULES
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

_WITH_MODULES = {
    "SentenceTransformer": "sentence-similarity",
    "CrossEncoder": "text-ranking",
    "SparseEncoder": "feature-extraction",
    "MultiVectorEncoder": "feature-extraction",
}
"""The hub's name of the task of each class of sentence-transformers, which reads a folder with modules.json."""

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
        package: transformers, peft for an adapter, or sentence_transformers for a folder with modules.
        several: Whether the weights are several files with an index.
    """

    model: str
    processor: str | None = None
    pipeline: str | None = None
    package: str = "transformers"
    several: bool = False

    @property
    def library(self) -> str:
        """The hub's name of the package."""
        return self.package.replace("_", "-")

    @property
    def packages(self) -> set[str]:
        """Packages that the code which loads it imports."""
        return {self.package, *(["transformers"] if self.processor else [])}

    @property
    def with_modules(self) -> bool:
        """Whether sentence-transformers loads it, which takes no subfolder and brings the tokenizer itself."""
        return self.package == "sentence_transformers"


def loading_of(folder: Path) -> Loading:
    """Find the classes that load a folder, from its files.

    Neither transformers nor peft reads modules (pooling, dense layers, normalisation), so modules.json decides first.

    Args:
        folder: Folder with config.json or adapter_config.json.
    """
    several = (folder / INDEX).is_file()
    if (folder / MODULES).is_file():
        return replace(_with_modules(folder), several=several)
    processor = next((cls for file, cls in _PROCESSORS.items() if (folder / file).is_file()), None)
    if (folder / "adapter_config.json").is_file():
        settings = settings_of(folder / "adapter_config.json")
        kinds = {"CAUSAL_LM": "AutoPeftModelForCausalLM", "SEQ_CLS": "AutoPeftModelForSequenceClassification"}
        return Loading(kinds.get(str(settings.get("task_type")), "AutoPeftModel"), processor, package="peft")
    settings = settings_of(folder / "config.json")
    architectures = settings.get("architectures")
    name = str(architectures[0]) if isinstance(architectures, list) and architectures else "AutoModel"
    auto = auto_class(str(settings.get("model_type")), name)
    return Loading(auto or name, processor, _PIPELINES.get(auto or ""), several=several)


def _with_modules(folder: Path) -> Loading:
    """Find the class of sentence-transformers that loads a folder; those that name none are sentence encoders."""
    named = str(settings_of(folder / ABOUT).get("model_type"))
    model = named if named in _WITH_MODULES else "SentenceTransformer"
    labels = settings_of(folder / "config.json").get("id2label")
    ranks = model != "CrossEncoder" or (isinstance(labels, dict) and len(cast(dict[str, str], labels)) == 1)
    pipeline = _WITH_MODULES[model] if ranks else _PIPELINES["AutoModelForSequenceClassification"]
    return Loading(model, None, pipeline, "sentence_transformers")


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
