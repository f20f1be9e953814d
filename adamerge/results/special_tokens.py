"""special_tokens_map.json of transformers 4: left out of exports where the tokenizer is the same without it."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from adamerge.data.processor_differences import digest_of_processor
from adamerge.results.beside import Beside, contents
from adamerge.storage.atomic_files import temporary_folder
from adamerge.storage.regular_files import settings_of
from adamerge.types import Fact

MAP = "special_tokens_map.json"
"""transformers 5 neither writes, replaces nor removes it, and lets it win over newer settings."""

_SAME: dict[str, bool] = {}
"""Answers by content of the tokenizer's files: most experts have one tokenizer, and a large one loads in a second."""


def copied(files: Mapping[str, Path]) -> dict[str, Path]:
    """Leave the map out of a tokenizer's files if the tokenizer is the same without it.

    Args:
        files: Files of the tokenizer by name.
    """
    return {name: file for name, file in files.items() if name != MAP or not is_redundant(files)}


def is_redundant(files: Mapping[str, Path]) -> bool:
    """Return whether transformers loads the same tokenizer with and without the map; False if it loads none.

    Code beside the tokenizer may read the map in its own way.
    """
    if "tokenizer_config.json" in files and "auto_map" in settings_of(files["tokenizer_config.json"]):
        return False
    key = contents(files)
    if key not in _SAME:
        whole = {**files, "config.json": files[MAP].parent / "config.json"}
        one, other = _digest(whole), _digest({name: file for name, file in whole.items() if name != MAP})
        _SAME[key] = one is not None and one == other
    return _SAME[key]


def _digest(files: Mapping[str, Path]) -> str | None:
    """Load a tokenizer of files that lie in several folders, and hash all that it does to texts and tokens."""
    with temporary_folder() as folder:
        for name, file in files.items():
            os.symlink(file.absolute(), folder / name) if file.is_file() else None
        try:
            found = cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
        except Exception:  # of code that is not trusted, or damaged: whoever reads the tokenizer says so
            return None
        return digest_of_processor(found) + ", ".join(found.all_special_tokens)


def map_notes(exported: Iterable[Beside]) -> list[str]:
    """Say where a map is left out of an export, and where it is needed.

    Args:
        exported: Files that accompany the weights of all exported checkpoints.
    """
    brought = [own.tokenizer for own in exported if MAP in own.tokenizer]
    needed = sorted({str(files[MAP].parent) for files in brought if not is_redundant(files)})
    notes = [
        f"{place}: {MAP} is exported, because transformers reads another tokenizer without it, or none. It does not "
        "replace this file when a tokenizer is saved in place, and reads it before what it saved: delete it then."
        for place in needed
    ]
    dropped = any(is_redundant(files) for files in brought)
    return [*notes, Fact(f"{MAP} is not copied: the tokenizer is the same without it.")] if dropped else notes
