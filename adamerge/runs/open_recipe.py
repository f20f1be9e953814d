"""Open a run's recipe, with the coefficients that it names."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from adamerge.merging.coefficients import Table, load_coefficients
from adamerge.merging.device import is_missing
from adamerge.runs.config import MergeConfig
from adamerge.runs.inputs import read_recipe
from adamerge.runs.layers import nested, together
from adamerge.runs.read_config import merge_layers, read_config, tell_stderr
from adamerge.runs.read_yaml import Document, read_yaml
from adamerge.runs.run_directory import RunDirectory
from adamerge.runs.sources import check_places
from adamerge.storage.digest import digest_of_path
from adamerge.types import ConfigError


class Recipe(NamedTuple):
    """An opened recipe.

    Attributes:
        file: recipe.json.
        content: Its content.
        config: Configuration of the run.
        learned: Coefficients of the run, which lie beside it.
        settings: Keys and values of the configuration, with the places that were given instead of its own.
    """

    file: Path
    content: Mapping[str, Any]
    config: MergeConfig
    learned: Table
    settings: Mapping[str, object]


def open_recipe(file: Path, places: Sequence[Document] = (), *, allow_code: bool = False) -> Recipe:
    """Read a recipe, and check that the coefficients beside it are its own.

    Args:
        file: recipe.json, or the run directory that holds it.
        places: Options with other places of its models and rows.
        allow_code: Whether its configuration may name code.

    Raises:
        ConfigError: There is no recipe, it is damaged or of a newer version, the coefficients are missing or others, or
            an option is no place.
    """
    file = RunDirectory(file).recipe if file.is_dir() else file
    what, way = "the recipe.json of a finished run", "Give the path of a recipe, or of a run directory."
    if not file.exists():
        raise ConfigError(f"{file}: expected {what}, but it is missing. {way}")
    content = read_recipe(file, what, way)
    text, expected = content["config"], content["coefficients"]["sha256"]
    coefficients = RunDirectory(file.parent).coefficients
    if not coefficients.is_file():
        raise ConfigError(
            f"{coefficients}: not found; a recipe needs the coefficients of its run beside it. Copy them there."
        )
    if digest_of_path(coefficients) != expected:
        raise ConfigError(
            f"{coefficients}: expected the coefficients with SHA-256 {expected[:12]}…, which the recipe names, but the "
            "file has other content. Restore it."
        )
    written = read_yaml(text, str(file))
    check_places(places, written.content, file)
    layers = [written, *places]
    then, now = (merge_layers(own, lambda note: None, allow_code=allow_code, use="keep") for own in ([written], layers))
    models = [replace(model, task=former.name) for model, former in zip(now.models, then.models, strict=True)]
    settings = together([nested(layer) for layer in layers]).content
    return Recipe(
        file, content, _on_what_is_here(replace(now, models=models)), load_coefficients(coefficients), settings
    )


def config_of(run: Path, *, allow_code: bool = False) -> MergeConfig:
    """Read the configuration of a finished run, to export or measure it again.

    Args:
        run: Run directory.
        allow_code: Whether the configuration may name code.

    Raises:
        ConfigError: There is none, it is damaged, or a newer version wrote it.
    """
    place = RunDirectory(run)
    if place.recipe.is_file():
        read_recipe(place.recipe)
    return _on_what_is_here(read_config(place.config, allow_code=allow_code))


def _on_what_is_here(config: MergeConfig) -> MergeConfig:
    """Take a device that this machine has, where it lacks that of the run: numbers are the same but for rounding."""
    if not is_missing(config.trainer.accelerator):
        return config
    tell_stderr(f"trainer.accelerator: {config.trainer.accelerator}: this machine has none, so the CPU is used.")
    return replace(config, trainer=replace(config.trainer, accelerator="cpu"))
