"""Generation settings of an export: that transformers reads them, and that they stop where a turn ends."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from adamerge.data.processor_files import templates_of
from adamerge.results.built_config import built_config
from adamerge.results.turn_ends import turn_ends
from adamerge.storage.atomic_files import write_text
from adamerge.storage.regular_files import read_json

_FILE = "generation_config.json"
_NOT_WRITTEN = {"output_attentions", "output_hidden_states", "transformers_version", "_from_model_config"}
"""Keys of settings made of config.json that transformers does not save, or that say where they are from."""


def refused_generation(folder: Path) -> str:
    """Say why transformers refuses the generation settings of a folder; empty if it reads them, or has none."""
    if not (folder / _FILE).exists():
        return ""
    try:
        GenerationConfig.from_pretrained(folder)
    except (OSError, TypeError, ValueError) as error:
        return (
            f"{_FILE}: transformers refuses these settings ({error!s:.200}), so it loads no language "
            "model with them. Correct them."
        )
    return ""


def name_ends_of_turns(folder: Path, settings: Mapping[str, object]) -> list[str]:
    """Let generation stop where the chat templates end a turn.

    Args:
        folder: Folder of tokenizer, templates and generation settings.
        settings: Content of config.json.

    Returns:
        Notes for the user.
    """
    file, templates = folder / _FILE, templates_of(folder)
    generation = cast(Mapping[str, object], read_json(file)) if file.exists() else {}
    ends, notes = ends_named(folder, templates, generation if file.exists() else None, settings)
    if ends is not None:
        write_text(file, json.dumps(ends, indent=2) + "\n")
    return notes


def ends_named(
    tokenizer: Path,
    templates: Mapping[str, str],
    generation: Mapping[str, object] | None,
    settings: Mapping[str, object],
) -> tuple[Mapping[str, object] | None, list[str]]:
    """Add the tokens with which chat templates end a turn to generation settings.

    Args:
        tokenizer: Folder of the tokenizer.
        templates: Chat templates by name.
        generation: Content of generation_config.json; None if there is none.
        settings: Content of config.json, by which transformers generates then.

    Returns:
        The settings, None where they name all of them, and notes for the user.
    """
    if not templates:
        return None, []
    try:
        loaded = cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(tokenizer))
    except (OSError, ValueError) as error:
        return None, [f"transformers cannot load the tokenizer, so where a turn ends is not checked ({error!s:.200})."]
    found = _of_config(settings) if generation is None else generation
    stops = _listed(found.get("eos_token_id"))
    missing, notes = turn_ends(loaded, templates, stops)
    return ({**found, "eos_token_id": [*stops, *missing]} if missing else None), notes


def _of_config(settings: Mapping[str, object]) -> Mapping[str, object]:
    """Return the settings by which transformers generates without a generation_config.json, also of a text part."""
    config = built_config(settings)
    made = GenerationConfig.from_model_config(dict(settings) if config is None else config).to_diff_dict()
    return {key: value for key, value in cast(Mapping[str, object], made).items() if key not in _NOT_WRITTEN}


def _listed(tokens: object) -> list[int]:
    return [] if tokens is None else [tokens] if isinstance(tokens, int) else list(cast(list[int], tokens))
