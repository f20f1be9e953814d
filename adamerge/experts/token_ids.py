"""Settings of a configuration that name tokens, those of its parts (text_config) too."""

from collections.abc import Mapping
from typing import cast

from adamerge.types import ConfigError, quoted

_ENDING = "_token_id"


def token_ids(config: Mapping[str, object], place: str = "") -> dict[str, object]:
    """Collect the settings that name tokens, by dotted key.

    Example:
        >>> token_ids({"eos_token_id": 2, "text_config": {"pad_token_id": 0, "dropout": 0.1}})
        {'eos_token_id': 2, 'text_config.pad_token_id': 0}
    """
    found: dict[str, object] = {}
    for key, value in config.items():
        if key.endswith(_ENDING):
            found[place + key] = value
        elif isinstance(value, dict):
            found |= token_ids(cast(Mapping[str, object], value), f"{place}{key}.")
    return found


def check_token_ids(ids: Mapping[str, object], where: str) -> None:
    """Refuse settings that name tokens, but by no index; transformers reads 0.5 as 0, and fails late on a text.

    Args:
        ids: The settings by key.
        where: File of the settings.

    Raises:
        ConfigError: Names the file, the key and the value.

    Example:
        >>> check_token_ids({"eos_token_id": [2, 3], "pad_token_id": None}, "config.json")
    """
    for key, value in ids.items():
        tokens = cast(list[object], value if isinstance(value, list | tuple) else [] if value is None else [value])
        if any(not isinstance(token, int) or isinstance(token, bool) or abs(token) >= 2**63 for token in tokens):
            raise ConfigError(
                f"{where}: {key}: expected a token's index, a list of them, or null, found {quoted(value)}. "
                "Correct the file."
            )


def with_settings(config: Mapping[str, object], ids: Mapping[str, object], place: str = "") -> dict[str, object]:
    """Set values of a configuration and of its parts, by dotted key; parts that it has not are not made.

    Example:
        >>> with_settings({"text_config": {"pad_token_id": 0}}, {"eos_token_id": 2, "text_config.pad_token_id": 1})
        {'text_config': {'pad_token_id': 1}, 'eos_token_id': 2}
    """
    parts = {
        key: with_settings(cast(Mapping[str, object], value), ids, f"{place}{key}.")
        for key, value in config.items()
        if isinstance(value, dict)
    }
    own = {key[len(place) :]: value for key, value in ids.items() if key.startswith(place)}
    return {**config, **parts, **{key: value for key, value in own.items() if "." not in key}}
