"""Learning that diverges or has no time is refused."""

from dataclasses import replace
from datetime import timedelta

import pytest
from support.families import configuration

from adamerge.learning.learn import divide, learn
from adamerge.runs.build_model import build_model, open_experts
from adamerge.runs.learning_settings import learning_of
from adamerge.runs.load_rows import load_data
from adamerge.runs.read_config import merge_config
from adamerge.types import ConfigError


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"optimizer": {"class_path": "Adam", "init_args": {"lr": 9e15}}, "feasible": "Unbounded"},
            "step 3: not a finite number: loss, divergence, objective, c_min, c_max. Lower the optimiser's",
        ),
        (
            {"trainer": {"max_steps": 10, "max_time": "00:00:00:01", "accelerator": "cpu"}},
            "trainer.max_time: 0:00:00 was over before the first step",
        ),
    ],
)
def test_learning_that_diverges_or_has_no_time_is_refused(family, tmp_path, changes, words):
    config = merge_config(configuration(**changes))
    experts = open_experts(config)
    calibration = divide(load_data(config, experts).calibration, config.data, config.seed_everything)
    model = build_model(config, experts, experts.shared, tmp_path / "kept")
    learning = learning_of(config, progress_bar=False)
    learning = (
        replace(learning, trainer={**learning.trainer, "max_time": timedelta(0)}) if "time" in words else learning
    )
    with pytest.raises(ConfigError) as ended:
        learn(model, config.objective, calibration, learning)
    assert words in str(ended.value)
