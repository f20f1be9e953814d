"""Keys of a config.json that transformers cannot read, found by leaving out one after the other."""

import copy
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from transformers import CONFIG_MAPPING, PretrainedConfig

from adamerge.storage.quiet_loggers import without_records
from adamerge.storage.regular_files import read_json, reason_of

_NAMED = 3
"""Keys of which one is wrong, at most; of more nothing is known."""

_TRIED = 2_000_000
"""Characters that are read in all trials together, at most."""


def spoilt_keys(file: str, error: Exception, attempt: Callable[[PretrainedConfig], object] | None = None) -> list[str]:
    """List the keys without each of which transformers raises nothing; if there is none, something else.

    Args:
        file: Path of a config.json.
        error: What transformers raised.
        attempt: What was done with the configuration; without it, it was read.
    """
    content = read_json(Path(file)) if Path(file).is_file() else None
    if not isinstance(content, Mapping) or len(content) * Path(file).stat().st_size > _TRIED:
        return []
    try:
        cls = CONFIG_MAPPING[str(content.get("model_type"))]
    except KeyError:  # unknown, or no text; what was read nevertheless has code of its own
        return [] if attempt else ["model_type"]
    with without_records("transformers", logging.NOTSET):  # the configuration is written out whenever a key is refused
        tried: dict[str, str] = {}
        then = _refusal(cls, content, attempt, tried)
        without = {key: _refusal(cls, content, attempt, tried, key) for key in content}
    cured = [key for key, reason in without.items() if not reason]
    keys = cured or [key for key, reason in without.items() if reason != then]
    return keys if then == reason_of(error) and len(keys) <= _NAMED else []


def _refusal(
    cls: type[PretrainedConfig],
    content: Mapping[str, object],
    attempt: Callable[[PretrainedConfig], object] | None,
    tried: dict[str, str],
    without: str = "",
) -> str:
    """Return why something cannot be done with settings; empty if it can. What is the same as before is not tried."""
    try:
        config = cls.from_dict({key: value for key, value in copy.deepcopy(dict(content)).items() if key != without})
        same = config.to_json_string()
    except Exception as error:  # transformers raises anything
        return reason_of(error)
    if attempt and same not in tried:
        try:
            attempt(config)
            tried[same] = ""
        except Exception as error:  # and here
            tried[same] = reason_of(error)
    return tried.get(same, "")
