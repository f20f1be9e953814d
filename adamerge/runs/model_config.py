"""Configuration of one expert: meaning and default of every key of an item of `models`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from adamerge.data.settings import DataSource, EvaluationSource
from adamerge.experts.zero_shot import ZeroShot
from adamerge.storage.file_names import last_part
from adamerge.types import LARGEST, ConfigError


@dataclass
class FilteredWeight:
    """Start coefficient of some parameters.

    Attributes:
        value: A number; or a list of numbers, interpolated from the first layer to the last.
        filter: Text that the names of these parameters contain; null and * match all parameters.
    """

    value: float | list[float]
    filter: str | None = None

    def __post_init__(self) -> None:
        """Check that the numbers are finite."""
        _check_finite("value", self.value)

    def matches(self, name: str) -> bool:
        """Return whether the filter matches a parameter."""
        return self.filter in (None, "*") or self.filter in name


def _check_finite(key: str, written: object) -> None:
    values = written if isinstance(written, list) else [written]
    if not values:
        raise ConfigError(f"{key}: expected at least one number, found an empty list; leave the key out to use init.")
    for value in values:
        if isinstance(value, float | int) and not abs(value) <= LARGEST:
            raise ConfigError(f"{key}: expected finite numbers, found {value} (at most {LARGEST:g}).")


@dataclass
class ModelParameters:
    """Mergekit's key `parameters` of a model.

    Attributes:
        weight: Start coefficient of the expert: a number; a list of numbers, interpolated from the first layer to the
            last; or a list of {filter, value}, of which the first whose filter is part of the parameter's name counts.
            null starts from init.
    """

    weight: float | list[float] | list[FilteredWeight] | None = None

    def __post_init__(self) -> None:
        """Check that the numbers are finite."""
        _check_finite("weight", self.weight)


@dataclass
class ModelConfig:
    """One expert.

    Attributes:
        model: Directory or hub id (`id` or `id@revision`) of the fine-tuned checkpoint, or of a LoRA adapter of
            base_model.
        task: Name of the task; by default the last part of `adapter` or `model`.
        calibration: Unlabeled rows to learn from: a path, or path and column names. Without rows the expert gets
            coefficients but adds no loss. Not needed if nothing is learned.
        evaluation: Labeled rows to measure the result on: a path, or path, column names and metric.
        loss_weight: Factor of this task's objective in the sum over tasks.
        zero_shot: Class names and templates that replace a head, for CLIP-like models.
        parameters: Start coefficient, as in mergekit (parameters.weight).
        adapter: Directory or hub id of a LoRA adapter of `model`, which is then a complete checkpoint; null if there is
            none. A folder that holds both needs only `model`.
    """

    REPLACED: ClassVar[Mapping[str, str]] = {
        "weight": "Write loss_weight for the factor of its objective, or parameters: {weight: …} for the coefficient "
        "at the start."
    }
    """Keys of earlier versions, with the message on what replaces them."""

    model: str
    task: str | None = None
    calibration: str | DataSource | None = None
    evaluation: str | EvaluationSource | None = None
    loss_weight: float = 1.0
    zero_shot: ZeroShot | None = None
    parameters: ModelParameters = field(default_factory=ModelParameters)
    adapter: str | None = None

    def __post_init__(self) -> None:
        """Check that the factor is in range."""
        if not 0 <= self.loss_weight < math.inf:
            raise ConfigError(f"loss_weight: expected a finite number of at least 0, found {self.loss_weight}.")

    @property
    def name(self) -> str:
        """Name of the task."""
        return self.task or last_part(self.adapter or self.model)


@dataclass
class Keep:
    """Rows on which the merge should go on answering as the base does.

    The base is a teacher without a coefficient. Its objective is the part of `objective` that compares with a teacher's
    outputs, or LogitAlignment where nothing does.

    Attributes:
        calibration: Unlabeled rows, of any kind that the base was made for: a path, or path and column names.
        weight: Factor of its objective, relative to the mean of the tasks': what is minimised is the mean over the
            tasks with rows (of loss_weight times objective) plus this times the base's. Likewise in the means that
            iterates and merges are compared by. 0 measures alone.
    """

    calibration: str | DataSource
    weight: float = 0.2

    def __post_init__(self) -> None:
        """Check that the factor is in range."""
        if not 0 <= self.weight < math.inf:
            raise ConfigError(f"keep.weight: expected a finite number of at least 0, found {self.weight}.")


def source_of(data: str | DataSource) -> DataSource:
    """Convert a path to a data source with the default column names."""
    return DataSource(data) if isinstance(data, str) else data
