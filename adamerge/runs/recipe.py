"""All that is needed to redo a merge: resolved configuration, hashes, seed, versions."""

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from adamerge.experts.experts import Experts
from adamerge.merging.coefficients import COEFFICIENTS
from adamerge.runs.config import MergeConfig
from adamerge.runs.load_rows import Data
from adamerge.runs.paths import anchor
from adamerge.storage.atomic_files import write_text
from adamerge.types import ConfigError

PACKAGES = ("adamerge", "torch", "transformers", "safetensors", "pytorch-lightning", "datasets", "numpy", "scipy")


def inputs(config: MergeConfig, experts: Experts, data: Data) -> dict[str, object]:
    """What a run is made from: hashes of base and experts and of the rows. Reads every file of them once.

    Args:
        config: What was asked for.
        experts: Base and experts.
        data: For the fingerprints of the rows.
    """
    assert experts.checkpoint is not None
    sources = {model.name: experts.tasks[model.name].checkpoint for model in config.models}
    return {
        "base": {"source": anchor(config.base_model), "sha256": hash_files(experts.checkpoint.folder)},
        "experts": {
            name: {"source": anchor(checkpoint.source), "sha256": hash_files(checkpoint.folder)}
            for name, checkpoint in sources.items()
            if checkpoint is not None
        },
        "data": dict(data.fingerprints),
    }


def recipe(config: MergeConfig, resolved: str, made_from: Mapping[str, object], run_dir: Path) -> dict[str, object]:
    """Content of recipe.json.

    Args:
        config: What was asked for.
        resolved: The same as YAML, with everything that was left to its default.
        made_from: What `inputs` found.
        run_dir: Holds the learned coefficients.
    """
    return {
        "config": resolved,
        "seed": config.seed_everything,
        **made_from,
        "coefficients": {"sha256": _hash(run_dir / COEFFICIENTS)},
        "packages": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
    }


def remember(made_from: Mapping[str, object], file: Path) -> None:
    """Note what a run is made from when it begins; when it goes on, refuse to do so with something else.

    Raises:
        ConfigError: A checkpoint or the rows have changed since; names which.
    """
    now = json.loads(json.dumps(made_from, allow_nan=False))
    if not file.exists():
        write_text(file, json.dumps(now, indent=2, allow_nan=False) + "\n")
        return
    then = json.loads(file.read_text(encoding="utf-8"))
    if then == now:
        return
    changed = [f"base {now['base']['source']}"] if then["base"] != now["base"] else []
    changed += [
        f"{kind} of {task}"
        for kind in ("experts", "data")
        for task in now[kind]
        if then[kind].get(task) != now[kind][task]
    ]
    raise ConfigError(
        f"{file.parent}: {', '.join(changed)} changed since this run began. "
        "Put back what it was, or start anew in another run_dir."
    )


def hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of the configuration and of each weight file of a checkpoint, by file name."""
    files = [folder / "config.json", *folder.glob("*.safetensors"), *folder.glob("*.bin")]
    return {file.name: _hash(file) for file in sorted(files)}


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
