"""Recipe of a merge: resolved configuration, hashes, seed and versions, enough to repeat it."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import cast

from adamerge.runs.begun_run import may_differ
from adamerge.runs.config import MergeConfig
from adamerge.runs.flat_settings import flat_settings
from adamerge.runs.run_directory import RunDirectory
from adamerge.runs.sources import other_place
from adamerge.storage.digest import digest_of_json, digest_of_path
from adamerge.storage.kept import Key

PACKAGES = ("adamerge", "torch", "transformers", "safetensors", "pytorch-lightning", "datasets", "numpy", "scipy")


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


def key_of_run(made_from: Mapping[str, object], resolved: str) -> Key:
    """Compute the cache key of a run from its inputs, wherever they lie, and from all settings that must not differ."""
    fixed = {key: value for key, value in flat_settings(resolved).items() if not may_differ(key)}
    settings = {key: value for key, value in fixed.items() if not other_place(key, value, value)}
    settings |= {"init": start["sha256"]} if isinstance(start := made_from.get("start"), Mapping) else {}
    models = [made_from["base"], *cast(Mapping[str, object], made_from["experts"]).values()]
    experts = [cast(Mapping[str, object], model)["sha256"] for model in models]
    rows = [made_from["data"], made_from["processors"]]
    return {
        "experts": digest_of_json(experts),
        "rows": digest_of_json(rows),
        "settings": digest_of_json(settings),
    }
