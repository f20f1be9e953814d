"""Places of models and rows that a run names: where they are written, and how others are given."""

import os
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from adamerge.runs.earlier_run import is_place
from adamerge.runs.flat_settings import flat
from adamerge.runs.read_yaml import Document
from adamerge.types import ConfigError, IncompatibleExpertsError

PLACE = re.compile(
    r"base_model|tokenizer|init|models\.\d+\.(model|adapter)|(models\.\d+\.(calibration|evaluation)|keep\.calibration)(\.path)?"
)
"""Dotted keys of the places of models, rows, and the run that is the start."""

_MAY_BE_WORDS = ("tokenizer", "init")
"""Those that may be a word instead of a place; a place that a run names is absolute."""

BY_OPTIONS = "Give it, where it is now, by {options}."
"""What to do with models and rows that are not where a run or its recipe says."""


def places_of(settings: Mapping[str, object]) -> dict[str, str]:
    """Return the places of models and rows in a configuration, by dotted key.

    Args:
        settings: Keys and values as in YAML.

    Example:
        >>> places_of({"base_model": "base", "models": [{"model": "a", "calibration": {"path": "a.csv"}}]})
        {'base_model': 'base', 'models.0.model': 'a', 'models.0.calibration.path': 'a.csv'}
    """
    return {key: value for key, value in flat(settings).items() if isinstance(value, str) and _is_place(key, value)}


def other_place(key: str, then: object, now: object) -> bool:
    """Return whether a setting differs by a place alone, so that the content that is found there decides.

    Args:
        key: Dotted key.
        then: Its value when the run began.
        now: Its value now.

    Example:
        >>> other_place("base_model", "/old/base", "/new/base"), other_place("tokenizer", "union", "base")
        (True, False)
    """
    return isinstance(then, str) and isinstance(now, str) and _is_place(key, then) and _is_place(key, now)


def _is_place(key: str, value: str) -> bool:
    return bool(PLACE.fullmatch(key)) and (key not in _MAY_BE_WORDS or os.path.isabs(value))


@contextmanager
def told_where(settings: Mapping[str, object], file: Path, way: str) -> Generator[None]:
    """Say, where a place is not found inside the block, where all that are gone are written and how others are given.

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
        gone = {key: place for key, place in places_of(settings).items() if _is_gone(place)}
        if not any(place in str(error) for place in gone.values()):
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
    words = [
        f"--{key}: expected the place of what {file} names, found {value!r}, which is no folder."
        for layer in layers
        for key, value in layer.content.items()
        if key in known and key in _MAY_BE_WORDS and not is_place(value)
    ]
    if words and not wrong:
        raise ConfigError(*words)
    if wrong:
        raise ConfigError(
            f"{', '.join(f'--{key}' for key in dict.fromkeys(wrong))}: expected places of models and rows that {file} "
            f"names ({', '.join(f'--{key}' for key in known)}), because nothing else of a run may be another when it "
            "is repeated."
        )
