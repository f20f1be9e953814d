"""Modules of sentence-transformers beside a transformer: pooling, dense layers, normalisation."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import cast

from adamerge.data.processor_files import LEGACY, TEMPLATE
from adamerge.experts.file_patterns import KEYS, PROCESSOR, TOKENIZER
from adamerge.results.module_settings import meaning
from adamerge.storage.digest import digest_of_json, digest_of_path
from adamerge.storage.links import inside
from adamerge.storage.regular_files import read_json, settings_of
from adamerge.types import ConfigError

MODULES = "modules.json"
_TYPES = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
ABOUT = "config_sentence_transformers.json"
"""File that says which class of sentence-transformers saved the folder."""
SETTINGS = (
    MODULES,
    ABOUT,
    "router_config.json",
    *(f"sentence_{name}_config.json" for name in _TYPES),
)
"""Files of sentence-transformers beside a transformer."""

_CONFIG = "config.json"
COMPUTES: Mapping[str, str] = {
    **dict.fromkeys(("Dense", "Dropout", "LayerNorm", "Normalize", "Pooling"), _CONFIG),
    **dict.fromkeys(("WeightedLayerPooling", "WordWeights", "LogitScore", "SpladePooling"), _CONFIG),
    **dict.fromkeys(("MultiVectorMask", "HierarchicalTokenPooling", "LambdaTokenPooling"), _CONFIG),
    **{"SparseAutoEncoder": _CONFIG, "CNN": "cnn_config.json", "LSTM": "lstm_config.json"},
}
"""The one file of settings of each class of module that reads no input, and so has no tokenizer or processor."""

READS = (
    *(_CONFIG, "generation_config.json", "wordembedding_config.json", "whitespacetokenizer_config.json"),
    *("phrasetokenizer_config.json", "model.safetensors.index.json", TEMPLATE, LEGACY),
    *(*SETTINGS, *COMPUTES.values(), *TOKENIZER, *PROCESSOR),
)
"""Files, besides weights, of modules that read input, and of the modules inside a router."""

_WEIGHTS = re.compile(r"(adapter_|pytorch_)?model(-\d+-of-\d+)?\.safetensors|pytorch_model\.bin")
SAFE, PICKLE = ".safetensors", "pytorch_model.bin"
"""What names of files of weights end with: of a pickle only where there is no file of safetensors beside it."""

_ORIGIN = "__version__"
_PROMPT = "default_prompt_name"
_POOLING = "Pooling"
"""What names of classes that make one embedding of all tokens' have in common."""


@dataclass(frozen=True)
class Module:
    """One module.

    Attributes:
        entry: Its entry in modules.json.
        files: Its files of settings by path in the checkpoint's folder.
        weights: Its files of weights, likewise.
        unpickle: Whether weights in pickles may be read.
    """

    entry: Mapping[str, object]
    files: Mapping[str, Path]
    weights: Mapping[str, Path]
    unpickle: bool = False

    @property
    def path(self) -> str:
        """Its folder; empty for the transformer itself."""
        return _path(self.entry)

    def contents(self) -> str:
        """Hash class and settings, without weights, as versions of sentence-transformers agree on them."""
        return digest_of_json([self.path, self.kind, self._settings()])

    @property
    def kind(self) -> str:
        """Name of its class; packages and modules that hold it differ between versions."""
        return str(self.entry.get("type")).rpartition(".")[2]

    def _settings(self) -> dict[str, object]:
        """Read its files of settings by path, of its own in the form of today; of other files return the hash."""
        own = f"{self.path}/config.json"
        found = {name: settings_of(file) or digest_of_path(file) for name, file in self.files.items()}
        return {**found, own: meaning(self.kind, settings_of(self.files[own]) if own in self.files else {})}


@dataclass(frozen=True)
class Modules:
    """The modules of a folder, in their order, and the settings beside them.

    Attributes:
        modules: The modules; the transformer is one of them.
        settings: Settings by file name; values that say which version wrote them are dropped in comparisons alone.
        outside: Folders of modules that are passed over, because they are not in the checkpoint's.
        passed_over: Files of modules' folders, by path, that no class of module reads.
    """

    modules: Sequence[Module]
    settings: Mapping[str, Mapping[str, object]]
    outside: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()

    @property
    def names(self) -> set[str]:
        """Names of the folders of modules."""
        return {PurePosixPath(module.path).parts[0] for module in self.modules if module.path}

    @property
    def files(self) -> dict[str, Path]:
        """Files of all modules' settings by path."""
        return {name: file for module in self.modules for name, file in module.files.items()}

    def contents(self) -> str:
        """Hash classes and settings of all modules and the settings beside them, without weights."""
        beside = {name: _lasting(settings) for name, settings in self.settings.items()}
        return digest_of_json([[module.contents() for module in self.modules], beside])

    def texts(self) -> Iterator[tuple[str, str]]:
        """Yield name and content of modules.json and of the settings beside it."""
        entries = [{**module.entry, "idx": number} for number, module in enumerate(self.modules)]
        yield MODULES, json.dumps(entries, indent=2) + "\n"
        for name, settings in self.settings.items():
            yield name, json.dumps(settings, indent=2) + "\n"


def _lasting(settings: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in settings.items() if key != _ORIGIN}


