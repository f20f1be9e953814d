"""The YAML file as types: what every key means, and its default."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from adamerge.calibration.closed_form import ClosedForm
from adamerge.calibration.regmean import RegMean
from adamerge.data.settings import Batching, DataSource
from adamerge.experts.name_patterns import Split
from adamerge.experts.zero_shot import ZeroShot
from adamerge.learning.keep_best import Watching
from adamerge.learning.merge_module import BuildScheduler
from adamerge.merging.chunks import Chunks
from adamerge.objectives import Objective, Regulariser
from adamerge.optim import BuildOptimizer, Descent
from adamerge.optim.feasible_sets import FeasibleSet
from adamerge.runs.presets import PRESETS
from adamerge.transforms import TASK_ARITHMETIC, Transform
from adamerge.types import ConfigError

if TYPE_CHECKING:
    Method: TypeAlias = str
else:
    Method = Literal[tuple(PRESETS)]
"""The presets' names; one without learning needs no calibration rows, except for fisher and regmean."""

Start: TypeAlias = Literal["average", "published", "closed_form"]
"""Words for the coefficients at the start."""


@dataclass
class TrainerConfig:
    """Those arguments of Lightning's Trainer that make sense here; see its documentation for their values.

    Attributes:
        max_steps: Optimiser steps at most; with 0 nothing is learned, the start is the result.
        max_time: Stop after this time, as DD:HH:MM:SS.
        accelerator: cpu, gpu or auto.
        precision: 32-true, bf16-mixed or 64-true.
        gradient_clip_val: Clip the coefficients' gradient to this size.
        gradient_clip_algorithm: norm or value.
        deterministic: Refuse operations that are not reproducible.
        enable_progress_bar: null shows it on a terminal only.
    """

    max_steps: int
    max_time: str | None = None
    accelerator: str = "auto"
    precision: Literal["32-true", "bf16-mixed", "64-true"] = "32-true"
    gradient_clip_val: float | None = None
    gradient_clip_algorithm: Literal["norm", "value"] | None = None
    deterministic: bool | None = None
    enable_progress_bar: bool | None = None


@dataclass
class FilteredWeight:
    """A start coefficient for some parameters.

    Attributes:
        value: A number, or numbers from the first layer to the last, between which is interpolated.
        filter: Part of the parameters' names; null and * fit all.
    """

    value: float | list[float]
    filter: str | None = None


@dataclass
class ModelParameters:
    """What mergekit writes under `parameters` of a model.

    Attributes:
        weight: The expert's start coefficient: a number; numbers from the first layer to the last, between which is
            interpolated; or a list of {filter, value}, of which the first whose filter is part of a parameter's name
            holds. null starts from init.
    """

    weight: float | list[float] | list[FilteredWeight] | None = None


@dataclass
class ModelConfig:
    """One expert.

    Attributes:
        model: Directory or hub id (`id` or `id@revision`) of the fine-tuned checkpoint.
        task: What to call it; the last part of `model` by default.
        calibration: Unlabeled rows: a path, or path and column names. Without any the expert is only chosen from:
            it gets coefficients, but no objective of its own. Where nothing is learned none are needed at all.
        evaluation: Labeled rows, if the result is to be measured.
        loss_weight: Factor of this task's objective.
        zero_shot: Class names and templates in place of a head, for CLIP-like models.
        parameters: Its start coefficient, in mergekit's words.
    """

    REPLACED: ClassVar[Mapping[str, str]] = {
        "weight": "Write loss_weight for the factor of its objective, or parameters: {weight: …} for the coefficient "
        "at the start."
    }
    """Keys of earlier versions, and what to write today."""

    model: str
    task: str | None = None
    calibration: str | DataSource | None = None
    evaluation: str | DataSource | None = None
    loss_weight: float = 1.0
    zero_shot: ZeroShot | None = None
    parameters: ModelParameters = field(default_factory=ModelParameters)

    def __post_init__(self) -> None:
        """Check the factor."""
        if not 0 <= self.loss_weight < math.inf:
            raise ConfigError(f"loss_weight: expected a finite number of at least 0, found {self.loss_weight}.")

    @property
    def name(self) -> str:
        """What the task is called."""
        return self.task or Path(self.model.partition("@")[0]).name


