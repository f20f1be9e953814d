"""The base of a configuration that names none: the one that all of its adapters name."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from adamerge.experts.adapter_config import read_adapter_config
from adamerge.experts.adapter_formats import is_adapter
from adamerge.runs.config_errors import Findings
from adamerge.runs.model_config import ModelConfig
from adamerge.storage.file_names import at_home
from adamerge.types import ConfigError


def with_base_of_adapters(content: Mapping[str, object], findings: Findings) -> dict[str, object]:
    """Take the base that all experts, as folders of adapters, name in adapter_config.json, and note it.

    Where one of them is something else, on the hub, or of another base, base_model stays missing.

    Args:
        content: Keys and values of a configuration.
        findings: Gets the note.
    """
    models = content.get("models")
    if "base_model" in content or not isinstance(models, list):
        return dict(content)
    named = {_base_of(model) for model in cast(list[object], models)}
    base = named.pop() if len(named) == 1 else None
    if not base:
        return dict(content)
    findings.notes.append(f"base_model: {base}, which the adapters name (adapter_config.json).")
    return {**content, "base_model": base}


def _base_of(model: object) -> str | None:
    """Return the base that an expert's adapter names; None if it names none, or is no folder of an adapter."""
    if isinstance(model, ModelConfig):
        source, adapter = model.model, model.adapter
    else:
        keys = cast(Mapping[str, object], model) if isinstance(model, Mapping) else {}
        source, adapter = keys.get("model"), keys.get("adapter")
    folder = at_home(source) if isinstance(source, str | Path) else None
    if adapter or folder is None or not folder.is_dir() or not is_adapter(folder):
        return None
    try:
        return read_adapter_config(str(source), folder).base_model
    except ConfigError:  # whoever opens the adapter reports it
        return None
