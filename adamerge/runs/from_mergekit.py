"""Read a mergekit configuration as the beginning of one of ours, and list what does not carry over."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from adamerge.runs.mergekit_values import Named, filters, listed, mapping, named, number, text_of
from adamerge.runs.read_yaml import read_yaml_file
from adamerge.types import ConfigError

_METHODS = {"linear": "average", "task_arithmetic": "task_arithmetic"}
"""mergekit's methods whose weights mean the same in one of our presets."""

_SAME_NAME = {"ties": "ties", "dare_linear": "dare", "dare_ties": "dare", "breadcrumbs": "magnitude"}
"""mergekit's methods with a preset of the same idea, whose numbers differ."""

_OF_TWO = {"slerp", "nearswap", "arcee_fusion"}
"""mergekit's methods whose base_model is one of the two models that they join, and not what these were trained from."""

_CARRIED = {"merge_method", "base_model", "models", "slices", "parameters", "dtype", "out_dtype"}
_TOKENIZER = ("tokenizer", "tokenizer_source")
_OF_ENTRY = {"model", "parameters"}
_OF_SLICE = {"sources", "parameters"}
_OF_MODEL = {"model", "lora", "path", "revision"}
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
    models: Mapping[Named, object]
    method: str | None = None
    out_dtype: str | None = None
    tokenizer: str | None = None
    dropped: Sequence[str] = field(default_factory=tuple[str, ...])


def read_mergekit(file: Path, given: str | None = None) -> Beginning:
    """Read a mergekit configuration.

    Args:
        file: The YAML file.
        given: The base where the configuration names none.

    Raises:
        ConfigError: It is no mergekit configuration, its base is an adapter or an expert, or it stacks layers, which a
            merge of equal shapes cannot.
    """
    content = read_yaml_file(file).content
    method = content.get("merge_method")
    if not isinstance(method, str):
        raise ConfigError(f"{file}: expected a configuration of mergekit, but it has no merge_method.")
    own = None if method in _OF_TWO else _base(content, file, given)
    base = own or given
    shared = mapping(content.get("parameters"))
    found, dropped = _models(_entries(content, file), shared, file)
    if method in _OF_TWO:
        found = {**_first_of_two(method, content, file, given), **found}
    weights = {_over(name, base): weight for name, weight in found.items()}
    models = {name: weight for name, weight in weights.items() if name != Named(base or "")}
    averaged = base if own or len(models) < len(weights) else None
    preset = _METHODS.get(method)
    share, notes = _base_weight(method, averaged, weights, shared)
    if share:
        preset, whole = "task_arithmetic", share + sum(map(number, models.values()))
        models = {name: number(weight) / whole for name, weight in models.items()}
    models, left = _scaled(method, models, shared)
    return Beginning(
        own,
        {name: weight if preset else None for name, weight in models.items()},
        preset or _SAME_NAME.get(method),
        text_of(content.get("out_dtype") or content.get("dtype")),
        _tokenizer(content),
        (
            *_of_method(method, models),
            *_of_shared(method, left),
            *notes,
            *dropped,
            *(_of_lists(models) if preset else ()),
            *_of_rest(content),
        ),
    )


def _base(content: Mapping[str, object], file: Path, given: str | None) -> str | None:
    """Return the base that a configuration names.

    Raises:
        ConfigError: It is an adapter over a model, and no other base is given.
    """
    found = named(content.get("base_model"))
    if found and found.adapter and not given:
        raise ConfigError(
            f"{file}: base_model: expected a complete checkpoint, found the adapter {found.adapter} over "
            f"{found.model}. Merge it into its model (peft: merge_and_unload().save_pretrained(…)), and name that: "
            f"adamerge init BASE --from_mergekit {file}"
        )
    return found.model if found and not found.adapter else None


def _first_of_two(method: str, content: Mapping[str, object], file: Path, given: str | None) -> dict[Named, object]:
    """Return the model that a method of two models has under base_model, which is an expert here.

    Raises:
        ConfigError: No base is given.
    """
    found = named(content.get("base_model"))
    if not given:
        raise ConfigError(
            f"{file}: base_model: expected the model that the others were fine-tuned from, found one of the two that "
            f"{method} joins ({found.word if found else None}). Name their base: adamerge init BASE --from_mergekit "
            f"{file}"
        )
    return {found: None} if found else {}


def _models(
    entries: Sequence[Mapping[str, object]], shared: Mapping[str, object], file: Path
) -> tuple[dict[Named, object], list[str]]:
    """Return the weight of each model, and what of the entries does not carry over."""
    models: dict[Named, object] = {}
    dropped: list[str] = []
    for entry in entries:
        name, own = named(entry.get("model")), mapping(entry.get("parameters"))
        if name is None:
            raise ConfigError(f"{file}: expected a model in each entry, found {dict(entry) or 'none'}. Correct it.")
        word = name.word
        if name in models:
            dropped.append(f"{word}: it is listed twice; of two weights the last one counts here")
        models[name] = _first(own.get("weight"), shared.get("weight"))
        dropped += [f"{word}: {key}: {own[key]}" for key in own if key != "weight"]
        dropped += [f"{word}: {key}: {entry[key]}{_OF_KEYS.get(key, '')}" for key in entry if key not in _OF_ENTRY]
        dropped += [f"{word}: {key}: {value}" for key, value in mapping(entry["model"]).items() if key not in _OF_MODEL]
    return models, dropped


