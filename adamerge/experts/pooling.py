"""Hidden states of a row → one vector, as sentence-transformers pools them."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from adamerge.batch import NEVER

_FORMER = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Keys of sentence-transformers before version 6, in the order in which it concatenates the vectors."""


def pooled(states: Tensor, mask: Tensor | None, modes: tuple[str, ...] = ("mean",)) -> Tensor:
    """Pool hidden states into one vector a row, as sentence-transformers does.

    Args:
        states: (B, S, D), or (B, D, H, W) of images.
        mask: What is not padding, (B, S); None counts all.
        modes: cls (first token), mean, max, mean_sqrt_len_tokens, weightedmean, lasttoken; several are concatenated.

    Returns:
        (B, D) for one mode.

    Reference:
        Reimers and Gurevych, Sentence-BERT, 2019, section 3; Muennighoff, SGPT, 2022 (weighted mean).

    Example:
        >>> pooled(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[1, 1, 0]])).item()
        2.0
    """
    if states.ndim == 4:
        states = states.flatten(2).transpose(1, 2)
    fits = mask is not None and mask.shape == states.shape[:2]
    present = mask.to(states.device).bool() if mask is not None and fits else states.new_ones(states.shape[:2]).bool()
    return torch.cat([_POOLINGS[mode](states, present) for mode in modes], -1)


def _first(states: Tensor, present: Tensor) -> Tensor:
    return _at(states, present.int().argmax(1))


def _last(states: Tensor, present: Tensor) -> Tensor:
    places = torch.arange(present.shape[1], device=present.device)
    return _at(states, (present * places).argmax(1))


def _at(states: Tensor, places: Tensor) -> Tensor:
    return states.gather(1, places[:, None, None].expand(-1, 1, states.shape[-1])).squeeze(1)


def _sum(states: Tensor, weights: Tensor) -> Tensor:
    return (states * weights.unsqueeze(-1).to(states.dtype)).sum(1)


def _mean(states: Tensor, present: Tensor) -> Tensor:
    return _sum(states, present) / present.sum(1, keepdim=True).clamp_min(1)


def _by_root(states: Tensor, present: Tensor) -> Tensor:
    return _sum(states, present) / present.sum(1, keepdim=True).clamp_min(1).sqrt()


def _weighted(states: Tensor, present: Tensor) -> Tensor:
    weights = present.cumsum(1) * present  # 1, 2, … from the row's first token on
    return _sum(states, weights) / weights.sum(1, keepdim=True).clamp_min(1)


def _max(states: Tensor, present: Tensor) -> Tensor:
    return states.masked_fill(~present.unsqueeze(-1), NEVER).amax(1)


_POOLINGS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": _first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _by_root,
    "weightedmean": _weighted,
    "lasttoken": _last,
}


def modes_of(folders: Iterable[Path]) -> tuple[str, ...]:
    """Return how the sentence-transformers module of the first folder that has one pools; empty if none does.

    Args:
        folders: Folders of an expert.
    """
    return next((found for folder in folders if (found := _modes(folder))), ())


def _modes(folder: Path) -> tuple[str, ...]:
    try:
        entries = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        place = next(folder / entry["path"] for entry in entries if str(entry["type"]).endswith("Pooling"))
        settings = cast(dict[str, object], json.loads((place / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, StopIteration, KeyError, TypeError):
        return ()
    mode = settings.get("pooling_mode", [name for key, name in _FORMER.items() if settings.get(key)])
    modes = (mode,) if isinstance(mode, str) else tuple(map(str, mode)) if isinstance(mode, list) else ()
    return modes if all(one in _POOLINGS for one in modes) else ()
