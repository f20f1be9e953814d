"""The scale of mlx-lm's adapters is that of the release that wrote their options."""

import pytest

from adamerge.experts.adapter_mlx_options import read_mlx_options
from adamerge.types import ConfigError

DEFAULT = {"rank": 8, "alpha": 16, "dropout": 0.0, "scale": 10.0}
WRITTEN = {
    "0.6 to 0.12": ({"lora_layers": 16, "lora_parameters": DEFAULT}, 20.0),
    "0.13 to 0.18, alpha of the rank": (
        {"lora_layers": 16, "use_dora": False, "lora_parameters": {**DEFAULT, "alpha": 8}},
        10.0,
    ),
    "0.13 to 0.18": ({"lora_layers": 16, "use_dora": False, "lora_parameters": DEFAULT}, "multiplies by 20, .* by 10"),
    "0.19 to 0.21": ({"num_layers": 16, "fine_tune_type": "lora", "lora_parameters": DEFAULT}, 10.0),
    "0.32": ({"num_layers": 16, "fine_tune_type": "lora", "lora_parameters": {"rank": 8, "scale": 20.0}}, 20.0),
    "by hand": ({"lora_parameters": {"scale": 1}}, 1.0),
    "no rank": ({"lora_layers": 1, "lora_parameters": {"scale": 1, "alpha": 2}}, "alpha and rank .* found 2 and null"),
}
"""Options as the command lines of these releases save them, by their defaults, and the factor in their LoRALinear."""


@pytest.mark.parametrize("release", WRITTEN)
def test_the_scale_is_that_of_the_release(release):
    options, expected = WRITTEN[release]
    if isinstance(expected, float):
        assert read_mlx_options("a", options).scale == expected
    else:
        with pytest.raises(ConfigError, match=expected):
            read_mlx_options("a", options)


@pytest.mark.parametrize(("options", "dora"), [({"use_dora": True}, True), ({"use_dora": False}, False), ({}, False)])
def test_dora_of_old_releases_is_dora(options, dora):
    assert read_mlx_options("a", {"lora_parameters": {"scale": 1}, **options}).dora is dora
