"""Find the files that accompany the weights of a checkpoint; all other files stay where they are."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath

from adamerge.data.processor_files import (
    LEGACY,
    TEMPLATE,
    TEMPLATES,
    files_of,
    further_templates,
    has_tokenizer,
    templates_of,
)
from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.file_patterns import HEADS, LICENCES, PROCESSOR, TOKENIZER
from adamerge.experts.name_patterns import several
from adamerge.experts.other_folders import to_keep_modules
from adamerge.experts.token_ids import token_ids
from adamerge.results.generation_settings import refused_generation
from adamerge.results.sentence_modules import MODULES, SETTINGS, Modules, read_modules
from adamerge.storage.digest import digest_of_json, digest_of_path
from adamerge.storage.links import inside
from adamerge.storage.regular_files import settings_of
from adamerge.types import Fact

_LICENCE = re.compile(rf"({'|'.join(LICENCES)})([-_][\w-]*(\.\d+)*)?(\.(txt|md|rst|html))?", re.IGNORECASE)
_OF_A_KEY = re.compile(r"[._-].*(password|secret|token|credential|server|env|key)", re.IGNORECASE)
"""Names of what grants a licence: license.key is not the text of one."""
_GENERATION = "generation_config.json"
_WRITTEN_ANEW = re.compile(
    r"(adapter_)?config\.json|.*\.index\.json|(adapter_)?model.*\.safetensors|pytorch_model.*\.bin"
)
_OF_A_REPOSITORY = {"README.md", ".gitattributes"}
"""Files of a repository on the hub: an export has a card of its own."""

_ORIGIN = {
    "transformers_version",
    "_from_model_config",
    "name_or_path",
    "_name_or_path",
    "_commit_hash",
    "chat_template",
    "is_local",
    "local_files_only",
    "processor_class",
    "tokenizer_file",
    "__version__",
}
"""Keys of settings that say where a file is from, or that are compared apart."""


@dataclass(frozen=True)
class Beside:
    """Files and settings that accompany the weights of a checkpoint.

    Attributes:
        tokenizer: Files of the tokenizer by name, without chat templates.
        processor: Files of processors of images, videos and sound.
        templates: Chat templates by name.
        generation: Settings of generation_config.json.
        token_ids: Settings of config.json that name tokens, such as eos_token_id, by dotted key.
        modules: Modules of sentence-transformers.
        heads: Files of heads that other programs keep beside an encoder.
        others: Licence, and code that may run.
    """

    tokenizer: Mapping[str, Path] = field(default_factory=dict[str, Path])
    processor: Mapping[str, Path] = field(default_factory=dict[str, Path])
    templates: Mapping[str, str] = field(default_factory=dict[str, str])
    generation: Mapping[str, object] = field(default_factory=dict[str, object])
    token_ids: Mapping[str, object] = field(default_factory=dict[str, object])
    modules: Modules | None = None
    heads: Mapping[str, Path] = field(default_factory=dict[str, Path])
    others: Mapping[str, Path] = field(default_factory=dict[str, Path])

    @property
    def code(self) -> dict[str, Path]:
        """Files of code among the others."""
        return {name: file for name, file in self.others.items() if name.endswith(".py")}


def read_beside(checkpoint: Checkpoint) -> Beside:
    """Read the files that accompany the weights of a checkpoint; of large ones only the names.

    An adapter over a model of its own brings the files beside it, and for the rest those beside that model.
    """
    trusted, unpickle = checkpoint.trust_remote_code, checkpoint.allow_pickle
    first, *rest = [_read(folder, trusted=trusted, unpickle=unpickle) for folder in checkpoint.folders]
    for other in rest:
        first = _over(first, other)
    return first


def _over(own: Beside, below: Beside) -> Beside:
    """Fill what a folder does not bring with what the one below it has."""
    found = {one.name: getattr(own, one.name) or getattr(below, one.name) for one in fields(Beside)}
    return Beside(**{**found, "token_ids": {**below.token_ids, **own.token_ids}})


def _read(folder: Path, *, trusted: bool, unpickle: bool) -> Beside:
    code = ("*.py",) if trusted else ()
    texts = {name: file for name, file in files_of(folder, ("*",)).items() if _LICENCE.fullmatch(name)}
    licence = {name: file for name, file in texts.items() if not _OF_A_KEY.search(name)}
    return Beside(
        files_of(folder, TOKENIZER) if has_tokenizer(folder) else {},
        files_of(folder, PROCESSOR),
        templates_of(folder),
        _generation(folder),
        token_ids(settings_of(folder / "config.json")),
        read_modules(folder, unpickle=unpickle),
        files_of(folder, HEADS),
        {**licence, **files_of(folder, code)},
    )


def files_beside(checkpoint: Checkpoint) -> dict[str, Path]:
    """List the files beside a checkpoint's weights that exports are made from, by path in its folder."""
    own = read_beside(checkpoint)
    modules = own.modules.modules if own.modules else ()
    found = {name: file for module in modules for name, file in {**module.files, **module.weights}.items()}
    beside = [_files_in(folder) for folder in reversed(checkpoint.folders)]  # the first one counts
    return {
        **{name: file for files in beside for name, file in files.items()},
        **own.heads,
        **own.others,
        **found,
    }