def read_modules(folder: Path, *, unpickle: bool = False) -> Modules | None:
    """Read the modules of a folder; None if it has none.

    A module whose folder leads out of the checkpoint's is passed over.

    Args:
        folder: Folder of a checkpoint.
        unpickle: Whether weights in pickles may be read.
    """
    try:
        entries = read_json(folder / MODULES)
    except ConfigError:
        return None
    if not isinstance(entries, list) or not inside(folder, folder / MODULES):
        return None
    known = [cast(dict[str, object], entry) for entry in entries if isinstance(entry, dict)]
    found = [_module(folder, entry, unpickle) for entry in known]
    names = [name for name in SETTINGS[1:] if (folder / name).is_file() and inside(folder, folder / name)]
    outside = tuple(_path(entry) for entry, module in zip(known, found, strict=True) if module is None)
    settings = {name: settings_of(folder / name) for name in names}
    modules = [module for module in found if module]
    passed_over = tuple(name for module in modules for name in _passed_over(folder, module))
    return Modules(modules, settings, outside, passed_over)


def _path(entry: Mapping[str, object]) -> str:
    """Return the folder of a module as modules.json names it, in one spelling; empty for the checkpoint's own."""
    path = entry.get("path")
    return "" if not isinstance(path, str) or not PurePosixPath(path).parts else PurePosixPath(path).as_posix()


def _module(folder: Path, entry: Mapping[str, object], unpickle: bool) -> Module | None:
    path = _path(entry)
    place = folder / path
    if not path:
        return Module(entry, {}, {})
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or not inside(folder, place):
        return None
    own = _files_in(folder, place)
    weights = {name: file for name, file in own.items() if _WEIGHTS.fullmatch(file.name)}
    read = {name: file for name, file in weights.items() if name.endswith(SAFE) or as_safe(name) not in weights}
    kind = str(entry.get("type")).rpartition(".")[2]
    texts = {name: file for name, file in own.items() if _is_read(kind, PurePosixPath(name).relative_to(path))}
    return Module(entry, texts, read, unpickle)


def _files_in(folder: Path, place: Path) -> dict[str, Path]:
    """List the files of a module by path in the checkpoint's folder; no hidden ones, or links that lead out."""
    files = {file.relative_to(folder).as_posix(): file for file in sorted(place.rglob("*")) if file.is_file()}
    return {name: file for name, file in files.items() if inside(folder, file) and not _hidden(name)}


def _is_read(kind: str, name: PurePosixPath) -> bool:
    """Return whether a class of module reads a file of its folder."""
    if kind in COMPUTES:
        return str(name) == COMPUTES[kind]
    return name.suffix not in KEYS and any(fnmatch(name.name, pattern) for pattern in READS)


def _passed_over(folder: Path, module: Module) -> list[str]:
    own = {*module.files, *module.weights}
    found = _files_in(folder, folder / module.path) if module.path else {}
    return [name for name, file in found.items() if name not in own and not _WEIGHTS.fullmatch(file.name)]


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def as_safe(name: str) -> str:
    """Return the name of a file of weights as safetensors: both are names of the same weights."""
    return f"{name.removesuffix(PICKLE)}model{SAFE}" if name.endswith(PICKLE) else name


def common_modules(base: Modules | None, experts: Sequence[Modules | None]) -> Modules | None:
    """Choose the modules of a merge: what all experts share, or else the base's.

    Where all experts have modules, but others, and the base has none, it is what they have in common; nothing if they
    pool differently, because modules without pooling give no embedding.

    Args:
        base: The base's modules.
        experts: The experts' modules; None of those that have none.

    Returns:
        The modules; their weights are those of the first that has them.
    """
    brought = [one for one in experts if one is not None]
    if not brought or len(brought) < len(experts):
        return base
    if len({one.contents() for one in brought}) == 1:
        return brought[0]
    if base is not None:
        return base
    others = [{module.contents() for module in one.modules} for one in brought[1:]]
    kept = [module for module in brought[0].modules if all(module.contents() in other for other in others)]
    if any(_POOLING in module.kind for module in brought[0].modules) > any(_POOLING in one.kind for one in kept):
        return None
    return Modules(kept, {name: _agreed(name, brought) for name in brought[0].settings})


def _agreed(name: str, brought: Sequence[Modules]) -> dict[str, object]:
    """Keep the keys of a file of settings on which all agree."""
    first, *rest = (one.settings.get(name, {}) for one in brought)
    found = {key: value for key, value in first.items() if all(other.get(key) == value for other in rest)}
    return {key: value for key, value in found.items() if key != _PROMPT or "prompts" in found}


def weights_equal(one: Module, other: Module) -> bool:
    """Return whether two modules have the same files of weights."""
    ours, theirs = ({as_safe(name): file for name, file in each.weights.items()} for each in (one, other))
    if ours.keys() != theirs.keys():
        return False
    return all(digest_of_path(file) == digest_of_path(theirs[name]) for name, file in ours.items())


def without(modules: Modules, dropped: Sequence[Module]) -> Modules:
    """Return modules without some of them."""
    return replace(modules, modules=[module for module in modules.modules if module not in dropped])


def same_place(modules: Modules | None, module: Module) -> Module | None:
    """Find the module of the same folder among others."""
    return next((one for one in modules.modules if one.path == module.path), None) if modules else None
