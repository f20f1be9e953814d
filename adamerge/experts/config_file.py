"""config.json of a checkpoint, read by transformers after its counts are looked at."""

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from transformers import AutoConfig, PretrainedConfig

from adamerge.experts.spoilt_keys import spoilt_keys
from adamerge.experts.token_ids import check_token_ids, token_ids
from adamerge.storage.quiet_loggers import without_records
from adamerge.storage.regular_files import read_json, reason_of
from adamerge.types import ConfigError, quoted

LAYERS = re.compile(r"(^|_)(layers?|depths?|blocks?|block_sizes|attention_types|inner_group_num|dense_replace)$")
"""Keys of config.json that count layers, or what transformers lists for each."""

_MOST_LAYERS = 10_000
"""Number of layers above which no configuration is built: transformers lists something for each."""

_MOST_LABELS = 10**6
"""Number of labels above which no configuration is built: transformers names each."""


def read_config_file(folder: Path, *, trust_remote_code: bool) -> PretrainedConfig:
    """Read config.json by transformers, which raises anything on values that it does not expect.

    Args:
        folder: Folder of a checkpoint.
        trust_remote_code: Whether Python code beside the weights may run.

    Raises:
        ConfigError: It is no configuration of a model that transformers knows.
    """
    file = folder / "config.json"
    content = read_json(file)
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: expected keys and values, found something else. Copy or download the file again.")
    for key, number in numbers(content):
        most = _MOST_LAYERS if LAYERS.search(key) else _MOST_LABELS if key.endswith("num_labels") else number
        if number > most:
            raise ConfigError(f"{file}: {key}: expected at most {most}, found {number}. Correct the file.")
    check_token_ids(token_ids(content), str(file))
    _check_architectures(content.get("architectures"), file)
    try:
        with without_records("transformers", logging.ERROR):  # the error below says it
            config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
            config.to_json_string()
    except Exception as error:  # transformers raises anything
        keys = [] if trust_remote_code else spoilt_keys(str(file), error)
        place = f"{file}: {', '.join(keys)}" if keys else str(file)
        raise ConfigError(
            f"{place}: expected the configuration of a transformers model, but transformers cannot read it "
            f"({reason_of(error)}). Correct the file, or copy or download it again."
        ) from error
    return config


def _check_architectures(named: object, file: Path) -> None:
    """Refuse names of classes that are no texts; transformers takes anything."""
    names = named if isinstance(named, list) else [] if named is None else [named]
    if not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"{file}: architectures: expected a list with the name of a class, found {quoted(named)}. Correct the file."
        )


def file_of(config: object) -> str:
    """Return the config.json that a module's configuration was read from; its name alone if that is unknown.

    Example:
        >>> file_of(None)
        'config.json'
    """
    folder = getattr(config, "name_or_path", None)
    return str(Path(folder) / "config.json") if folder and isinstance(folder, str) else "config.json"


def numbers(value: object, key: str = "") -> Iterator[tuple[str, int]]:
    """Yield the whole numbers of a configuration by dotted key.

    Example:
        >>> list(numbers({"num_labels": 2, "text_config": {"num_hidden_layers": 12}, "depths": [1, 2]}))
        [('num_labels', 2), ('text_config.num_hidden_layers', 12), ('depths', 1), ('depths', 2)]
    """
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from numbers(inner, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from numbers(inner, key)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield key, value
