"""Write the files that accompany exported weights: settings, and file contents, without permissions."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from adamerge.data.processor_files import DEFAULT, TEMPLATE, TEMPLATES, named_templates
from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.quantisation import of_merged
from adamerge.experts.token_ids import with_settings
from adamerge.merging.merged_model import MergedModel
from adamerge.results.beside import Beside
from adamerge.results.module_weights import Source, blended
from adamerge.results.readable_config import without_former_rope
from adamerge.results.special_tokens import copied
from adamerge.storage.atomic_files import write_text
from adamerge.storage.regular_files import settings_of
from adamerge.storage.write_safetensors import write_safetensors
from adamerge.types import Coefficients

_CONFIG = "config.json"


def write_config(checkpoint: Checkpoint, changed: Mapping[str, object], folder: Path, dtype: str) -> None:
    """Write a checkpoint's config.json for merged weights.

    Args:
        checkpoint: Whose configuration.
        changed: Settings with other values, by dotted key: those that name tokens, and what all experts share.
        folder: Where to.
        dtype: Dtype of most numbers.
    """
    config = of_merged(without_former_rope(with_settings(checkpoint.settings(), changed), changed))
    config.pop("transformers_weights", None)  # names other files than the merged ones
    text = json.dumps({**in_dtype(config, dtype), "dtype": dtype}, indent=2)
    write_text(folder / _CONFIG, text + "\n")


def in_dtype(config: Mapping[str, object], dtype: str) -> dict[str, object]:
    """Say in a configuration and all its parts, wherever they name a dtype, which one the files have.

    transformers loads all parts in the one that the whole names, and saves it in each of them; a class that is built of
    a part's configuration alone takes what this one names. The former name of the key, torch_dtype, is not kept.

    Args:
        config: Content of config.json.
        dtype: Dtype of the files.

    Example:
        >>> in_dtype({"text_config": {"torch_dtype": "bfloat16"}, "vision_config": {}}, "float32")
        {'text_config': {'dtype': 'float32'}, 'vision_config': {}}
    """
    kept = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
    parts = {key: in_dtype(value, dtype) if isinstance(value, Mapping) else value for key, value in kept.items()}
    return parts | ({} if len(kept) == len(config) else {"dtype": dtype})


def write_beside(beside: Beside, folder: Path) -> None:
    """Write processors, templates, generation settings, heads, licence and the settings of modules."""
    for name, file in {**copied(beside.tokenizer), **beside.processor, **beside.heads, **beside.others}.items():
        _copy(file, folder / name)
    for name in (_CONFIG, *beside.tokenizer, *beside.processor):
        _drop_absent_code(folder / name)
    _write_templates(beside.templates, folder)
    if beside.generation:
        write_text(folder / "generation_config.json", json.dumps(beside.generation, indent=2) + "\n")
    if beside.modules is not None:
        for module in beside.modules.modules:
            (folder / module.path).mkdir(parents=True, exist_ok=True)
        for name, file in beside.modules.files.items():
            _copy(file, folder / name)
        for name, text in beside.modules.texts():
            write_text(folder / name, text)


def _drop_absent_code(file: Path) -> None:
    """Leave out of the settings of a model, tokenizer or processor what names code beside them that was not copied."""
    settings = settings_of(file) if file.name.endswith(_CONFIG) else {}
    auto_map = settings.get("auto_map")
    if not isinstance(auto_map, Mapping):
        return
    kept = {
        name: places for name, places in auto_map.items() if all(_is_there(one, file.parent) for one in _flat(places))
    }
    if kept != auto_map:
        rest = {key: value for key, value in settings.items() if key != "auto_map"}
        write_text(file, json.dumps(rest | ({"auto_map": kept} if kept else {}), indent=2, ensure_ascii=False) + "\n")


def _flat(places: object) -> list[str]:
    """List the places of code of one class, or of a slow and a fast one, either of which may be null."""
    found = places if isinstance(places, list) else [places]
    return [str(one) for one in cast(list[object], found) if one is not None]


def _is_there(place: str, folder: Path) -> bool:
    return "--" in place or (folder / f"{place.partition('.')[0]}.py").is_file()


def _write_templates(templates: Mapping[str, str], folder: Path) -> None:
    """Write chat templates, unless the tokenizer's settings hold exactly these."""
    file = folder / "tokenizer_config.json"
    settings = settings_of(file)
    if "chat_template" in settings:
        if named_templates(settings["chat_template"]) == templates:
            return
        del settings["chat_template"]
        write_text(file, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
    for name, text in templates.items():
        (folder / TEMPLATES).mkdir(exist_ok=True) if name != DEFAULT else None
        write_text(folder / (TEMPLATE if name == DEFAULT else f"{TEMPLATES}/{name}.jinja"), text)


def write_module_weights(
    weights: Mapping[str, Source], model: MergedModel, coefficients: Coefficients, folder: Path
) -> dict[str, float]:
    """Copy or merge the weights of the merged checkpoint's modules; returns the shares that rounding left, by path."""
    shares: dict[str, float] = {}
    for name, source in weights.items():
        if isinstance(source, Path):
            _copy(source, folder / name)
            continue
        merged, share = blended(name, source, model, coefficients)
        write_safetensors(folder / name, merged, {"format": "pt"})
        shares |= {} if share is None else {name: share}
    return shares


def copy_module_weights(beside: Beside, folder: Path) -> None:
    """Copy a task's own weights of its modules."""
    for module in beside.modules.modules if beside.modules else ():
        for name, file in module.weights.items():
            _copy(file, folder / name)


def _copy(source: Path, target: Path) -> None:
    """Copy the content of a file; the copy has the usual mode of new files."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
