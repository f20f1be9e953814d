"""A run's held-out rows, with the experts' predictions: those that choose, and those that judge."""

from dataclasses import replace

from adamerge.calibration.agreement import HeldOut, hold_out
from adamerge.calibration.target_settings import target_settings
from adamerge.learning.learn import Calibration, Goals
from adamerge.merging.merged_model import MergedModel
from adamerge.runs.config import MergeConfig
from adamerge.runs.precision import in_bf16


def held_out_of(config: MergeConfig, model: MergedModel, calibration: Calibration, goals: Goals) -> HeldOut:
    """Gather what merges are chosen by, and what they are judged by.

    Args:
        config: Configuration.
        model: Runs the experts.
        calibration: The divided rows.
        goals: The experts' outputs on them.
    """
    size, temperature = config.data.micro_batch, target_settings(config.objective).temperature
    keep, bf16 = config.keep_weight, in_bf16(config)
    found = hold_out(model, calibration.watch, size, goals.watch, temperature, keep, bf16=bf16)
    if not calibration.judge:
        return found
    judging, targets = {**found.rows, **calibration.judge}, {**goals.watch, **goals.judge}
    return replace(found, fresh=hold_out(model, judging, size, targets, temperature, keep, bf16=bf16))
