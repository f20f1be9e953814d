"""Files of processors beside a checkpoint's weights: tokenizers, image processors, chat templates."""

import os
from collections.abc import Mapping
from fnmatch import filter as filter_names
from fnmatch import fnmatch
from pathlib import Path
from typing import cast

import transformers

from adamerge.experts.file_patterns import KEYS, PROCESSOR, TOKENIZER, VOCABULARY
from adamerge.storage.links import inside
from adamerge.storage.regular_files import LARGEST_JSON, read_json, read_whole, reading, settings_of
from adamerge.types import ConfigError, quoted

TEMPLATE, TEMPLATES, DEFAULT = "chat_template.jinja", "additional_chat_templates", "default"
"""File of a chat template, folder of further ones by name, and the name of the first."""

LEGACY = "chat_template.json"
"""File of a chat template that processors wrote before, and still prefer; tokenizers never read it."""

_ALL = (*TOKENIZER, *PROCESSOR, TEMPLATE, LEGACY, "generation_config.json")


def files_of(folder: Path, patterns: tuple[str, ...] = _ALL, *, within: Path | None = None) -> dict[str, Path]:
    """List the files of a folder that match a pattern, by name; no hidden ones, keys, or links that lead out.

    Args:
        folder: The folder.
        patterns: As those of a shell.
        within: What links may not lead out of; the folder itself by default.
    """
    shown = sorted(name for name in _names_in(folder) if not name.startswith("."))
    found = {name: folder / name for pattern in patterns for name in filter_names(shown, pattern)}
    return {
        name: file for name, file in found.items() if file.suffix not in KEYS and _is_file_of(within or folder, file)
    }


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _is_file_of(folder: Path, file: Path) -> bool:
    return file.is_file() and (not file.is_symlink() or inside(folder, file))


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder has a tokenizer: a vocabulary, or the settings of one that needs none."""
    if files_of(folder, VOCABULARY):
        return True
    found = getattr(transformers, str(settings_of(folder / "tokenizer_config.json").get("tokenizer_class")), None)
    return found is not None and not getattr(found, "vocab_files_names", True)


def is_damaged(file: Path) -> bool:
    """Return whether a file that should hold keys and values as JSON does not."""
    try:
        return file.suffix == ".json" and file.exists() and not isinstance(read_json(file), dict)
    except (ConfigError, RecursionError):
        return True


def is_of_processor(name: str) -> bool:
    """Return whether a file of this name is one of a processor or of generation.

    Example:
        >>> is_of_processor("tokenizer.json"), is_of_processor("model.safetensors")
        (True, False)
    """
    return any(fnmatch(name, pattern) for pattern in _ALL)


def templates_of(folder: Path | None) -> dict[str, str]:
    """Read the chat templates of a folder by name, as transformers does: files replace tokenizer_config.json's.

    A processor takes chat_template.json before all of them; where there is none, that file comes last.

    Args:
        folder: Folder of a checkpoint; None has no templates.

    Returns:
        The templates; the one that is used without a name is "default".
    """
    if folder is None:
        return {}
    first, more = files_of(folder, (TEMPLATE,)), further_templates(folder)
    files = {**({DEFAULT: first[TEMPLATE]} if first else {}), **{file.stem: file for file in more.values()}}
    in_settings = settings_of(folder / "tokenizer_config.json").get("chat_template")
    if not (in_settings is None or are_templates(in_settings)):
        raise ConfigError(
            f"{folder / 'tokenizer_config.json'}: chat_template: expected a text, or a list of templates with name and "
            f"template, found {quoted(in_settings)}. Copy the file again from the fine-tuned model."
        )
    found = {name: _template_in(file) for name, file in files.items()} or named_templates(in_settings)
    former = _former_template(folder)
    return {**found, **former} if files_of(folder, PROCESSOR) else {**former, **found}


def _former_template(folder: Path) -> dict[str, str]:
    """Read the template of chat_template.json; none if it holds no text under that key."""
    found = settings_of(folder / LEGACY).get("chat_template") if files_of(folder, (LEGACY,)) else None
    return {DEFAULT: found} if isinstance(found, str) else {}


def further_templates(folder: Path) -> dict[str, Path]:
    """List the files of named chat templates by name; none if their folder is a link out of the checkpoint's."""
    own = inside(folder, folder / TEMPLATES)
    return files_of(folder / TEMPLATES, ("*.jinja",), within=folder) if own else {}


def _template_in(file: Path) -> str:
    with reading(f"{file}: expected a chat template in UTF-8, but it cannot be read", "Copy it again."):
        return read_whole(file, LARGEST_JSON).decode("utf-8")


def named_templates(value: object) -> dict[str, str]:
    """Return chat templates by name from the value in tokenizer_config.json.

    Example:
        >>> named_templates("a"), named_templates([{"name": "tool", "template": "b"}]), named_templates(None)
        ({'default': 'a'}, {'tool': 'b'}, {})
    """
    if isinstance(value, str):
        return {DEFAULT: value}
    if isinstance(value, list):
        pairs = cast(list[Mapping[str, str]], value)
        return {pair["name"]: pair["template"] for pair in pairs}
    return dict(cast(Mapping[str, str], value)) if isinstance(value, dict) else {}


def are_templates(value: object) -> bool:
    """Return whether a value in tokenizer_config.json is a chat template, or several by name.

    Example:
        >>> are_templates("a"), are_templates([{"name": "tool", "template": "b"}]), are_templates([{"name": "tool"}])
        (True, True, False)
    """
    if isinstance(value, list):
        pairs = [(one.get("name"), one.get("template")) if isinstance(one, dict) else (None,) for one in value]
        return all(isinstance(part, str) for pair in pairs for part in pair)
    parts = [*value, *value.values()] if isinstance(value, dict) else [value]
    return all(isinstance(part, str) for part in parts)


def template_of(folder: Path | None) -> str | None:
    """Read the chat template of a folder that is used without a name; None if there is none."""
    return templates_of(folder).get(DEFAULT)
