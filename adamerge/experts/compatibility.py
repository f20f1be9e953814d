"""What keeps a checkpoint from belonging to its module or its base, in words."""

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
"""Keys of a configuration that say nothing of what the backbone computes, or that `config_problems` looks at."""


def config_problems(base: Checkpoint, expert: Checkpoint) -> list[str]:
    """What two configurations say of why two checkpoints cannot belong together."""
    source, problems = expert.source, list[str]()
    if expert.config.model_type != base.config.model_type:
        kinds = f"{expert.config.model_type}, but the base {base.source} is a {base.config.model_type}"
        return [f"{source}: the expert is a {kinds}. Experts must be fine-tuned from this base."]
    for key, what in (("vocab_size", "vocabularies"), ("tie_word_embeddings", "the tying of embeddings")):
        here, there = (getattr(c.config.get_text_config(), key, None) for c in (expert, base))
        if here != there:
            problems.append(f"{source}: {what} differ: {key} is {here} here and {there} in the base {base.source}.")
    return problems


def config_differences(base: Checkpoint, expert: Checkpoint) -> list[str]:
    """Settings by which the same numbers make another model than the base, though all shapes agree: key and values.

    Only keys that both configurations have are compared, down to the towers' own (`text_config`, `vision_config`); an
    expert that is one tower is compared with that tower of the base.
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
    """Those settings that matter to what a model computes, by dotted key; a list is one setting."""
    if _DOES_NOT_MATTER.search(key):
        return {}
    if not isinstance(value, dict):
        return {key: value}
    return {k: v for name, inner in value.items() for k, v in _settings(inner, f"{key}.{name}".lstrip(".")).items()}


def match_problems(checkpoint: Checkpoint, module: nn.Module, found: Match) -> list[str]:
    """Why a checkpoint's tensors are not those that its own configuration asks for."""
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
    """Parameters that are missing, and tensors that a module has no place for.

    Args:
        source: Whose tensors they are.
        where: What holds them: "the file", "the state dict".
        module: Where they belong.
        found: How their names belong to the module's.
    """
    what = type(module).__name__
    problems = [f"{source}: {where} has no tensor for {name} of {what}." for name in found.missing]
    return problems + [f"{source}: {what} has no place for the tensor {name} in {where}." for name in found.unexpected]


def quantised_problems(source: str, tensors: Weights, names: Sequence[str]) -> list[str]:
    """Those tensors that no task vector can be taken of."""
    return [
        f"{source}: {name} is quantised ({tensors.headers[name].dtype}); use the checkpoint from before quantisation."
        for name in quantised(tensors.headers, names)
    ]
