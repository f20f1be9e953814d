"""Descriptions of why a checkpoint does not fit its module or its base."""

import re
from collections.abc import Sequence

from torch import nn

from adamerge.experts.checkpoint import Checkpoint, quantised
from adamerge.experts.match_names import Match
from adamerge.storage.weights import Renamed, Weights

_DOES_NOT_MATTER = re.compile(
    r"label|dtype|name|version|drop|token_id|task|problem_type|architectures|model_type|auto_map|initializer|loss|"
    r"use_cache|output_|return_dict|gradient_checkpointing|chunk_size|classifier|attn_implementation|vocab_size|"
    r"tie_word_embeddings|projection_dim"
)
"""Configuration keys that do not affect what the backbone computes, or that `config_problems` checks."""


def config_problems(base: Checkpoint, expert: Checkpoint) -> list[str]:
    """List the reasons in two configurations why an expert cannot be an expert of a base.

    Args:
        base: The base.
        expert: The expert.

    Returns:
        One message per problem; empty if there is none.
    """
    source, problems = expert.source, list[str]()
    if expert.config.model_type != base.config.model_type:
        kinds = f"{expert.config.model_type}, but the base {base.source} is a {base.config.model_type}"
        return [f"{source}: the expert is a {kinds}. Use an expert that was fine-tuned from this base."]
    for key, what in (("vocab_size", "vocabularies"), ("tie_word_embeddings", "ties of embeddings")):
        here, there = (getattr(c.config.get_text_config(), key, None) for c in (expert, base))
        if here != there:
            problems.append(
                f"{source}: {what} differ: {key} is {here} here and {there} in the base {base.source}. Use an expert "
                "with the base's."
            )
    return problems


def config_differences(base: Checkpoint, expert: Checkpoint) -> list[str]:
    """List the settings by which the same weights compute something else than in the base although all shapes agree.

    Only keys of both configurations are compared, including those of towers (`text_config`, `vision_config`); an expert
    that is one tower is compared with that tower of the base.

    Args:
        base: The base.
        expert: The expert.

    Returns:
        One message per setting, with key and both values.
    """
    configs = [base.config, *(getattr(base.config, key, None) for key in base.config.sub_configs)]
    like = next((c for c in configs if c is not None and c.model_type == expert.config.model_type), base.config)
    there, here = (_settings(config.to_dict()) for config in (like, expert.config))
    return [
        f"{key} is {here[key]} in the expert's config.json and {there[key]} in the base's"
        for key in sorted(here.keys() & there.keys())
        if here[key] != there[key]
    ]


def _settings(value: object, key: str = "") -> dict[str, object]:
    """Collect the settings that affect what a model computes, by dotted key; a list is one setting."""
    if _DOES_NOT_MATTER.search(key):
        return {}
    if not isinstance(value, dict):
        return {key: value}
    return {k: v for name, inner in value.items() for k, v in _settings(inner, f"{key}.{name}".lstrip(".")).items()}


def match_problems(checkpoint: Checkpoint, module: nn.Module, found: Match) -> list[str]:
    """List the differences between a checkpoint's tensors and those that its own configuration requires.

    Args:
        checkpoint: The checkpoint.
        module: The module that its configuration builds.
        found: How the names of its tensors match the module's.

    Returns:
        One message per problem; empty if there is none.
    """
    source, headers = checkpoint.source, checkpoint.tensors.headers
    problems = name_problems(source, "the file", module, found)
    expected = {name: p.shape for name, p in module.named_parameters() if name in found.names}
    problems += quantised_problems(source, Renamed(checkpoint.tensors, found.names), tuple(expected))
    for name, shape in expected.items():
        stored = headers[found.names[name]].shape
        if stored != shape:
            shapes = f"{tuple(stored)} in the file but {tuple(shape)} by config.json"
            problems.append(f"{source}: {name} has the shape {shapes}.")
    return problems


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
    problems = [f"{source}: {where} has no tensor for {name} of {what}." for name in found.missing]
    return problems + [f"{source}: {what} has no place for the tensor {name} in {where}." for name in found.unexpected]


def quantised_problems(source: str, tensors: Weights, names: Sequence[str]) -> list[str]:
    """List the tensors for which no task vector can be computed because they are quantised."""
    return [
        f"{source}: {name} is quantised ({tensors.headers[name].dtype}); use the checkpoint from before quantisation."
        for name in quantised(tensors.headers, names)
    ]