@dataclass(kw_only=True)
class MergeConfig:
    """What to merge, and how.

    Made by `read_config.merge_config`, which fills in what the method decides.

    Attributes:
        base_model: Directory or hub id of the model that all experts were fine-tuned from.
        models: The experts.
        method: Preset for the keys below it; anything written explicitly wins.
        dtype: In which merging is computed while learning.
        out_dtype: Of the exported checkpoint; by default one that holds base and experts exactly.
        parameters: Patterns that overrule which parameters are merged.
        task_vectors: Transform of the task vectors (for example Ties); null takes expert minus base.
        memory: resident holds the task vectors in memory (fast), mapped reads them from their files (memory does not
            grow with the number of experts), auto chooses by the memory that is free.
        centre: What the weighted task vectors are added to, and taken from: the base by default, or a finished merge,
            by RegMean (regmean, or its options scale and rows) or by a transform of the task vectors (for example
            Wudi).
        grouping: What shares a coefficient: the whole model (task), a transformer block, or a tensor.
        chunks: Coefficients for blocks of rows of the parameters that matter, after a first tensor-wise stage; null
            stays with the grouping.
        init: Coefficient of every expert at the start: a number; average is 1/K; published is the scale at which the
            authors of the task vectors' transform add them up, 0.3 for plain ones, and 0 over a centre that is merged
            already; closed_form solves for it layer by layer, with options as a mapping (ridge, towards, inputs, rows).
        feasible: Where coefficients may live: Unbounded, Box or Simplex.
        objective: What is made small.
        regulariser: A pull of the coefficients towards the start.
        data: How calibration rows are used.
        watch: How the best iterate is chosen.
        optimizer: Any torch optimiser, kept feasible by projection; FrankWolfe, SoftFrankWolfe, ProjectedGradient, or
            LBFGSB with data.batch_size null; null where nothing is learned.
        lr_scheduler: Any torch scheduler; stepped after every step. cosine decays to 0 over trainer.max_steps.
        trainer: Arguments of Lightning's Trainer.
        seed_everything: Seed of everything that is drawn at random.
        run_dir: Where everything is written; must not exist, unless a run is resumed.
        allow_pickle: Read pickled weights (.bin), with weights_only.
        trust_remote_code: Run code that lies beside the weights.
        written: Keys that the user wrote, as a saved configuration records them: another method changes all others.
    """

    base_model: str
    models: list[ModelConfig]
    method: Method
    dtype: Literal["float32", "float64"] = "float32"
    out_dtype: Literal["float32", "float16", "bfloat16", "float64"] | None = None
    parameters: Split = field(default_factory=Split)
    task_vectors: Transform | None
    memory: Literal["auto", "resident", "mapped"] = "auto"
    centre: Literal["regmean"] | RegMean | Transform | None
    grouping: Literal["task", "block", "tensor"]
    chunks: Chunks | None
    init: float | Start | ClosedForm
    feasible: FeasibleSet
    objective: Objective
    regulariser: Regulariser = field(default_factory=Regulariser)
    data: Batching = field(default_factory=Batching)
    watch: Watching
    optimizer: Descent | BuildOptimizer | None
    lr_scheduler: Literal["cosine"] | BuildScheduler | None
    trainer: TrainerConfig
    seed_everything: int = 0
    run_dir: str = "run"
    allow_pickle: bool = False
    trust_remote_code: bool = False
    written: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the start."""
        if isinstance(self.init, float | int) and not math.isfinite(self.init):
            raise ConfigError(f"init: expected a finite number, found {self.init}.")

    @property
    def needs_rows(self) -> bool:
        """Whether calibration rows are needed: something is learned, or the transform looks at them."""
        looks = any(transform.fisher for transform in self.transforms.values())
        regression = self.centre is not None and "centre" not in self.transforms
        return self.trainer.max_steps != 0 or looks or regression or isinstance(self.start, ClosedForm)

    @property
    def transforms(self) -> dict[str, Transform]:
        """Transforms of task vectors, by the key that asks for them."""
        keys = {"centre": self.centre, "task_vectors": self.task_vectors}
        return {key: value for key, value in keys.items() if isinstance(value, Transform)}

    @property
    def names(self) -> tuple[str, ...]:
        """What the experts' tasks are called."""
        return tuple(model.name for model in self.models)

    @property
    def centre_name(self) -> str:
        """What the weighted task vectors are added to: base, RegMean or the name of a transform."""
        if self.centre is None:
            return "base"
        return "RegMean" if self.centre == "regmean" else type(self.centre).__name__

    @property
    def columns(self) -> tuple[str, ...]:
        """What the coefficients' columns are called: as the experts, or as what a transform makes of them."""
        return self.task_vectors.experts(self.names) if self.task_vectors else self.names

    @property
    def start(self) -> float | ClosedForm:
        """Coefficient of every expert at the start: a number, or how it is found."""
        if self.init == "closed_form" or isinstance(self.init, ClosedForm):
            given = self.init if isinstance(self.init, ClosedForm) else ClosedForm()
            return given if given.towards is not None else replace(given, towards=self._published)
        if self.init == "published":
            return self._published
        if self.init == "average":
            return 1 / len(self.columns)
        return self.init

    @property
    def _published(self) -> float:
        if self.centre is not None:
            return 0.0
        return self.task_vectors.coefficient if self.task_vectors else TASK_ARITHMETIC


def source_of(data: str | DataSource) -> DataSource:
    """A path alone stands for a data source with the usual column names."""
    return DataSource(data) if isinstance(data, str) else data
