"""Open a run's recipe, with the coefficients that it names."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from adamerge.merging.coefficients import Table, load_coefficients
from adamerge.runs.config import MergeConfig
from adamerge.runs.inputs import read_recipe
from adamerge.runs.layers import nested, together
from adamerge.runs.read_config import merge_layers
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
    _check_version(content, file)
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
    return Recipe(file, content, replace(now, models=models), load_coefficients(coefficients), settings)


def _check_version(content: Mapping[str, Any], file: Path) -> None:
    """Refuse what a newer version wrote: its keys may be unknown here, or mean something else.

    Raises:
        ConfigError: The recipe is of a newer version.
    """
    packages = content.get("packages")
    made, own = str(packages.get("adamerge", "")) if isinstance(packages, Mapping) else "", version("adamerge")
    if _numbers(made) > _numbers(own):
        raise ConfigError(
            f"{file}: expected the recipe of adamerge {own} or an earlier version, found one of {made}, whose settings "
            f'may mean something else here. Install it: pip install "adamerge>={made}"'
        )


def _numbers(text: str) -> list[int]:
    """Read the numbers of a version.

    Example:
        >>> _numbers("0.10.1") > _numbers("0.9")
        True
    """
    return [int(part) for part in text.split(".") if part.isdecimal()]
