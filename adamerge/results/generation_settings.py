"""Generation settings of an export: that transformers reads them, and that they stop where a turn ends."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from adamerge.data.processor_files import template_of
from adamerge.data.turns import end_of_turn
from adamerge.storage.atomic_files import write_text
from adamerge.storage.regular_files import read_json
from adamerge.types import Fact


def refused_generation(folder: Path) -> str:
    """Say why transformers refuses the generation settings of a folder; empty if it reads them, or has none."""
    if not (folder / "generation_config.json").exists():
        return ""
    try:
        GenerationConfig.from_pretrained(folder)
    except (OSError, TypeError, ValueError) as error:
        return (
            f"generation_config.json: transformers refuses these settings ({error!s:.200}), so it loads no language "
            "model with them. Correct them."
        )
    return ""


def name_end_of_turn(folder: Path, settings: Mapping[str, object]) -> list[str]:
    """Let generation stop where the chat template ends a turn.

    Args:
        folder: Folder of tokenizer, template and generation settings.
        settings: Content of config.json.

    Returns:
        Notes for the user.
    """
    if template_of(folder) is None:
        return []
    try:
        tokenizer = cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(folder))
    except (OSError, ValueError) as error:
        return [f"transformers cannot load the tokenizer, so where a turn ends is not checked ({error!s:.200})."]
    end = end_of_turn(tokenizer, [{"role": "user", "content": "?"}])
    if not end.tokens and not end.text and (error := _not_rendered(tokenizer)):
        return [f"the chat template renders no question and answer ({error}), so where a turn ends is not checked."]
    if end.text:
        return [
            f"the chat template ends a turn with the text {end.text!r}, which generation_config.json cannot name: pass "
            "it to the reader as a stop string."
        ]
    file = folder / "generation_config.json"
    generation = cast(Mapping[str, object], read_json(file)) if file.exists() else {}
    stops = _listed(generation.get("eos_token_id", None if file.exists() else settings.get("eos_token_id")))
    missing = [token for token in end.tokens if token not in stops]
    if not missing:
        return []
    write_text(file, json.dumps({**generation, "eos_token_id": [*stops, *missing]}, indent=2) + "\n")
    words = ", ".join(repr(tokenizer.convert_ids_to_tokens(token)) for token in missing)
    return [Fact(f"generation stops at {words} too, where the chat template ends a turn (eos_token_id).")]


def _not_rendered(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return why a chat template does not render one question and one answer; empty if it does."""
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    try:
        tokenizer.apply_chat_template(chat, tokenize=False)
    except Exception as error:  # templates raise what they like, and jinja2 its own
        return f"{type(error).__name__}: {error!s:.200}"
    return ""


def _listed(tokens: object) -> list[int]:
    return [] if tokens is None else [tokens] if isinstance(tokens, int) else list(cast(list[int], tokens))
