"""A configuration as transformers builds it of the content of config.json."""

from collections.abc import Mapping
from typing import cast

from transformers import CONFIG_MAPPING, PretrainedConfig

_FLOAT = "__float__"
"""How JSON spells some floats."""


def built_config(settings: Mapping[str, object]) -> PretrainedConfig | None:
    """Build a configuration; None if its class is not one of transformers'."""
    kind = str(settings.get("model_type"))
    return (
        CONFIG_MAPPING[kind].from_dict(cast(dict[str, object], _decoded(settings))) if kind in CONFIG_MAPPING else None
    )


def _decoded(value: object) -> object:
    """Copy a JSON value, with the floats that transformers spells in it: {"__float__": "Infinity"}.

    Example:
        >>> _decoded({"time_step_limit": [0.0, {"__float__": "Infinity"}]})
        {'time_step_limit': [0.0, inf]}
    """
    if isinstance(value, list):
        return [_decoded(one) for one in cast(list[object], value)]
    if not isinstance(value, Mapping):
        return value
    if set(value) == {_FLOAT}:
        return float(cast(str, value[_FLOAT]))
    return {key: _decoded(one) for key, one in cast(Mapping[str, object], value).items()}
