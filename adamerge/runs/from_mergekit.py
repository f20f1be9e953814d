"""Read a mergekit configuration as the beginning of one of ours, and list what does not carry over."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from adamerge.runs.read_yaml import read_yaml_file
from adamerge.types import ConfigError

_METHODS = {"linear": "average", "task_arithmetic": "task_arithmetic"}
"""mergekit's methods whose weights mean the same in one of our presets."""

_SAME_NAME = {"ties": "ties", "dare_linear": "dare", "dare_ties": "dare", "breadcrumbs": "magnitude"}
"""mergekit's methods with a preset of the same idea, whose numbers differ."""

_CARRIED = {"merge_method", "base_model", "models", "slices", "parameters", "dtype", "out_dtype"}
_TOKENIZER = ("tokenizer", "tokenizer_source")
_OF_ENTRY = {"model", "parameters"}
_OF_KEYS = {"layer_range": "; here all layers are merged"}


@dataclass(frozen=True)
class Beginning:
    """The beginning of a configuration.

    Attributes:
        base_model: The base; None if nothing names it.
        models: Experts, each with the start coefficient in mergekit's words, None without one.
        method: Preset; None takes the one that needs no rows.
        out_dtype: Number format of the export; None if nothing names it.
        tokenizer: base, union or a model; None if nothing names it.
        dropped: What does not carry over, line by line.
    """

    base_model: str | None
    models: Mapping[str, object]
    method: str | None = None
    out_dtype: str | None = None
    tokenizer: str | None = None
    dropped: Sequence[str] = field(default_factory=tuple[str, ...])


def read_mergekit(file: Path) -> Beginning:
    """Read a mergekit configuration.

    Args:
        file: The YAML file.

    Raises:
        ConfigError: It is no mergekit configuration, or stacks layers, which a merge of equal shapes cannot.
    """
    content = read_yaml_file(file).content
    method = content.get("merge_method")
    if not isinstance(method, str):
        raise ConfigError(f"{file}: expected a configuration of mergekit, but it has no merge_method.")
    base = _model(content.get("base_model"))
    shared = _mapping(content.get("parameters"))
    entries = _entries(content, file)
    models: dict[str, object] = {}
    dropped: list[str] = []
    for entry in entries:
        name, own = _model(entry.get("model")), _mapping(entry.get("parameters"))
        if name is None:
            raise ConfigError(f"{file}: expected a model in each entry, found {dict(entry) or 'none'}. Correct it.")
        if name in models:
            dropped.append(f"{name}: it is listed twice; of two weights the last one counts here")
        models[name] = own.get("weight", shared.get("weight"))
        dropped += [f"{name}: {key}: {own[key]}" for key in own if key != "weight"]
        dropped += [f"{name}: {key}: {entry[key]}{_OF_KEYS.get(key, '')}" for key in entry if key not in _OF_ENTRY]
    preset = _METHODS.get(method)
    share, notes = _base_weight(method, base, models, shared)
    models = {name: weight for name, weight in models.items() if name != base}
    if share:
        preset, whole = "task_arithmetic", share + sum(map(_number, models.values()))
        models = {name: _number(weight) / whole for name, weight in models.items()}
    return Beginning(
        base,
        {name: weight if preset else None for name, weight in models.items()},
        preset or _SAME_NAME.get(method),
        _text(content.get("out_dtype") or content.get("dtype")),
        _tokenizer(content),
        (
            *_of_method(method, models),
            *_of_shared(method, shared),
            *notes,
            *dropped,
            *_of_rest(content),
        ),
    )


def _base_weight(
    method: str, base: str | None, models: Mapping[str, object], shared: Mapping[str, object]
) -> tuple[float, list[str]]:
    """Return the weight with which mergekit's linear averages the base in, and what is to say if it has no number.

    With it, the average is the base and task vectors times their shares of all weights.
    """
    weight = models.get(base, shared.get("weight")) if base else None
    if method != "linear" or weight is None:
        return 0.0, []
    numbers = [weight, *models.values()]
    plain = all(isinstance(one, int | float) for one in numbers) and shared.get("normalize", True) is True
    whole = sum(map(_number, numbers[1:])) + (0.0 if base in models else _number(weight))
    if plain and whole:
        return _number(weight), []
    return 0.0, [f"{base}: weight: {weight}: linear averages the base in, and here the average is of the experts alone"]


def _number(weight: object) -> float:
    return float(weight) if isinstance(weight, int | float) else 0.0


def _tokenizer(content: Mapping[str, object]) -> str | None:
    """Return the tokenizer that a configuration names, in words of ours; None for the base's."""
    found = content.get("tokenizer_source")
    found = _mapping(content.get("tokenizer")).get("source") if found is None else found
    name = _model(found)
    return None if name is None or name == "base" else name.removeprefix("model:")


def _entries(content: Mapping[str, object], file: Path) -> list[Mapping[str, object]]:
    """Return the models; those of slices if there is one slice, which then is the whole model."""
    slices = content.get("slices")
    if isinstance(slices, list) and slices:
        sources = [_mapping(one).get("sources") for one in slices]
        first = sources[0]
        parameters = _mapping(_mapping(slices[0]).get("parameters"))
        if len(slices) > 1 or not isinstance(first, list):
            raise ConfigError(
                f"{file}: expected models, found {len(slices)} slices, which stack layers of several models; here "
                "base and experts have the same layers. Write a configuration with models."
            )
        return [
            {**_mapping(one), "parameters": {**parameters, **_mapping(_mapping(one).get("parameters"))}}
            for one in first
        ]
    models = content.get("models")
    if not isinstance(models, list):
        raise ConfigError(f"{file}: expected a list under models, found {type(models).__name__}.")
    return [_mapping(one) for one in models]


def _of_method(method: str, models: Mapping[str, object]) -> Iterator[str]:
    if method in _METHODS:
        return
    weights = any(weight is not None for weight in models.values())
    beside = "; weights are not taken over" if weights else ""
    if method in _SAME_NAME:
        ours = _SAME_NAME[method]
        yield f"merge_method: {method}: {ours} is the same idea with other numbers (density, scale){beside}"
    else:
        yield f"merge_method: {method}: there is no preset of this name{beside}"


def _of_shared(method: str, shared: Mapping[str, object]) -> Iterator[str]:
    """List the parameters of all models that are neither their weight nor our default."""
    usual = {"normalize": method == "linear", "lambda": 1.0, "rescale": method.startswith(("dare", "della"))}
    for key, value in shared.items():
        if key != "weight" and usual.get(key) != value:
            yield f"parameters: {key}: {value}"


def _of_rest(content: Mapping[str, object]) -> Iterator[str]:
    for key, value in content.items():
        if key in _CARRIED or key in _TOKENIZER:
            continue
        yield f"{key}: {value}"
    yield from (f"tokenizer: {k}: {v}" for k, v in _mapping(content.get("tokenizer")).items() if k != "source")
    if _text(content.get("dtype")) not in (None, "float32") and not content.get("out_dtype"):
        yield f"dtype: {content['dtype']}: merges are computed in more bits, and rounded to it once (out_dtype)"


def _model(value: object) -> str | None:
    """Name a model, which mergekit allows as a text or as {model: {path: …, revision: …}}."""
    if isinstance(value, Mapping):
        inner = value.get("model", value)
        if isinstance(inner, Mapping):
            path, revision = _text(inner.get("path")), _text(inner.get("revision"))
            return f"{path}@{revision}" if path and revision else path
        value = inner
    name = _text(value)
    return name.rpartition("+")[2] if name and "+" in name else name  # base+adapter: the adapter is the expert


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str | None:
    return None if value is None else str(value)
