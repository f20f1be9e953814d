"""All that is needed to redo a merge: resolved configuration, hashes, seed, versions."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.experts import Experts
from adamerge.runs.config import MergeConfig
from adamerge.runs.load_rows import Data
from adamerge.runs.paths import anchor
from adamerge.runs.run_directory import MAY_DIFFER, RunDirectory, flat_settings
from adamerge.storage.atomic_files import write_text
from adamerge.storage.digest import digest_of_json, digest_of_path
from adamerge.storage.kept import Key
from adamerge.types import ConfigError

PACKAGES = ("adamerge", "torch", "transformers", "safetensors", "pytorch-lightning", "datasets", "numpy", "scipy")


def inputs(config: MergeConfig, experts: Experts, data: Data) -> dict[str, object]:
    """What a run is made from: hashes of base and experts and of the rows. Inspected files are not read again.

    Args:
        config: What was asked for.
        experts: Base and experts.
        data: For the fingerprints of the rows.
    """
    assert experts.checkpoint is not None
    sources = {model.name: experts.tasks[model.name].checkpoint for model in config.models}
    return {
        "base": {"source": anchor(config.base_model), "sha256": hash_files(experts.checkpoint)},
        "experts": {
            name: {"source": anchor(checkpoint.source), "sha256": hash_files(checkpoint)}
            for name, checkpoint in sources.items()
            if checkpoint is not None
        },
        "data": dict(data.fingerprints),
    }


def recipe(config: MergeConfig, resolved: str, made_from: Mapping[str, object], run: RunDirectory) -> dict[str, object]:
    """Content of recipe.json.

    Args:
        config: What was asked for.
        resolved: The same as YAML, with everything that was left to its default.
        made_from: What `inputs` found.
        run: Holds the learned coefficients.
    """
    return {
        "config": resolved,
        "seed": config.seed_everything,
        **made_from,
        "coefficients": {"sha256": digest_of_path(run.coefficients)},
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


def key_of_run(made_from: Mapping[str, object], resolved: str) -> Key:
    """Key of what a run learns: `inputs`, and the settings without those that a resumed run may change."""
    settings = {key: value for key, value in flat_settings(resolved).items() if key not in MAY_DIFFER}
    experts, rows = {key: made_from[key] for key in ("base", "experts")}, made_from["data"]
    return {
        "experts": digest_of_json(experts),
        "rows": digest_of_json(rows),
        "settings": digest_of_json(settings),
    }


def hash_files(checkpoint: Checkpoint) -> dict[str, str]:
    """SHA-256 of the configuration and of each weight file of a checkpoint, by file name."""
    folder, known = checkpoint.folder, checkpoint.tensors.files
    files = [folder / "config.json", *folder.glob("*.safetensors"), *folder.glob("*.bin")]
    return {file.name: known[file].hexdigest() if file in known else digest_of_path(file) for file in sorted(files)}