def _over(name: Named, base: str | None) -> Named:
    """Name an adapter of the base alone, and the base as it is written under base_model."""
    if base is None or os.path.normpath(name.model) != os.path.normpath(base):
        return name
    return Named(name.adapter or base)


def _base_weight(
    method: str, base: str | None, models: Mapping[Named, object], shared: Mapping[str, object]
) -> tuple[float, list[str]]:
    """Return the weight with which mergekit's linear averages the base in, and what is to say if it has no number.

    With it, the average is the base and task vectors times their shares of all weights.
    """
    weight = models.get(Named(base), shared.get("weight")) if base else None
    if method != "linear" or weight is None or base is None:
        return 0.0, []
    numbers = [weight, *(own for name, own in models.items() if name != Named(base))]
    plain = all(isinstance(one, int | float) for one in numbers) and shared.get("normalize", True) is True
    if plain and sum(map(number, numbers)):
        return number(weight), []
    return 0.0, [f"{base}: weight: {weight}: linear averages the base in, and here the average is of the experts alone"]


def _scaled(
    method: str, models: Mapping[Named, object], shared: Mapping[str, object]
) -> tuple[Mapping[Named, object], Mapping[str, object]]:
    """Multiply weights that are numbers by lambda, and divide them by their sum where mergekit's task arithmetic does.

    Returns:
        The weights, and the shared parameters that still have a meaning.
    """
    weights, factor, normalize = list(models.values()), shared.get("lambda", 1.0), shared.get("normalize", False)
    plain = all(_is_number(one) for one in (*weights, factor)) and isinstance(normalize, bool)
    whole = sum(map(number, weights)) if normalize else 1.0
    if method != "task_arithmetic" or not plain or not whole or (factor, whole) == (1.0, 1.0):
        return models, shared
    scaled = {name: number(weight) * number(factor) / whole for name, weight in models.items()}
    return scaled, {key: value for key, value in shared.items() if key not in ("lambda", "normalize")}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _of_lists(models: Mapping[Named, object]) -> Iterator[str]:
    """Say which weights give parameters after the last layer another number than in mergekit."""
    for name, weight in models.items():
        levels = [weight] if not filters(weight) else [one.get("value") for one in filters(weight)]
        if any(isinstance(level, list) and level[:1] != level[-1:] for level in levels):
            yield (
                f"{name.word}: weight: what is after the last layer, final norm and lm_head, gets the last number of a "
                "list; in mergekit the first"
            )


def _first(*levels: object) -> object:
    """Join weights of which each counts where those before it have no matching filter; None without one."""
    found: list[object] = []
    for level in levels:
        own = filters(level)
        if level is not None and not own:
            return [*found, {"value": level}] if found else level
        found += own
    return found or None


def _tokenizer(content: Mapping[str, object]) -> str | None:
    """Return the tokenizer that a configuration names, in words of ours; None for the base's."""
    found = content.get("tokenizer_source")
    found = mapping(content.get("tokenizer")).get("source") if found is None else found
    name = named(found)
    return None if name is None or name.model == "base" else name.model.removeprefix("model:")


def _entries(content: Mapping[str, object], file: Path) -> list[Mapping[str, object]]:
    """Return the models; those of slices if there is one slice, which then is the whole model."""
    slices = content.get("slices")
    if isinstance(slices, list) and slices:
        sources = [mapping(one).get("sources") for one in slices]
        first = sources[0]
        parameters = mapping(mapping(slices[0]).get("parameters"))
        if len(slices) > 1 or not isinstance(first, list):
            raise ConfigError(
                f"{file}: expected models, found {len(slices)} slices, which stack layers of several models; here "
                "base and experts have the same layers. Write a configuration with models."
            )
        return [_within(mapping(one), parameters) for one in first]
    models = content.get("models")
    if not isinstance(models, list):
        found = "modules" if "modules" in content else type(models).__name__
        raise ConfigError(f"{file}: expected a list under models, found {found}. Write a configuration with models.")
    return [mapping(one) for one in models]


def _within(source: Mapping[str, object], parameters: Mapping[str, object]) -> Mapping[str, object]:
    """Give a source the parameters of its slice."""
    own = mapping(source.get("parameters"))
    weight = _first(own.get("weight"), parameters.get("weight"))
    return {**source, "parameters": {**parameters, **own, **({} if weight is None else {"weight": weight})}}


def _of_method(method: str, models: Mapping[Named, object]) -> Iterator[str]:
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
    for one in listed(content.get("slices")):
        yield from (f"slices: {key}: {value}" for key, value in mapping(one).items() if key not in _OF_SLICE)
    yield from (f"tokenizer: {k}: {v}" for k, v in mapping(content.get("tokenizer")).items() if k != "source")
    if text_of(content.get("dtype")) not in (None, "float32"):
        out = content.get("out_dtype") or "it"
        yield f"dtype: {content['dtype']}: merges are computed in more bits, and rounded to {out} once (out_dtype)"
