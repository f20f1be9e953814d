"""Settings by dotted keys, to compare two configurations."""

import yaml

from adamerge.runs.saved import RECORD

FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Loader of YAML that we wrote ourselves."""


def flat_settings(resolved: str) -> dict[str, object]:
    """Flatten a configuration to dotted keys, without the record of keys that the user wrote.

    Example:
        >>> flat_settings("trainer: {max_steps: 3}")
        {'trainer.max_steps': 3}
    """
    return flat({key: value for key, value in yaml.load(resolved, FAST).items() if key not in RECORD})


def flat(value: object, key: str = "") -> dict[str, object]:
    """Flatten nested settings to dotted keys.

    Example:
        >>> flat({"trainer": {"max_steps": 3}, "models": ["a"]})
        {'trainer.max_steps': 3, 'models.0': 'a'}
    """
    if not isinstance(value, dict | list) or not value:
        return {key: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {k: v for name, inner in items for k, v in flat(inner, f"{key}.{name}" if key else str(name)).items()}
