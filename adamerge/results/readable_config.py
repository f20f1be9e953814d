"""What readers other than transformers 5 need in the configuration files of an export."""

import json
import math
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias, TypeGuard, cast

import transformers
from transformers import PretrainedConfig

from adamerge.results.built_config import built_config
from adamerge.results.generation_settings import name_ends_of_turns, refused_generation
from adamerge.storage.atomic_files import write_text
from adamerge.storage.open_safetensors import open_safetensors
from adamerge.storage.regular_files import settings_of

Json: TypeAlias = Mapping[str, object]

_THETA, _PARTIAL = "rope_theta", "partial_rotary_factor"
_FORMER: Mapping[str, Mapping[str, str]] = {
    kind: {_THETA: "rotary_emb_base", _PARTIAL: "rotary_pct"} for kind in ("gpt_neox", "gpt_neox_japanese")
}
"""Names of rotary settings before transformers 5, by model type, where they are not those of today."""

_FORMER_BASES: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(("gemma3_text", "gemma3n_text"), (_THETA, "rope_local_base_freq")),
    **dict.fromkeys(("modernbert", "modernbert-decoder"), ("global_rope_theta", "local_rope_theta")),
    "olmo3": (_THETA, _THETA),
}
"""Names of the base of full and of sliding attention before transformers 5, by model type."""

_SCALES_FULL = ("gemma3_text", "gemma3n_text", "olmo3")
"""Model types whose `rope_scaling` was that of full attention alone; the other ones had none."""

_MIXTURES = ("qwen3_moe", "qwen3_vl_moe_text", "qwen3_omni_moe_talker_text", "mellum", "kolibri1")
_ALIASES: Mapping[str, Mapping[str, str]] = {
    "gpt2": {"n_ctx": "n_positions"},
    **{kind: {"num_experts": "num_local_experts"} for kind in _MIXTURES},
}
"""Keys that transformers 4, mlx-lm and llama.cpp's converter need and transformers no longer writes, by model type."""

_PLAIN, _AXIAL = {"rope_type": "default"}, {"rope_type": "axial"}
"""Scaling for which there was no former key: none, and that of towers for images."""

_THREE_KEYS, _TRAINED = ("phi3", "phi4_multimodal"), "original_max_position_embeddings"
"""Model types whose scaling transformers 4 takes with exactly three keys, and what stood beside these."""

_TIE = "tie_word_embeddings"
_SINCE_5 = ("proportional",)
"""Types of scaling that transformers 4 does not know."""


def make_readable(folder: Path, label: str, *, generates: bool) -> list[str]:
    """Add to the configuration files of an exported checkpoint what other readers need, where it says the same.

    Args:
        folder: The checkpoint, complete.
        label: Its name in notes.
        generates: Whether it is a language model.

    Returns:
        Notes for the user: what was added, and what other readers cannot be told.
    """
    file = folder / "config.json"
    settings = settings_of(file)
    found, notes = with_former_rope(settings)
    found = _with_aliases(found)
    if both := _apart(found, folder):
        found = _untied(found)
        notes.append(f"{', '.join(both)}: in the files beside what it was tied to; config.json says so now.")
    if found != settings:
        write_text(file, json.dumps(found, indent=2) + "\n")
    notes += name_ends_of_turns(folder, found) if generates else []
    notes += filter(None, [refused_generation(folder)])
    return [type(note)(f"note: {label}: {note}") for note in notes]


def _with_aliases(settings: Json) -> Json:
    """Write keys that have another name today under their former ones too, in configurations of parts as well."""
    aliases = _ALIASES.get(str(settings.get("model_type")), {})
    inner = {key: _with_aliases(value) if _is_config(value) else value for key, value in settings.items()}
    return {**inner, **{alias: settings[key] for alias, key in aliases.items() if key in settings}}


