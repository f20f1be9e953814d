"""What the settings of a sentence-transformers module mean, whichever version wrote them."""

from collections.abc import Mapping
from typing import TypeAlias

Settings: TypeAlias = Mapping[str, object]

_INPUT, _OUTPUT = "module_input_name", "module_output_name"
_DEFAULTS: Mapping[str, Settings] = {
    "Dense": {_INPUT: "sentence_embedding", "use_residual": False},
    "Normalize": {_INPUT: "sentence_embedding"},
    "Pooling": {"include_prompt": True},
}
"""What versions before a setting did, by class of the module."""

_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Flags of pooling before version 6, in the order in which what they choose is concatenated."""


def meaning(kind: str, settings: Settings) -> Settings:
    """Bring a module's settings to the form of sentence-transformers 6, so that versions can be compared.

    Args:
        kind: Name of the module's class.
        settings: Content of its config.json.

    Example:
        >>> meaning("Pooling", {"word_embedding_dimension": 8, "pooling_mode_cls_token": True})
        {'include_prompt': True, 'pooling_mode': 'cls', 'embedding_dimension': 8}
    """
    if kind not in _DEFAULTS:
        return settings
    found = {**_DEFAULTS[kind], **(_pooling(settings) if kind == "Pooling" else settings)}
    return {**found, _OUTPUT: found.get(_OUTPUT) or found[_INPUT]} if _INPUT in found else found


def _pooling(settings: Settings) -> Settings:
    modes = [mode for key, mode in _POOLING.items() if settings.get(key)] or ["mean"]
    former = {"pooling_mode": modes if len(modes) > 1 else modes[0]} if _POOLING.keys() & settings.keys() else {}
    names = {"word_embedding_dimension": "embedding_dimension"}
    return {**former, **{names.get(key, key): value for key, value in settings.items() if key not in _POOLING}}
