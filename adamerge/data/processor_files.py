"""Files of processors beside a checkpoint's weights, and whose files an exported checkpoint gets."""

import json
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.experts import Experts
from adamerge.storage.digest import digest_of_path

VOCABULARY = ("tokenizer.json", "vocab*", "*.model", "*.tiktoken", "tekken.json")
"""Patterns of the files that hold a tokenizer's vocabulary."""

_TOKENIZER = (*VOCABULARY, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
_CHAT = ("chat_template*", "generation_config.json")
_IMAGES = ("*processor_config.json",)


def files_of(folder: Path, patterns: tuple[str, ...] = (*_TOKENIZER, *_CHAT, *_IMAGES)) -> dict[str, Path]:
    """List the files of processors and of generation in a folder, by name."""
    return {file.name: file for pattern in patterns for file in sorted(folder.glob(pattern)) if file.is_file()}


def is_of_processor(name: str) -> bool:
    """Return whether a file of this name is one of a processor or of generation.

    Example:
        >>> is_of_processor("tokenizer.json"), is_of_processor("model.safetensors")
        (True, False)
    """
    return any(fnmatch(name, pattern) for pattern in (*_TOKENIZER, *_CHAT, *_IMAGES))


def lacking(folder: Path, other: Path) -> dict[str, Path]:
    """List the processor's files of another folder that this folder lacks, if it has no processor of that kind.

    Files of two tokenizers are never mixed: a vocabulary with the special tokens of another one is neither.

    Args:
        folder: An expert's folder.
        other: The base's folder.
    """
    own = {"tokenizer": files_of(folder, VOCABULARY), "images": files_of(folder, _IMAGES)}
    patterns = {"tokenizer": _TOKENIZER, "images": _IMAGES}
    found = {name: file for kind in own if not own[kind] for name, file in files_of(other, patterns[kind]).items()}
    found |= files_of(other, _CHAT)
    if template_of(folder):
        found = {name: file for name, file in found.items() if not name.startswith("chat_template")}
    return {name: file for name, file in found.items() if not (folder / name).exists()}


def template_of(folder: Path | None) -> str | None:
    """Read the chat template of a folder; None if there is none."""
    if folder is None:
        return None
    if (folder / "chat_template.jinja").exists():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    try:
        return json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError):
        return None


def exported_from(experts: Experts) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """Decide whose processor the checkpoint gets that all experts without a head share.

    If all of them bring the same files, it gets these; otherwise the base's.

    Args:
        experts: Base and experts.

    Returns:
        The checkpoint whose files are copied, and a note for the user if they are not the base's, or not the experts'.
    """
    base = experts.checkpoint
    own = {task: expert.checkpoint for task, expert in experts.tasks.items() if not expert.head}
    if base is None or not own:
        return base, ()
    names = ", ".join(own)
    found = [_contents(checkpoint) if checkpoint else {} for checkpoint in own.values()]
    first = next(iter(own.values()))
    if all(one == _contents(base) or not one for one in found):
        return base, ()
    if first is not None and found[0] and all(one == found[0] for one in found):
        note = f"the merged checkpoint gets tokenizer, processor and generation settings of {names}, not the base's."
        return first, (note,)
    note = (
        f"the merged checkpoint gets tokenizer, processor and generation settings of the base, because those of "
        f"{names} differ. Copy an expert's files into it if it shall be used as that expert is."
    )
    return base, (note,)


def _contents(checkpoint: Checkpoint) -> Mapping[str, str]:
    return {name: digest_of_path(file) for name, file in files_of(checkpoint.folder).items()}
