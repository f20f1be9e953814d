"""Implementations of attention and mixtures that config.json names: those from a hub or another package are dropped.

`attn_implementation: user/repo` makes transformers download and import code when it builds the model.
"""

from collections.abc import Iterator, Mapping

from transformers import PretrainedConfig

_OWN = {
    "attn_implementation": {"eager", "sdpa"},
    "experts_implementation": {"eager", "grouped_mm", "batched_mm"},
}
"""Keys of config.json, and the values that need nothing but torch and transformers."""


def is_foreign(key: str, value: object, *, trusted: bool = False) -> bool:
    """Return whether a value of config.json names an implementation outside torch and transformers.

    Args:
        key: Key of config.json.
        value: Its value: a name, or names by part of the model.
        trusted: Whether code beside the weights may run; it may register names of its own, but not a hub's.

    Example:
        >>> [is_foreign("attn_implementation", v) for v in (None, "sdpa", "user/kernel", {"": "flash_attention_2"})]
        [False, False, True, True]
        >>> is_foreign("_attn_implementation", ["sdpa"])  # an attribute's name, and a value that names nothing
        True
    """
    key = key.removeprefix("_").removesuffix("_internal")
    if key not in _OWN or value is None:
        return False
    if isinstance(value, Mapping):
        return any(is_foreign(key, one, trusted=trusted) for one in value.values())
    return str(value) not in _OWN[key] and not (trusted and "/" not in str(value) and "flash" not in str(value))


def without_foreign(settings: object, *, trusted: bool = False) -> object:
    """Copy the content of config.json without foreign implementations, in all its parts."""
    if isinstance(settings, Mapping):
        kept = {key: value for key, value in settings.items() if not is_foreign(str(key), value, trusted=trusted)}
        return {key: without_foreign(value, trusted=trusted) for key, value in kept.items()}
    return [without_foreign(one, trusted=trusted) for one in settings] if isinstance(settings, list) else settings


def drop_foreign(source: str, config: PretrainedConfig, settings: object, *, trusted: bool = False) -> tuple[str, ...]:
    """Remove foreign implementations from a configuration and its parts; return a note for each.

    Args:
        source: Name of the checkpoint in notes.
        config: Its configuration, which is changed.
        settings: The content of config.json.
        trusted: Whether code beside the weights may run.
    """
    for part in _parts(config):
        for key in _OWN:
            if is_foreign(key, getattr(part, f"_{key}", None), trusted=trusted):
                setattr(part, f"_{key}_internal", None)
    return tuple(
        f"{source}: config.json says {word}, which would run code that is not in torch or transformers (transformers "
        "downloads kernels from the hub); it is ignored, and not in the merged config.json."
        for word in dict.fromkeys(_foreign(settings, trusted))
    )


def _parts(config: PretrainedConfig) -> Iterator[PretrainedConfig]:
    yield config
    for key in config.sub_configs:
        part = getattr(config, key, None)
        if isinstance(part, PretrainedConfig):
            yield from _parts(part)


def _foreign(settings: object, trusted: bool) -> Iterator[str]:
    """Yield every foreign implementation in the content of config.json, as "key: value"."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            if is_foreign(str(key), value, trusted=trusted):
                yield f"{key}: {value}"
            else:
                yield from _foreign(value, trusted)
    elif isinstance(settings, list):
        for one in settings:
            yield from _foreign(one, trusted)
