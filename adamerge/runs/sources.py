"""Places of models and rows that a finished run names: where they are written, and how others are given."""

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from adamerge.runs.read_yaml import Document
from adamerge.types import ConfigError, IncompatibleExpertsError


def places_of(settings: Mapping[str, object]) -> dict[str, str]:
    """Return the places of models and rows in a configuration, by dotted key.

    Args:
        settings: Keys and values as in YAML.

    Example:
        >>> places_of({"base_model": "base", "models": [{"model": "a", "calibration": {"path": "a.csv"}}]})
        {'base_model': 'base', 'models.0.model': 'a', 'models.0.calibration.path': 'a.csv'}
    """
    models, keep = settings.get("models"), settings.get("keep")
    found = dict(_texts(settings, ("base_model", "tokenizer"), ""))
    for number, model in enumerate(models if isinstance(models, list) else []):
        found |= _texts(model, ("model", "adapter", "calibration", "evaluation"), f"models.{number}.")
    return found | dict(_texts(keep, ("calibration",), "keep."))


def _texts(settings: object, keys: Sequence[str], place: str) -> Iterator[tuple[str, str]]:
    for key in keys if isinstance(settings, Mapping) else ():
        value, dotted = cast(Mapping[str, object], settings).get(key), f"{place}{key}"
        if isinstance(value, Mapping):
            value, dotted = cast(Mapping[str, object], value).get("path"), f"{dotted}.path"
        if isinstance(value, str):
            yield dotted, value


@contextmanager
def told_where(settings: Mapping[str, object], file: Path, way: str) -> Generator[None]:
    """Say, of each place that is not found inside the block, where it is written and how another is given.

    Args:
        settings: Keys and values of the file's configuration.
        file: The file.
        way: What to do, with `{options}`.

    Raises:
        ConfigError: What was raised inside, with the advice if a place is the reason.
    """
    try:
        yield
    except (ConfigError, IncompatibleExpertsError) as error:
        gone = [key for key, place in places_of(settings).items() if place in str(error) and _is_gone(place)]
        if not gone:
            raise
        options = " ".join(f"--{key} PLACE" for key in gone)
        advice = way.format(options=options)
        where = f"{file}: {', '.join(gone)}: expected the place of what the run was made from, found nothing there."
        raise ConfigError(*error.problems, f"{where} {advice}") from error


def _is_gone(place: str) -> bool:
    """Return whether a place is a path, as a run writes what was there when it began, with nothing there now."""
    return os.path.isabs(place) and not os.path.lexists(place)


def check_places(layers: Sequence[Document], settings: Mapping[str, object], file: Path) -> None:
    """Check that options give other places only: what repeats a run has its settings.

    Args:
        layers: The options.
        settings: Keys and values of the run's configuration.
        file: File of the configuration.

    Raises:
        ConfigError: An option is another key, or a file.
    """
    known = places_of(settings)
    wrong = [key for layer in layers for key in layer.content if layer.file or key not in known]
    if wrong:
        raise ConfigError(
            f"{', '.join(f'--{key}' for key in dict.fromkeys(wrong))}: expected places of models and rows that {file} "
            f"names ({', '.join(f'--{key}' for key in known)}), because nothing else of a run may be another when it "
            "is repeated."
        )
