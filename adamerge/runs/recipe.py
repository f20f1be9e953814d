"""Recipe of a merge: resolved configuration, hashes, seed and versions, enough to repeat it."""

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
    """Hash the inputs of a run: base, experts and rows. Files that were read completely before are not read again.

    Args:
        config: Configuration.
        experts: Base and experts.
        data: Rows with their fingerprints.

    Returns:
        Sources and SHA-256 of base, experts and rows, as JSON values.
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
        "processors": dict(data.processors),
    }


def recipe(
    config: MergeConfig,
    resolved: str,
    made_from: Mapping[str, object],
    run: RunDirectory,
    shares: Mapping[str, object],
) -> dict[str, object]:
    """Build the content of recipe.json.

    Args:
        config: Configuration.
        resolved: The same configuration as YAML, with all defaults.
        made_from: Result of `inputs`.
        run: Run directory with the learned coefficients.
        shares: Shares of what was merged in that rounding left.
    """
    return {
        "config": resolved,
        "seed": config.seed_everything,
        **made_from,
        "coefficients": {"sha256": digest_of_path(run.coefficients)},
        "surviving_share": shares,
        "packages": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
    }


def remember(made_from: Mapping[str, object], file: Path) -> None:
    """Write the inputs of a new run to a file; for a resumed run, check that they are the same.

    Args:
        made_from: Result of `inputs`.
        file: File of the inputs.

    Raises:
        ConfigError: A checkpoint or rows changed since the run began; names which.
    """
    now = json.loads(json.dumps(made_from, allow_nan=False))
    if not file.exists():
        write_text(file, json.dumps(now, indent=2, allow_nan=False) + "\n")
        return
    try:
        then = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(
            f"{file}: expected what the run was made from, as JSON, but the file is damaged ({error}). "
            "Start a new run in another run_dir."
        ) from error
    now = {kind: now[kind] for kind in now if kind in then}  # version 0.1.0 did not hash processors
    if then == now:
        return
    changed = [f"base {now['base']['source']}"] if then["base"] != now["base"] else []
    changed += [
        f"{kind} of {task}"
        for kind in ("experts", "data", "processors")
        for task in now.get(kind, {})
        if then[kind].get(task) != now[kind][task]
    ]
    raise ConfigError(
        f"{file.parent}: {', '.join(changed)} changed since this run began. "
        "Restore the former files, or start a new run in another run_dir."
    )


def key_of_run(made_from: Mapping[str, object], resolved: str) -> Key:
    """Compute the cache key of a run from its inputs and from all settings that a resumed run may not change."""
    settings = {key: value for key, value in flat_settings(resolved).items() if key not in MAY_DIFFER}
    experts, rows = {key: made_from[key] for key in ("base", "experts")}, [made_from["data"], made_from["processors"]]
    return {
        "experts": digest_of_json(experts),
        "rows": digest_of_json(rows),
        "settings": digest_of_json(settings),
    }


def hash_files(checkpoint: Checkpoint) -> dict[str, str]:
    """Hash the configuration and each weight file of a checkpoint by SHA-256, per file name."""
    folder, known = checkpoint.adapter or checkpoint.folder, checkpoint.tensors.files
    configs = [file for file in (folder / "config.json", folder / "adapter_config.json") if file.exists()]
    files = sorted([*configs, *folder.glob("*.safetensors"), *folder.glob("*.bin")])
    own = {file.name: known[file].hexdigest() if file in known else digest_of_path(file) for file in files}
    below = checkpoint.beneath
    if below is None or below.folder == folder:
        return own
    return {**own, **{f"model/{name}": digest for name, digest in hash_files(below).items()}}