def unread(checkpoint: Checkpoint) -> list[str]:
    """Name the files of settings beside a checkpoint's weights that are no JSON, or that transformers refuses."""
    settings = ("config.json", MODULES, LEGACY)
    files = {name: file for name, file in files_beside(checkpoint).items() if name.endswith(settings)}
    damaged = [name for name, file in files.items() if not _is_json(file)]
    file = files.get(_GENERATION)
    refused = refused_generation(file.parent) if file is not None and _GENERATION not in damaged else ""
    notes = {
        f"{several(damaged)}: expected JSON, which cannot be read; taken as absent. Copy or download it again, or "
        "remove it.": damaged,
        refused: refused,
    }
    return [f"{checkpoint.source}: {note}" for note, found in notes.items() if found]


def _is_json(file: Path) -> bool:
    try:
        return isinstance(json.loads(file.read_text(encoding="utf-8")), dict | list)
    except (OSError, ValueError):
        return False


def remarks_on(checkpoint: Checkpoint) -> list[str]:
    """Say what of a checkpoint's folder, and of those above it, an export does not have, and why."""
    kinds = (left_behind, unread, _missing_code, _modules_outside, _modules_above)
    return [line for kind in kinds for line in kind(checkpoint)]


def _missing_code(checkpoint: Checkpoint) -> list[str]:
    """Say which modules need code beside the weights that is not copied, because nobody allowed it to run."""
    own = None if checkpoint.trust_remote_code else read_beside(checkpoint).modules
    code = {str(module.entry.get("type")).partition(".")[0] for module in own.modules} if own else set[str]()
    files = [f"{name}.py" for name in sorted(code)]
    found = [file for file in files if any((folder / file).is_file() for folder in checkpoint.folders)]
    if not found:
        return []
    return [
        f"{checkpoint.source}: {MODULES} names classes in {several(found)}, which is not copied, so "
        "sentence-transformers cannot load an export with these modules. Set trust_remote_code: true to copy it."
    ]


def _modules_outside(checkpoint: Checkpoint) -> list[str]:
    """Say which modules are left out because they are not in the folder of their checkpoint."""
    own = read_beside(checkpoint).modules
    if own is None or not own.outside:
        return []
    return [
        f"{checkpoint.source}: {MODULES}: expected folders inside this one, found {several(own.outside)}; these are "
        "left out, so sentence-transformers computes other embeddings of an export. Copy them into the folder."
    ]


