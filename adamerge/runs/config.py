"""Configuration: meaning and default of every key of the YAML file."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import torch

from adamerge.calibration.calibrated_merge import CalibratedMerge
from adamerge.calibration.closed_form import ClosedForm
from adamerge.calibration.esm import Esm
from adamerge.calibration.feat_cal import FeatCal
from adamerge.calibration.race import Auto, CentreChoice
from adamerge.calibration.regmean import RegMean
from adamerge.data.settings import Batching
from adamerge.experts.experts import KEEP
from adamerge.experts.name_patterns import Split
from adamerge.learning.keep_best import Watching
from adamerge.learning.merge_module import BuildScheduler
from adamerge.learning.stable_decay import StableDecay as StableDecay  # presets name it, so it must be loaded
from adamerge.merging.choose_execution import Memory, Mode
from adamerge.merging.chunks import Chunks
from adamerge.merging.rounding import RoundingMode
from adamerge.objectives import Objective, Regulariser
from adamerge.optim import BuildOptimizer, Descent
from adamerge.optim.feasible_sets import FeasibleSet
from adamerge.results.adapter_settings import ExportKind, adapter_of
from adamerge.runs.earlier_run import EarlierRun
from adamerge.runs.model_config import Keep, ModelConfig
from adamerge.runs.other_words import OTHER_WORDS
from adamerge.runs.presets import PRESETS
from adamerge.runs.trainer_config import TrainerConfig
from adamerge.storage.sizes import bytes_in
from adamerge.transforms import TASK_ARITHMETIC, Transform
from adamerge.types import LARGEST, ConfigError

if TYPE_CHECKING:
    Method: TypeAlias = str
else:
    Method = Literal[tuple(PRESETS)]
"""Names of the presets; those without learning need no calibration rows, except for those by rows."""

Start: TypeAlias = Literal["average", "published", "closed_form"]
"""Named start coefficients."""


@dataclass(kw_only=True)
class MergeConfig:
    """Keys of a configuration.

    `read_config.merge_config` builds it, and takes missing keys from the method's preset.

    Attributes:
        base_model: Directory or hub id of the model that all experts were fine-tuned from.
        models: The experts, one {model: …, calibration: …} each.
        keep: Rows on which the merge should answer as the base does: calibration, and the weight of their objective.
            null compares with the experts alone.
        method: Preset of the keys from task_vectors to trainer; keys that you write override it.
        dtype: Number format in which models are merged while learning.
        out_dtype: Number format of the exported checkpoint; null takes one that holds base and experts exactly.
        rounding: How numbers of the checkpoint are rounded: to the nearest one of its format, or stochastic: up or down
            at random so that the mean is exact, which keeps small changes that nearest loses in bfloat16.
        export: What is written: a complete checkpoint, or one adapter over the base (LoRA; its option: max_rank).
        max_shard_size: Largest size of one file of the complete checkpoint, such as 2GB; null takes 50GB. A larger
            tensor has a file of its own.
        tokenizer: One tokenizer for base and experts, whose tokenizers differ by added tokens: that of the base (the
            experts' own tokens are dropped), union (all tokens; a row is taken from whoever has it), or that of a
            task or model. null merges models with the base's vocab_size as they are.
        parameters: Name patterns that override which parameters are merged.
        task_vectors: Transform of the task vectors (for example Ties); null uses expert − centre unchanged.
        memory: Where task vectors are, and how much of the merged model exists at once: resident (task vectors in
            memory, fast), mapped (read from their files; memory does not grow with the number of experts), streamed
            (mapped, and the model is merged and run one block at a time, twice per step), or auto (the first of these
            that fits). As a mapping: mode, limit (such as 8GB; the free memory by default) and blocks (paths of the
            blocks of a plain module).
        centre: Model that is subtracted from the experts to get task vectors, and to which the weighted task vectors
            are added: null for the base, or a finished merge by RegMean (regmean, or its options scale, rows and
            inputs), by another class that uses rows (for example Esm), or by a transform of the task vectors (for
            example Wudi); auto lets finished merges race on held-out rows and takes the one that diverges least from
            the experts (its options as those of the class Auto).
        beside: Models that get a coefficient beside the experts, so that a merge may move toward them or away: base,
            and finished merges by rows or by a transform, as for centre.
        grouping: Parameters that share one coefficient per expert: the whole model (task), each transformer block,
            each tensor, or each component of a LoRA adapter's tensor (a column of B with its row of A).
        chunks: After a first stage with one coefficient per tensor, give important tensors one coefficient per block
            of rows, as many as a budget says, or (budget: auto) more in each stage while that pays on held-out rows;
            null learns in one stage with the grouping.
        init: Start coefficient of every expert: a number; average (1/K); published (the scale published with the
            transform of the task vectors, 0.3 without transform, 0 if the centre is a merge); closed_form (least
            squares per layer; its options as a mapping: ridge, towards, inputs, rows); or the directory of an earlier
            run, whose coefficients are taken by task and group name (what is new starts as published).
        feasible: Set of allowed coefficients: Unbounded, Box or Simplex.
        objective: Loss that learning minimises, such as Entropy or LogitAlignment.
        regulariser: Penalty on the distance of the coefficients from the start.
        data: How calibration rows are used.
        watch: How the best step is chosen.
        optimizer: Any torch optimiser (coefficients are projected onto the feasible set), FrankWolfe, SoftFrankWolfe,
            ProjectedGradient, or LBFGSB (needs data.batch_size null); null if nothing is learned.
        lr_scheduler: Any torch scheduler, stepped after every optimiser step; StableDecay keeps the learning rate until
            held-out rows stop improving, lets it decay and ends learning (options least, evaluations, decay), at
            trainer.max_steps at the latest; cosine decays to 0 over
            trainer.max_steps; null keeps the learning rate constant.
        trainer: Arguments of Lightning's Trainer.
        seed_everything: Seed of all random numbers.
        run_dir: Directory that the run writes to; must not exist, unless a run is resumed.
        allow_pickle: Read pickled weights (.bin), with torch's weights_only.
        trust_remote_code: Run Python code that comes with a checkpoint.
        written: Keys that the user wrote, as recorded in a saved configuration; another method changes all other keys.
        allow_code: Whether the configuration may name classes outside torch, Lightning and this package, and code
            beside weights; never read from a file, nor saved.
    """

    REPLACED: ClassVar[Mapping[str, str]] = OTHER_WORDS

    base_model: str
    models: list[ModelConfig]
    method: Method
    keep: Keep | None = None
    dtype: Literal["float32", "float64"] = "float32"
    out_dtype: Literal["float32", "float16", "bfloat16", "float64"] | None = None
    rounding: RoundingMode = "nearest"
    export: ExportKind = "checkpoint"
    max_shard_size: int | str | None = None
    tokenizer: str | None = None
    parameters: Split = field(default_factory=Split)
    task_vectors: Transform | None
    memory: Mode | Memory = "auto"
    centre: Literal["regmean", "auto"] | RegMean | Esm | FeatCal | Transform | CentreChoice | None
    beside: list[Literal["base"] | RegMean | Esm | FeatCal | Transform]
    grouping: Literal["task", "block", "tensor", "component"]
    chunks: Chunks | None
    init: float | Start | ClosedForm | EarlierRun
    feasible: FeasibleSet
    objective: Objective
    regulariser: Regulariser = field(default_factory=Regulariser)
    data: Batching
    watch: Watching
    optimizer: Descent | BuildOptimizer | None
    lr_scheduler: Literal["cosine"] | BuildScheduler | None
    trainer: TrainerConfig
    seed_everything: int = 0
    run_dir: str = "run"
    allow_pickle: bool = False
    trust_remote_code: bool = False
    written: tuple[str, ...] = ()
    allow_code: bool = False

    def __post_init__(self) -> None:
        """Check start, seed, centre and the size of files, each of which not every value of its type can be."""
        if isinstance(self.centre, CentreChoice) and not isinstance(self.centre, Auto):
            raise ConfigError(
                f"centre: expected auto, or a merge (a transform, or one that is computed from rows), found "
                f"{type(self.centre).__name__}: Auto alone can choose. Derive a transform of your own from Transform."
            )
        if isinstance(self.init, float | int) and not abs(self.init) <= LARGEST:
            raise ConfigError(f"init: expected a finite number, found {self.init} (at most {LARGEST:g}).")
        if isinstance(self.seed_everything, int) and self.seed_everything < 0:
            raise ConfigError(f"seed_everything: expected at least 0, found {self.seed_everything}.")
        if self.shard_bytes and adapter_of(self.export):
            raise ConfigError(
                "max_shard_size: expected export: checkpoint, because an adapter is one file. Remove max_shard_size."
            )

    @property
    def needs_rows(self) -> bool:
        """Whether calibration rows are needed, by learning, start, centre or transform."""
        looks = any(transform.fisher for transform in self.transforms.values())
        regression = self.centre is not None and "centre" not in self.transforms
        regression = regression or any(isinstance(model, CalibratedMerge) for model in self.models_beside.values())
        return self.trainer.max_steps != 0 or looks or regression or isinstance(self.start, ClosedForm)

    @property
    def memory_settings(self) -> Memory:
        """How much memory learning may take."""
        return self.memory if isinstance(self.memory, Memory) else Memory(self.memory)

    @property
    def shard_bytes(self) -> int | None:
        """Largest size of one file of the complete checkpoint in bytes; None takes the default."""
        return None if self.max_shard_size is None else bytes_in(self.max_shard_size, "max_shard_size")

    @property
    def transforms(self) -> dict[str, Transform]:
        """Transforms of task vectors, per key that names them."""
        keys = {"centre": self.centre, "task_vectors": self.task_vectors}
        keys |= {f"beside: {name}": model for name, model in self.models_beside.items()}
        return {key: value for key, value in keys.items() if isinstance(value, Transform)}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return tuple(model.name for model in self.models)

    @property
    def centre_name(self) -> str:
        """Name of the centre: base, auto for one that a race finds, or the name of its class."""
        if self.centre is None:
            return "base"
        return "auto" if isinstance(self.chosen_centre, Auto) else type(self.chosen_centre).__name__

    @property
    def work_dtype(self) -> torch.dtype:
        """Of the computation."""
        return getattr(torch, self.dtype)

    @property
    def written_dtype(self) -> torch.dtype | None:
        """Of the export; None keeps that of the base."""
        return getattr(torch, self.out_dtype) if self.out_dtype else None

    @property
    def chosen_centre(self) -> CalibratedMerge | Transform | CentreChoice:
        """The centre with its options, of a configuration that has one."""
        assert self.centre is not None
        named = {"regmean": RegMean, "auto": Auto}
        return named[self.centre]() if isinstance(self.centre, str) else self.centre

    @property
    def pools(self) -> list[ModelConfig]:
        """Everything that may have rows: the experts, and the base where it is a teacher."""
        if self.keep is None:
            return self.models
        return [*self.models, ModelConfig(self.base_model, KEEP, self.keep.calibration)]

    @property
    def with_rows(self) -> list[str]:
        """Names of everything that may have rows."""
        return [model.name for model in self.pools]

    @property
    def keep_weight(self) -> float:
        """How much the base's rows count in means over tasks, if there are any."""
        return self.keep.weight if self.keep else 1.0

    @property
    def task_weights(self) -> dict[str, float]:
        """Factor of each task's objective in their sum: that of the base is relative to the mean over tasks."""
        experts = {model.name: model.loss_weight for model in self.models}
        if self.keep is None:
            return experts
        return {**experts, KEEP: self.keep.weight * sum(model.calibration is not None for model in self.models)}

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the coefficients' columns: experts and what is beside them, or what a transform makes of them."""
        if self.task_vectors:
            return self.task_vectors.experts(self.names)
        return (*self.names, *self.models_beside)

    @property
    def only_experts(self) -> str | None:
        """Why nothing beside the experts can get a coefficient; None if it can."""
        if self.task_vectors is not None:
            return f"the task vectors are those that {type(self.task_vectors).__name__} makes"
        if self.grouping == "component":
            return "grouping: component gives coefficients to factors"
        closed = self.init == "closed_form" or isinstance(self.init, ClosedForm)
        return "init: closed_form finds the coefficients of experts alone" if closed else None

    @property
    def models_beside(self) -> dict[str, Literal["base"] | CalibratedMerge | Transform]:
        """Models that get a coefficient beside the experts, by the names of their columns.

        Without the base where that is the centre.
        """
        if self.only_experts:
            return {}
        found: dict[str, Literal["base"] | CalibratedMerge | Transform] = {}
        for model in self.beside:
            if model in found.values() or (model == "base" and self.centre is None):
                continue
            name = model if isinstance(model, str) else type(model).__name__
            same = sum(type(other) is type(model) for other in found.values())  # the same merge with other options
            name = f"{name} {same + 1}" if same else name
            found[f"{name} (beside)" if name in self.names else name] = model
        return found

    @property
    def start(self) -> float | ClosedForm:
        """Start coefficient of every expert: a number, or options of the closed form."""
        if self.init == "closed_form" or isinstance(self.init, ClosedForm):
            given = self.init if isinstance(self.init, ClosedForm) else ClosedForm()
            return given if given.towards is not None else replace(given, towards=self._published)
        if self.init == "published" or isinstance(self.init, EarlierRun):
            return self._published
        if self.init == "average":
            return 1 / max(1, len(self.columns) - len(self.models_beside))  # without experts, opening is refused
        return self.init

    @property
    def _published(self) -> float:
        if self.centre is not None:
            return 0.0
        return self.task_vectors.coefficient if self.task_vectors else TASK_ARITHMETIC
