"""Descriptions of why a checkpoint does not fit its module or its base."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import cast

import torch
from torch import nn

from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.config_file import file_of
from adamerge.experts.conversion import Converted
from adamerge.experts.fitting_size import fitting_size
from adamerge.experts.match_names import Match
from adamerge.experts.name_patterns import several
from adamerge.experts.other_folders import sharded_way
from adamerge.experts.quantisation import quantised
from adamerge.experts.tied import tied_names
from adamerge.storage.weights import Weights
from adamerge.types import quoted

_DOES_NOT_MATTER = re.compile(
    r"label|dtype|name|version|drop|token_id|task|problem_type|architectures|model_type|auto_map|initializer|loss|"
    r"use_cache|output_|return_dict|gradient_checkpointing|chunk_size|classifier|attn_implementation|vocab_size|"
    r"tie_word_embeddings|projection_dim|num_classes"
)
"""Configuration keys that do not affect what the backbone computes, or that `config_problems` checks."""


_ABSENT = object()

_OF_PEFT = re.compile(
    r"(.*\.)?(base_layer|modules_to_save|original_module|trainable_tokens_delta|"
    r"(lora|hada|lokr|b?oft|ia3|vera|randlora|hira|hra|delora|shira|road)_\w+)(\..*)?"
)
"""Names that PEFT gives to tensors of a model that it wraps; its early versions have factors alone, no base_layer."""

_OTHER_CLASS = (
    " Name the class that saved the file in config.json (architectures), copy the file again if it is incomplete, or "
    "remove tensors from it that are left over."
)

_LONG = 80
"""Characters from which on a text is cut and quoted."""

_ONE_BY_ONE = 3
"""Number of names that get a line each."""


def config_problems(base: Checkpoint, expert: Checkpoint, *, own_embeddings: bool = False) -> list[str]:
    """List the reasons in two configurations why an expert cannot be an expert of a base.

    Args:
        base: The base.
        expert: The expert.
        own_embeddings: Whether the user keeps some parameters of each expert, perhaps its embeddings; then their shapes
            alone are compared, after the split.

    Returns:
        One message per problem; empty if there is none.
    """
    source, problems = expert.source, list[str]()
    if expert.config.model_type != base.config.model_type:
        kinds = f"{expert.config.model_type}, but the base ({base.source}) is a {base.config.model_type}"
        return [f"{source}: the expert is a {kinds}. Use an expert that was fine-tuned from this base."]
    here, there = (getattr(c.config.get_text_config(), "vocab_size", None) for c in (expert, base))
    if here != there and not own_embeddings:
        names = [n for n, header in expert.tensors.headers.items() if header.shape[:1] == (here,)]
        patterns = ", ".join(f'"*{name.rpartition(".")[0].rpartition(".")[2]}*"' for name in names)
        problems.append(
            f"{source}: vocabularies differ: vocab_size is {here} here and {there} in the base ({base.source}) "
            f"(config.json). Use an expert with the base's; or, if the tokenizers differ by added tokens, set "
            f"tokenizer: union; or keep each expert's own: parameters: {{head: [{patterns}]}}."
        )
    return problems


def config_differences(base: Checkpoint, expert: Checkpoint, without: Collection[str] = ()) -> list[str]:
    """List the settings by which the same weights compute something else than in the base although all shapes agree.

    Only keys of both configurations are compared, including those of towers (`text_config`, `vision_config`); an expert
    that is one tower is compared with that tower of the base.

    Args:
        base: The base.
        expert: The expert.
        without: Settings that are not compared, those that all experts share for example.

    Returns:
        One message per setting, with key and both values.
    """
    there, here = settings_of_both(base, expert)
    return [
        f"{key} is {_word(mine, key)} in the expert's config.json and {_word(theirs, key)} in the base's"
        for setting in sorted({*different(there, here)} - {*without})
        for mine, theirs in [(_leaves(here[setting], setting), _leaves(there[setting], setting))]
        for key in sorted({*mine, *theirs})
        if mine.get(key, _ABSENT) != theirs.get(key, _ABSENT)
    ]


def _word(leaves: Mapping[str, object], key: str) -> str:
    value = leaves.get(key, "not set")
    return value if isinstance(value, str) and len(value) < _LONG else quoted(value)


def settings_of_both(base: Checkpoint, expert: Checkpoint) -> tuple[dict[str, object], dict[str, object]]:
    """Collect what affects computing of a base, or of the tower of it that an expert is, and of the expert."""
    configs = [base.config, *(getattr(base.config, key, None) for key in base.config.sub_configs)]
    like = next((c for c in configs if c is not None and c.model_type == expert.config.model_type), base.config)
    there, here = (_settings(json.loads(config.to_json_string(use_diff=False))) for config in (like, expert.config))
    return there, here


def different(there: Mapping[str, object], here: Mapping[str, object]) -> list[str]:
    """List the settings of two configurations that differ in more than what does not matter."""
    return [key for key in here.keys() & there.keys() if _leaves(here[key], key) != _leaves(there[key], key)]


def _settings(config: Mapping[str, object], place: str = "") -> dict[str, object]:
    """Collect the settings that affect what a model computes, by dotted key; what is not a tower's is one setting."""
    found: dict[str, object] = {}
    for name, value in config.items():
        key = f"{place}{name}"
        if _DOES_NOT_MATTER.search(key):
            continue
        inner = isinstance(value, dict) and "model_type" in value
        found |= _settings(cast(dict[str, object], value), f"{key}.") if inner else {key: value}
    return found


def _leaves(value: object, key: str) -> dict[str, object]:
    """Return a setting's values by dotted key, without those that do not matter; a list is one value."""
    if _DOES_NOT_MATTER.search(key):
        return {}
    if not isinstance(value, dict) or not value:
        return {key: value}
    parts = cast(dict[str, object], value)
    return {k: v for name, inner in parts.items() for k, v in _leaves(inner, f"{key}.{name}").items()}