def _modules_above(checkpoint: Checkpoint) -> list[str]:
    """Say that a checkpoint is the transformer of a sentence encoder whose modules are in a folder above its own."""
    folder = checkpoint.own_folder.absolute()
    for above in folder.parents[:2]:
        found = read_modules(above)
        paths = [module.path for module in found.modules] if found else []
        own = [path for path in paths if path and folder.is_relative_to(above / path)]
        if own:
            others = [path for path in paths if path and path not in own]
            return [
                f"{checkpoint.source}: {above / MODULES} names it as a part of a sentence encoder. Its other modules "
                f"({several(others) or 'none has a folder'}) are not merged and not copied; without modules "
                f"sentence-transformers takes the mean of all tokens. {to_keep_modules(above)}."
            ]
    return []


def names_beside(checkpoint: Checkpoint) -> set[str]:
    """List the names of files and folders that an export may have of a checkpoint, and of its own model card."""
    own = read_beside(checkpoint)
    modules = own.modules.names if own.modules else set[str]()
    return {"README.md", TEMPLATES, *modules, *(PurePosixPath(name).parts[0] for name in files_beside(checkpoint))}


def _files_in(folder: Path) -> dict[str, Path]:
    named = {f"{TEMPLATES}/{name}": file for name, file in further_templates(folder).items()}
    return {**files_of(folder), **files_of(folder, SETTINGS), **named}


def _generation(folder: Path) -> dict[str, object]:
    found = files_of(folder, (_GENERATION,))
    settings = settings_of(folder / _GENERATION) if found else {}
    return {key: value for key, value in settings.items() if key not in _ORIGIN}


def contents(files: Mapping[str, Path]) -> str:
    """Hash files by name, settings without the keys that say where a file is from; empty without files."""
    return digest_of_json({name: _content(file) for name, file in files.items()}) if files else ""


def _content(file: Path) -> object:
    found = settings_of(file) if file.name.endswith("config.json") else {}
    return {key: value for key, value in found.items() if key not in _ORIGIN} or digest_of_path(file)


def _not_templates(folder: Path) -> list[str]:
    """List what lies in the folder of named templates and is none, by path in the checkpoint's folder."""
    place, named = folder / TEMPLATES, set(further_templates(folder).values())
    entries = sorted(place.rglob("*")) if inside(folder, place) else []
    return [
        e.relative_to(folder).as_posix() for e in entries if e not in named and not e.is_dir() and inside(folder, e)
    ]


def left_behind(checkpoint: Checkpoint) -> list[str]:
    """Describe what a folder has beyond its checkpoint, which is not copied, and links that lead out of it.

    Args:
        checkpoint: The checkpoint.

    Returns:
        At most two lines.
    """
    folder, own = checkpoint.folder, read_beside(checkpoint)
    taken = {*own.tokenizer, *own.processor, *own.heads, *own.others, TEMPLATE, _GENERATION, *SETTINGS}
    taken |= _OF_A_REPOSITORY
    taken |= {file.name for file in checkpoint.tensors.files} | (own.modules.names if own.modules else set())
    taken |= {TEMPLATES, LEGACY, "tokenizer_config.json"} if own.templates else set()
    entries = [e for e in sorted(folder.iterdir()) if not _WRITTEN_ANEW.fullmatch(e.name) or e.is_dir()]
    outside = [entry.name for entry in entries if not inside(folder, entry)]
    deep = {*(own.modules.names if own.modules else ()), TEMPLATES}
    deeper = [file for name in deep if inside(folder, folder / name) for file in (folder / name).rglob("*")]
    outside += [file.relative_to(folder).as_posix() for file in sorted(deeper) if not inside(folder, file)]
    names = [e.name + "/" * e.is_dir() for e in entries if e.name not in taken and e.name not in outside]
    names += own.modules.passed_over if own.modules else ()
    names += _not_templates(folder)
    lines: list[str] = []
    if names:
        lines.append(
            Fact(
                f"{checkpoint.source}: not copied, because no checkpoint needs them ({len(names)} files or folders): "
                f"{several(names)}."
            )
        )
    if outside:
        lines.append(
            f"{checkpoint.source}: links that lead out of the folder are not followed when files are copied: "
            f"{several(outside)}. Put the files themselves there if they belong to the model."
        )
    return lines
