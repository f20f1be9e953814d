"""Where a checkpoint is from: its id on the hub, and the licence that its model card states."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from huggingface_hub import metadata_load
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from adamerge.experts.checkpoint import Checkpoint
from adamerge.storage.file_names import is_there

LICENCE = ("license", "license_name", "license_link")
"""Keys of a model card that state a licence."""
_FOLDERS = frozenset(
    "checkpoint checkpoints ckpt ckpts data exp experiment experiments experts logs merged model models out output "
    "outputs result results run runs save saved tmp train trained weights work workspace".split()
)
_SAVED = re.compile(r"(checkpoint|ckpt|step|epoch|run|final|best|last)[-_]?\d*", re.IGNORECASE)
"""Folders that training writes, which look like an id on the hub."""
_LICENCE_ID = re.compile(r"[a-z0-9][a-z0-9.-]*")


@dataclass(frozen=True)
class Origin:
    """Where a checkpoint is from.

    Attributes:
        hub_id: Its id on the hub; None for a local folder, whose id is unknown.
        ancestors: Ids on the hub that a local folder says it was made from.
        licence: What its model card states under the keys of `LICENCE`; empty if it states none.
    """

    hub_id: str | None = None
    ancestors: tuple[str, ...] = ()
    licence: Mapping[str, str] = field(default_factory=dict[str, str])


def origin_of(checkpoint: Checkpoint) -> Origin:
    """Read the origin of a checkpoint from its source and its README.md.

    Args:
        checkpoint: An open checkpoint.
    """
    folder = checkpoint.own_folder
    card, hub_id = _metadata(folder / "README.md"), hub_id_of(checkpoint.source, folder)
    return Origin(hub_id, () if hub_id else _ancestors(card, checkpoint.settings()), licence_in(card))


def _ancestors(card: Mapping[str, object], settings: Mapping[str, object]) -> tuple[str, ...]:
    """List the ids that a card or a configuration names as what the checkpoint was made from."""
    stated = card.get("base_model")
    names = [*(stated if isinstance(stated, list) else [stated]), settings.get("_name_or_path")]
    return tuple(dict.fromkeys(name for name in names if isinstance(name, str) and _is_remote(name)))


def _is_remote(name: str) -> bool:
    """Return whether a name can only be meant as an id on the hub: scripts save models to output/checkpoint-500, too.

    Example:
        >>> [_is_remote(name) for name in ("org/model", "output/model", "bert/checkpoint-500", "bert-base-uncased")]
        [True, False, False, False]
    """
    owner, slash, model = name.partition("/")
    return bool(slash) and owner.lower() not in _FOLDERS and not _SAVED.fullmatch(model) and _is_id(name)


def hub_id_of(source: str, folder: Path) -> str | None:
    """Return the id on the hub of a checkpoint that was opened by its id, or from the hub's cache.

    Args:
        source: The path or hub id as the user wrote it.
        folder: Folder of its files.

    Example:
        >>> hub_id_of("bert-base-uncased@main", Path("/cache/x")), hub_id_of("/x", Path("/x"))
        ('bert-base-uncased', None)
        >>> hub_id_of("/x", Path("/cache/models--google-bert--bert-base-uncased/snapshots/1"))
        'google-bert/bert-base-uncased'
    """
    cached = next((part for part in folder.parts if part.startswith("models--")), None)
    local = is_there(source) or source.startswith(("/", ".", "~"))
    name = cached.removeprefix("models--").replace("--", "/") if cached else None if local else source.partition("@")[0]
    return name if name and _is_id(name) else None


def licence_in(card: Mapping[str, object]) -> dict[str, str]:
    """Read the licence that the metadata of a model card states; empty if it states none.

    The hub accepts one lower-case licence id; others become `other` with a name. A value that is no text names none.

    Example:
        >>> licence_in({"license": "MIT", "tags": ["merge"]}), licence_in({"license": ["mit"]})
        ({'license': 'mit'}, {'license': 'mit'})
        >>> licence_in({"license": ["mit", "gpl-3.0"]}), licence_in({"license": "Our licence, v2"})["license_name"]
        ({'license': 'other', 'license_name': 'mit-gpl-3.0'}, 'our-licence-v2')
        >>> licence_in({"license": True}), licence_in({"license": ["mit", 2]})
        ({}, {'license': 'mit'})
    """
    stated = {key: own for key in LICENCE if (value := card.get(key)) and (own := _joined(value))}
    name = stated.get("license", "").lower()
    if not name:
        return stated
    taken = name if _LICENCE_ID.fullmatch(name) else "other"
    own = stated.get("license_name", "" if taken == name else name)
    link = {key: stated[key] for key in ("license_link",) if key in stated}
    return {"license": taken, **({"license_name": _slug(own)} if own else {}), **link}


def _slug(name: str) -> str:
    """Write the name of a licence as the hub takes it: small letters, digits, points and hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-") or "unnamed"


def _joined(value: object) -> str:
    texts = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]
    return ", ".join(texts).strip()


def _is_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not is_there(name)


def _metadata(card: Path) -> Mapping[str, object]:
    """Read the metadata of a model card; empty without a readable card."""
    try:
        return metadata_load(card) or {}
    except (ValueError, OSError, yaml.YAMLError):
        return {}
