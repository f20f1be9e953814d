"""Options of adapters as releases of mlx-lm have written them."""

import sys
from collections.abc import Mapping
from typing import NamedTuple

from adamerge.types import ConfigError, quoted

_FUSE = "Fuse the model with mlx_lm.fuse, and give the complete model"


class MlxOptions(NamedTuple):
    """What decides on the change of weights.

    Attributes:
        scale: What the product of factors is multiplied by.
        dora: Whether rows are normalised to learned magnitudes.
        rank: Of all factors, if the options say it.
    """

    scale: float
    dora: bool
    rank: int | None


def read_mlx_options(source: str, options: Mapping[str, object]) -> MlxOptions:
    """Read the scale of an adapter of mlx-lm.

    Releases up to 0.14.0 multiply by scale · alpha / rank, those from 0.14.3 by the scale, though until 0.21 their
    options hold alpha too. From 0.19 on they have `fine_tune_type` and `num_layers`, before it `lora_layers`, and from
    0.13 to 0.18 `use_dora`.

    Args:
        source: Name of the adapter in messages.
        options: Content of adapter_config.json.

    Raises:
        ConfigError: It is no LoRA adapter, or its scale is not known.

    Example:
        >>> parameters = {"rank": 8, "alpha": 16, "scale": 10.0}
        >>> read_mlx_options("a", {"lora_layers": 4, "lora_parameters": parameters}).scale
        20.0
        >>> read_mlx_options("a", {"num_layers": 4, "lora_parameters": parameters}).scale
        10.0
    """
    given = options.get("lora_parameters")
    parameters: Mapping[str, object] = given if isinstance(given, dict) else {}
    scale, alpha, rank = (parameters.get(key) for key in ("scale", "alpha", "rank"))
    kind = options.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora") or not is_number(scale):
        raise ConfigError(
            f"{source}: expected a LoRA adapter of mlx-lm with lora_parameters.scale, found fine_tune_type {kind!r} "
            f"and scale {scale!r}. {_FUSE}."
        )
    own, known = float(str(scale)), rank if type(rank) is int and rank > 0 else None
    dora = kind == "dora" or options.get("use_dora") is True
    if alpha is None or alpha == rank or not _may_be_old(options):
        return MlxOptions(own, dora, known)
    if not is_number(alpha) or known is None:
        raise ConfigError(
            f"{source}: expected alpha and rank of lora_parameters as numbers, found {quoted(alpha)} and "
            f"{quoted(rank)}. {_FUSE}."
        )
    multiplied = own * float(str(alpha)) / known
    if "lora_layers" in options and "use_dora" not in options:
        return MlxOptions(multiplied, dora, known)
    raise ConfigError(
        f"{source}: lora_parameters has scale {own:g} and alpha {alpha:g} of rank {known}: mlx-lm up to 0.14.0 "
        f"multiplies by {multiplied:g}, from 0.14.3 on by {own:g}, and which one trained the adapter is not in "
        f"adapter_config.json. Remove alpha, and write the scale of the training ({multiplied:g} or {own:g})."
    )


def _may_be_old(options: Mapping[str, object]) -> bool:
    return "fine_tune_type" not in options and "num_layers" not in options


def is_number(value: object) -> bool:
    """Return whether a value is a finite number, and not true or false."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max  # an integer in JSON has any number of digits; NaN compares false
