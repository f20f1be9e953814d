"""All that is needed to redo a merge: resolved configuration, hashes, seed, versions."""

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path

from adamerge.config import MergeConfig
from adamerge.experts import Experts
from adamerge.job import Data

PACKAGES = ("adamerge", "torch", "transformers", "safetensors", "pytorch-lightning", "datasets", "numpy", "scipy")


def recipe(config: MergeConfig, resolved: str, experts: Experts, data: Data, run_dir: Path) -> dict[str, object]:
    """Content of recipe.json. Reads every file of base and experts once, for its hash.

    Args:
        config: What was asked for.
        resolved: The same as YAML, with everything that was left to its default.
        experts: Base and experts.
        data: For the fingerprints of the calibration rows.
        run_dir: Holds the learned coefficients.
    """
    assert experts.checkpoint is not None
    sources = {model.name: experts.tasks[model.name].checkpoint for model in config.models}
    return {
        "config": resolved,
        "seed": config.seed_everything,
        "base": {"source": config.base_model, "sha256": hash_files(experts.checkpoint.folder)},
        "experts": {
            name: {"source": checkpoint.source, "sha256": hash_files(checkpoint.folder)}
            for name, checkpoint in sources.items()
            if checkpoint is not None
        },
        "coefficients": {"sha256": _hash(run_dir / "coefficients.safetensors")},
        "calibration": dict(data.fingerprints),
        "packages": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
    }


def hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of the configuration and of each weight file of a checkpoint, by file name."""
    files = [folder / "config.json", *folder.glob("*.safetensors"), *folder.glob("*.bin")]
    return {file.name: _hash(file) for file in sorted(files)}


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