def with_former_rope(settings: Json) -> tuple[Json, list[str]]:
    """Write the rotary settings of a configuration also under the keys that came before `rope_parameters`.

    transformers 4, mlx-lm and others take `rope_theta`, `rope_scaling` and the like; without them they compute with
    their defaults and say nothing. The keys are written only if transformers reads the same with them as without.

    Args:
        settings: Content of config.json.

    Returns:
        The settings, and a note if other readers cannot be told.

    Example:
        >>> rope = {"rope_type": "default", "rope_theta": 5e5}
        >>> with_former_rope({"model_type": "llama", "rope_parameters": rope})[0]["rope_theta"]
        500000.0
    """
    found, untold = _with_former(settings), list(_untold(settings))
    if found != settings and _as_read(found) != _as_read(settings):
        found, untold = settings, [*untold, str(settings.get("model_type"))]
    if not untold:
        return found, []
    return found, [
        f"{', '.join(untold)}: rotary settings (rope_parameters in config.json) that readers from before transformers "
        "5 have no keys for: transformers 4, mlx-lm and others may compute with their defaults. Compare their logits."
    ]


def without_former_rope(settings: Json, replaced: Container[str], place: str = "") -> dict[str, object]:
    """Drop the former rotary keys of a configuration whose `rope_parameters` were replaced: they would contradict them.

    Args:
        settings: Content of config.json.
        replaced: The settings that were replaced, by dotted key.
        place: Dotted key of these settings, with a dot at its end.

    Example:
        >>> without_former_rope({"rope_theta": 1.0, "rope_parameters": {"rope_theta": 2.0}}, ["rope_parameters"])
        {'rope_parameters': {'rope_theta': 2.0}}
    """
    rope = settings.get("rope_parameters") if f"{place}rope_parameters" in replaced else None
    former = _names_of(rope) if isinstance(rope, Mapping) else set[str]()
    return {
        key: without_former_rope(value, replaced, f"{place}{key}.") if _is_config(value) else value
        for key, value in settings.items()
        if key not in former
    }


def _names_of(rope: Json) -> set[str]:
    """List the former names of rotary settings; of the share that is rotated only where the new ones have it."""
    names = {"rope_scaling", _THETA, *(name for own in _FORMER_BASES.values() for name in own)}
    names |= {own[_THETA] for own in _FORMER.values()}
    return names | ({_PARTIAL, *(own[_PARTIAL] for own in _FORMER.values())} if _PARTIAL in rope else set[str]())


def _with_former(settings: Json) -> Json:
    inner = {key: _with_former(value) if _is_config(value) else value for key, value in settings.items()}
    return {**inner, **(_former_keys(settings) or {})}


def _untold(settings: Json) -> Iterator[str]:
    """List the model types whose rotary settings cannot be written in former keys."""
    if _former_keys(settings) is None:
        yield str(settings.get("model_type"))
    for value in settings.values():
        if _is_config(value):
            yield from _untold(value)


def _is_config(value: object) -> TypeGuard[Json]:
    return isinstance(value, Mapping) and "model_type" in value


def _former_keys(settings: Json) -> Json | None:
    """Return the rotary settings of one model in former keys; None if there is no such form."""
    rope, kind = settings.get("rope_parameters"), str(settings.get("model_type"))
    if not isinstance(rope, Mapping) or not rope:
        return {}
    layers = [value for value in rope.values() if isinstance(value, Mapping)]
    if not layers:
        return _flat(rope, kind)
    if kind in _FORMER_BASES and {"full_attention", "sliding_attention"} == set(rope):
        return _of_layers(rope["full_attention"], rope["sliding_attention"], kind)
    return _flat(layers[0], kind) if all(layer == layers[0] for layer in layers) else None


def _flat(rope: Json, kind: str) -> Json | None:
    names, scaling = _FORMER.get(kind, {}), _scaling(rope)
    if scaling.get("rope_type") in _SINCE_5:
        return None
    bases = {names.get(key, key): rope[key] for key in (_THETA, _PARTIAL) if key in rope}
    if scaling.get("rope_type") == "longrope":  # transformers 4 takes the factor from what stands beside the scaling
        bases |= {_TRAINED: rope[_TRAINED]} if _TRAINED in rope else {}
        if kind in _THREE_KEYS:
            factors = {key: rope[key] for key in ("short_factor", "long_factor") if key in rope}
            return {**bases, "rope_scaling": {"type": "longrope", **factors}}
        scaling = {**_attention(rope), **scaling}
    return bases if scaling in ({}, _PLAIN, _AXIAL) else {**bases, "rope_scaling": scaling}


