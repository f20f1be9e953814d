"""Inputs for a trial pass of a class where there are no rows: a few tokens, an empty image, silence."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from adamerge.experts.model_kind import kind_of, names_argument

_TOKENS = 8
_SAMPLES = 4000
_SIDE = 64
"""Pixels on a side of an image for a class that takes images of any size."""


def made_up_inputs(module: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Yield inputs that a class may be run on; those that reach most of its parts first.

    Args:
        module: A model of transformers.

    Example:
        >>> [{name: tuple(own.shape) for name, own in one.items()} for one in made_up_inputs(nn.Linear(2, 3))]
        []
    """
    main = kind_of(module).main_input
    tokens = _tokens(module)
    decoder = {"decoder_input_ids": tokens} if _has_decoder(module) else {}
    match main:
        case "input_ids":
            if names_argument(module, "pixel_values"):
                yield {"input_ids": tokens, "pixel_values": _image(module), **decoder}
            yield {"input_ids": tokens, **decoder}
        case "pixel_values":
            yield {"pixel_values": _image(module), **decoder}
        case "input_values" | "input_features":
            yield from ({main: one, **decoder} for one in _sounds(module))
        case _:
            return


def _has_decoder(module: nn.Module) -> bool:
    return kind_of(module).encoder_decoder and names_argument(module, "decoder_input_ids")


def _tokens(module: nn.Module) -> Tensor:
    """Return small token ids, the end of a text last: some classifiers look for it."""
    end = _setting(module, "eos_token_id", 2)
    return torch.tensor([[*range(3, 2 + _TOKENS), end]])


def _image(module: nn.Module) -> Tensor:
    size = _setting(module, "image_size", _SIDE)
    return torch.zeros(1, _setting(module, "num_channels", 3), size, size)


def _sounds(module: nn.Module) -> Iterator[Tensor]:
    """Yield a spectrogram as Whisper has it, one as most others have it, and a wave."""
    bins = _setting(module, "num_mel_bins", 80)
    yield torch.zeros(1, bins, 2 * _setting(module, "max_source_positions", 1500))
    yield torch.zeros(1, _setting(module, "max_length", _SAMPLES // bins), bins)
    yield torch.zeros(1, _SAMPLES)


def _setting(module: nn.Module, name: str, default: int) -> int:
    """Read a whole number, or the first of several, from a configuration, or from that of its images."""
    config = getattr(module, "config", None)
    for one in (config, getattr(config, "vision_config", None)):
        value = getattr(one, name, None)
        value = value[0] if isinstance(value, list | tuple) and value else value
        if isinstance(value, int):
            return value
    return default