def match_problems(checkpoint: Checkpoint, module: nn.Module, found: Match) -> list[str]:
    """List the differences between a checkpoint's tensors and those that its own configuration requires.

    Args:
        checkpoint: The checkpoint.
        module: The module that its configuration builds.
        found: How the names of its tensors match the module's.

    Returns:
        One message per problem; empty if there is none.
    """
    source, tensors = checkpoint.source, Converted(checkpoint.tensors, found.names)
    problems = name_problems(source, "the file", module, found)
    expected = {name: p.shape for name, p in module.named_parameters() if name in found.names}
    problems += quantised_problems(source, tensors, tuple(expected))
    empty = [name for name, shape in expected.items() if shape.numel() and not tensors.shape(name).numel()]
    if empty:
        problems.append(
            f"{source}: {several(empty)} are empty in the file, as DeepSpeed (ZeRO-3) leaves them. Convert its "
            "checkpoint with zero_to_fp32.py, or save with stage3_gather_16bit_weights_on_model_save: true."
        )
        return problems
    if found.missing and (way := sharded_way(checkpoint.folder)):
        problems.append(f"{source}: its folder has more than the file.{way}")
    return problems + shape_problems(checkpoint, module, found)


def shape_problems(checkpoint: Checkpoint, module: nn.Module, found: Match) -> list[str]:
    """List the tensors of a checkpoint that have another shape than in the module that its configuration builds.

    Args:
        checkpoint: The checkpoint.
        module: The module.
        found: How the names of its tensors match the module's.
    """
    tensors, file = Converted(checkpoint.tensors, found.names), file_of(checkpoint.config)
    described = {name: parameter.shape for name, parameter in module.named_parameters() if name in found.names}
    stored = {name: tensors.shape(name) for name in described}
    wrong = [name for name, shape in described.items() if stored[name] != shape]
    if not wrong:
        return []
    way = "" if checkpoint.trust_remote_code else fitting_size(checkpoint.config, module, stored)
    shown = wrong if len(wrong) <= _ONE_BY_ONE and not way else wrong[:1]
    more = f" (and {len(wrong) - 1} more do not fit)" if len(wrong) > len(shown) else ""
    advice = f"{way}: correct it" if way else "correct its sizes, or copy or download the files again"
    return [
        f"{checkpoint.source}: {name} has the shape {tuple(stored[name])} in the file but {tuple(described[name])} by "
        f"{file}{more}; {advice}."
        for name in shown
    ]


def name_problems(source: str, where: str, module: nn.Module, found: Match) -> list[str]:
    """List missing parameters, and tensors that a module has no place for.

    Args:
        source: Name of the checkpoint or task in messages.
        where: What contains the tensors: "the file", "the state dict".
        module: The module that they should fit.
        found: How their names match the module's.

    Returns:
        One message per problem; empty if there is none.
    """
    what = type(module).__name__
    if unmerged := unmerged_problems(source, where, what, found.unexpected):
        return unmerged
    listed = [
        *(f"{source}: {where} has no tensor for {name} of {what}." for name in _few(found.missing)),
        *(f"{source}: {what} has no place for the tensor {name} in {where}." for name in _few(found.unexpected)),
    ]
    if listed and where == "the file":
        listed[-1] += _OTHER_CLASS
    return listed


def unmerged_problems(source: str, where: str, what: str, unexpected: Sequence[str]) -> list[str]:
    """Say that tensors are of a model with an adapter that was not merged; empty if none are.

    Args:
        source: Name of the checkpoint or task in messages.
        where: What contains the tensors: "the file", "the state dict".
        what: Class of the model.
        unexpected: Tensors without a place in the model.
    """
    unmerged = [name for name in unexpected if _OF_PEFT.fullmatch(name)]
    return unmerged and [
        f"{source}: expected the tensors of a {what}, but {where} has {several(unmerged)}: it was saved while PEFT "
        "wrapped the model. Merge the adapter first: model.merge_and_unload().save_pretrained(…)."
    ]


def _few(names: Sequence[str]) -> Sequence[str]:
    """List a few names one by one, and many in one line."""
    return names if len(names) <= _ONE_BY_ONE else (several(names),)


def apart_problems(source: str, module: nn.Module, found: Match) -> list[str]:
    """List tied parameters of a module in memory that a state dict has with two different values."""
    tied = [aliases for aliases in tied_names(module) if set(aliases) & set(found.apart)]
    return [
        f"{source}: {' and '.join(aliases)} are one tied parameter of {type(module).__name__}, but two different "
        "tensors here. If they should be two, untie them in the modules of base and experts; otherwise remove one."
        for aliases in tied
    ]


def quantised_problems(source: str, tensors: Weights, names: Sequence[str]) -> list[str]:
    """List the tensors for which no task vector can be computed because they are quantised, or no real numbers."""
    found: dict[torch.dtype, list[str]] = {}
    for name in quantised(tensors.headers, names):
        found.setdefault(tensors.headers[name].dtype, []).append(name)
    return [
        f"{source}: {several(own)} {'is' if len(own) == 1 else 'are'} {_no_numbers(dtype)}"
        for dtype, own in found.items()
    ]


def _no_numbers(dtype: torch.dtype) -> str:
    """Say what tensors are that have no real numbers to subtract, and what to do."""
    if dtype.is_complex or dtype in (torch.bool, torch.int64):
        return f"of {dtype}; expected real floating-point numbers: save the model in float32, bfloat16 or float16."
    return f"quantised ({dtype}); use the checkpoint from before quantisation."