def _attention(rope: Json) -> Json:
    """Return the factor of attention that follows from longrope's own factor; transformers 4 takes it from lengths."""
    factor, trained = rope.get("factor"), rope.get(_TRAINED)
    if rope.get("rope_type") != "longrope" or not (isinstance(factor, int | float) and isinstance(trained, int)):
        return {}
    return {"attention_factor": math.sqrt(1 + math.log(factor) / math.log(trained)) if factor > 1 else 1.0}


def _of_layers(full: Json, sliding: Json, kind: str) -> Json | None:
    """Return the former keys of full and sliding attention, whose names must tell them apart where they differ."""
    names, scaling = _FORMER_BASES[kind], _scaling(full)
    one_base = names[0] == names[1] and full.get(_THETA) != sliding.get(_THETA)
    if one_base or _scaling(sliding) != _PLAIN or (scaling != _PLAIN and kind not in _SCALES_FULL):
        return None
    bases = {names[0]: full[_THETA], names[1]: sliding[_THETA]}
    return bases if scaling == _PLAIN else {**bases, "rope_scaling": scaling}


def _scaling(rope: Json) -> Json:
    return {key: value for key, value in rope.items() if key not in (_THETA, _PARTIAL)}


def _as_read(settings: Json) -> list[object]:
    """Return the rotary settings of a configuration as transformers reads it."""
    config = built_config(settings)
    ropes = _ropes(config.to_dict()) if config is not None else [settings]
    return [{**_attention(rope), **rope} if isinstance(rope, Mapping) else rope for rope in ropes]


def _ropes(settings: Json) -> Iterator[object]:
    rope = settings.get("rope_parameters")
    if isinstance(rope, Mapping) and rope.get("type") == rope.get("rope_type"):
        rope = {key: value for key, value in rope.items() if key != "type"}  # the former name of the same
    yield rope
    for value in settings.values():
        if _is_config(value):
            yield from _ropes(value)


def _apart(settings: Json, folder: Path) -> list[str]:
    """List tensors that config.json ties to others while the files have both, where the key means nothing else.

    Transformers asks the whole configuration whether they are tied, other readers that of the text part.
    """
    named = cast(list[str] | str, settings.get("architectures") or "")
    architecture = named if isinstance(named, str) else named[0]
    ties, config = (
        getattr(getattr(transformers, architecture, None), "_tied_weights_keys", None),
        built_config(settings),
    )
    if not isinstance(ties, Mapping) or config is None or config.is_encoder_decoder:
        return []  # T5 takes tie_word_embeddings: false for "do not scale the decoder's output"
    names = {name for file in folder.glob("*.safetensors") for name in open_safetensors(file).keys()}
    pairs = cast(Mapping[str, str], ties).items()
    both = [tied for tied, source in pairs if _named(tied, names) and _named(_end_of(source), names)]
    return both if any(getattr(one, _TIE, False) for one in (config, config.get_text_config())) else []


def _named(end: str, names: Iterable[str]) -> bool:
    """Return whether one of the names is this one, or has it at its end: files of parts have prefixes of their own."""
    return any(f".{name}".endswith(f".{end}") for name in names)


def _end_of(name: str) -> str:
    return ".".join(name.split(".")[-2:])


def _untied(settings: Json) -> Json:
    """Say of a configuration, and of its text part, that embeddings are not tied."""
    config = cast(PretrainedConfig, built_config(settings))
    text = config.get_text_config()
    part = next((key for key, value in settings.items() if _is_config(value) and getattr(config, key) is text), None)
    inner = {part: {**cast(Json, settings[part]), _TIE: False}} if part else {}
    return {**settings, **inner, _TIE: False}
