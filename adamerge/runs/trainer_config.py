"""Section `trainer` of a configuration."""

import math
import re
from dataclasses import dataclass
from typing import Literal

from adamerge.learning.loggers import BuildLogger
from adamerge.merging.device import check_accelerator
from adamerge.types import ConfigError

DURATION = re.compile(r"\d+:\d+:\d+:\d+")
"""Days, hours, minutes and seconds."""


@dataclass
class TrainerConfig:
    """Arguments of Lightning's Trainer that apply here; see its documentation.

    Attributes:
        max_steps: Largest number of optimiser steps; 0 learns nothing, so the start is the result.
        max_time: Stop after this time, as DD:HH:MM:SS; null sets no limit.
        accelerator: Device: cpu, gpu (CUDA or ROCm), or auto (gpu if there is one); CUDA_VISIBLE_DEVICES chooses among
            several.
        devices: Number of devices of each machine that learn together, one process each; on CPU, of processes.
        num_nodes: Number of machines.
        strategy: ddp, or auto: the same; every process holds the whole model. fsdp2: each holds a part of the merged
            model, by PyTorch's fully_shard.
        precision: Of the models' passes: 32-true, bf16-mixed (matrices in bf16, by autocast), 64-true, or auto:
            bf16-mixed where the device multiplies bf16 itself, else 32-true.
        gradient_clip_val: Clip the coefficients' gradient to this size; null does not clip.
        gradient_clip_algorithm: norm (clip the norm of the gradient) or value (clip each element).
        deterministic: Raise an error for operations that are not reproducible.
        logger: Lightning's loggers, one or a list, such as CSVLogger, TensorBoardLogger, WandbLogger or MLFlowLogger,
            with their options; save_dir is the run's folder logs by default. null writes none.
        enable_progress_bar: Show a progress bar; null shows it on a terminal only.
    """

    max_steps: int
    max_time: str | None = None
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp2"] = "auto"
    precision: Literal["auto", "32-true", "bf16-mixed", "64-true"] = "32-true"
    gradient_clip_val: float | None = None
    gradient_clip_algorithm: Literal["norm", "value"] | None = None
    deterministic: bool | None = None
    logger: BuildLogger | list[BuildLogger] | None = None
    enable_progress_bar: bool | None = None

    def __post_init__(self) -> None:
        """Check the values that do not depend on the machine; Lightning checks the rest before learning."""
        if isinstance(self.max_steps, int) and self.max_steps < 0:
            raise ConfigError(f"max_steps: expected 0 (nothing is learned) or more, found {self.max_steps}.")
        check_accelerator(self.accelerator)
        for key in ("devices", "num_nodes"):
            if isinstance(getattr(self, key), int) and getattr(self, key) < 1:
                raise ConfigError(f"{key}: expected at least 1, found {getattr(self, key)}.")
        if self.max_time is not None and not (DURATION.fullmatch(self.max_time) and self.max_time.strip("0:")):
            raise ConfigError(
                f"max_time: expected DD:HH:MM:SS above 0, such as 00:01:30:00, found {self.max_time!r}. Correct it, or "
                "leave it out; max_steps: 0 learns nothing."
            )
        if self.gradient_clip_val is not None and not 0 <= self.gradient_clip_val < math.inf:
            raise ConfigError(
                f"gradient_clip_val: expected a finite number of at least 0, or null, found {self.gradient_clip_val}."
            )
