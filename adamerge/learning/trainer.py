"""Lightning's Trainer for learning: one process or several, complete checkpoints, a short progress bar, no advice."""

import inspect
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TypeAlias, cast

import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.utilities.rank_zero import rank_zero_only
from lightning_fabric.utilities.warnings import PossibleUserWarning
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, Timer, TQDMProgressBar
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from torch.distributed import GradBucket  # pyright: ignore[reportPrivateImportUsage]
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from adamerge.optim.processes import rank_and_count
from adamerge.storage.atomic_files import whole_file
from adamerge.storage.own_files import EVERY, Form, check_form, own_file
from adamerge.types import ConfigError

Numbers: TypeAlias = dict[str, int | str | float | dict[str, float]]
"""The metrics beside Lightning's progress bar."""

ADVICE_OF = frozenset(
    {
        "_check_and_init_precision",
        "_check_cuda_matmul_precision",
        "_init_dist_connection",
        "_log_device_info",
        "configure_logger",
        "done",
        "resume_end",
        "resume_start",
    }
)
"""Functions of Lightning that tell of its own work: the devices it found, files it reads, other products."""

_LIGHTNING = r"(pytorch_lightning|lightning_fabric)\."
_LOGGERS = (
    "pytorch_lightning.utilities.rank_zero",
    "lightning_fabric.utilities.rank_zero",
    "lightning_fabric.utilities.distributed",
)


def build_trainer(options: Mapping[str, object], callbacks: list[Callback]) -> Trainer:
    """Build Lightning's Trainer; it writes no files but complete checkpoints.

    One process takes no notice of what a cluster or launcher says in its environment variables; several do. The rows of
    a step depend on its number alone, so Lightning must not divide the loader that counts steps.

    Args:
        options: Arguments of the Trainer; they override the defaults here.
        callbacks: Callbacks of the Trainer.

    Returns:
        The Trainer.
    """
    if bar_is_shown(options):
        callbacks = [*callbacks, Progress()]
    options = {**options, "enable_progress_bar": bar_is_shown(options)}
    checkpoints = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    ours = {"devices": 1, "logger": False, "enable_model_summary": False, "enable_checkpointing": checkpoints}
    ours |= {"default_root_dir": os.devnull}  # in a job of SLURM, hpc_ckpt_1.ckpt in that folder would be loaded
    plugins, strategy = [WholeCheckpoints()], SummedBefore(broadcast_buffers=False)
    if process_count(options) == 1:
        plugins, strategy = [*plugins, OneProcess()], "auto"
    theirs = {"callbacks": callbacks, "plugins": plugins, "strategy": strategy, "use_distributed_sampler": False}
    given = {**_DEFAULTS, **ours, **options, **theirs}
    return Trainer(**given)  # pyright: ignore[reportArgumentType]


_DEFAULTS = {name: own.default for name, own in inspect.signature(Trainer).parameters.items()}
"""All arguments of the Trainer: those that are not given are read from variables such as PL_TRAINER_DEVICES."""


def clock_of(options: Mapping[str, object]) -> Timer:
    """Build what measures the time of learning, and ends it after `max_time` of the Trainer's options.

    Example:
        >>> clock_of({"max_time": "00:00:01:30"}).time_remaining(), clock_of({}).time_remaining()
        (90.0, None)
    """
    return Timer(cast(str | timedelta | None, options.get("max_time")))


def process_count(options: Mapping[str, object]) -> int:
    """Return how many processes learn together: one per device on every machine.

    Args:
        options: Arguments of the Trainer; a list of devices is the one of a single process.

    Example:
        >>> process_count({"devices": 4, "num_nodes": 2}), process_count({"devices": [1]})
        (8, 1)
    """
    devices, nodes = (options.get(key, 1) for key in ("devices", "num_nodes"))
    return (devices if isinstance(devices, int) else 1) * (nodes if isinstance(nodes, int) else 1)


class SummedBefore(DDPStrategy):
    """DDP over coefficients whose gradient a step has added up over the processes already: nothing is left to do."""

    @override
    def configure_ddp(self) -> None:
        super().configure_ddp()
        assert isinstance(self.model, DistributedDataParallel)
        self.model.register_comm_hook(None, _as_it_is)


def _as_it_is(state: object, bucket: GradBucket) -> Future[Tensor]:
    """Return gradients as they are, in place of their mean over processes."""
    del state
    gradients = bucket.buffer()
    done: Future[Tensor] = Future(devices=[gradients.device] if gradients.is_cuda else None)
    done.set_result(gradients)
    return done


class OneProcess(LightningEnvironment):
    """One process on one device, whatever a cluster or launcher says in its environment variables."""

    @property
    @override
    def creates_processes_externally(self) -> bool:
        return False

    @override
    def local_rank(self) -> int:
        return 0

    @override
    def node_rank(self) -> int:
        return 0

    @override
    def teardown(self) -> None:
        """Leave WORLD_SIZE as it is."""


def rank_for(options: Mapping[str, object]) -> AbstractContextManager[None]:
    """Let Lightning act as rank 0 where one process learns; of several, each has its own rank."""
    return first_rank() if process_count(options) == 1 else nullcontext()


@contextmanager
def first_rank() -> Iterator[None]:
    """Let Lightning act as rank 0 in the block: its rank is read from variables such as RANK and SLURM_PROCID."""
    attributes = vars(rank_zero_only)
    former, attributes["rank"] = attributes["rank"], 0
    try:
        yield
    finally:
        attributes["rank"] = former


def bar_is_shown(options: Mapping[str, object]) -> bool:
    """Return `enable_progress_bar` of the Trainer's options; if it is absent or None, whether output is a terminal.

    Example:
        >>> bar_is_shown({"enable_progress_bar": False})
        False
    """
    wanted = options.get("enable_progress_bar")
    return sys.stdout.isatty() if wanted is None else bool(wanted)


@contextmanager
def without_advice() -> Iterator[None]:
    """Suppress Lightning's general advice on data loaders, loggers and devices."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]

    def wanted(record: logging.LogRecord) -> bool:
        return record.levelno > logging.INFO or record.funcName not in ADVICE_OF

    for logger in loggers:
        logger.addFilter(wanted)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)  # its own class for advice
            warnings.filterwarnings("ignore", category=FutureWarning, module=_LIGHTNING)  # from torch to Lightning
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(wanted)


class Progress(TQDMProgressBar):
    """Lightning's progress bar with steps, remaining time and the main metrics, in 80 columns."""

    BAR_FORMAT = "{n_fmt}/{total_fmt} {remaining}{postfix}"

    @override
    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> Numbers:
        seen = trainer.progress_bar_metrics
        formats = {"loss": ".3g", "agreement": ".3f", "gap": ".2g", "s/step": ".2g", "c_min": ".2f", "c_max": ".2f"}
        return {key: f"{seen[key]:{form}}" for key, form in formats.items() if key in seen}


_CHECKPOINT: Form = {"epoch": int, "global_step": int, "pytorch-lightning_version": str, "loops": dict}
_CHECKPOINT |= {"state_dict": dict, "callbacks": dict, "optimizer_states": list, "lr_schedulers": list, EVERY: object}
"""What Lightning reads of a checkpoint."""


class WholeCheckpoints(CheckpointIO):
    """Checkpoints that are complete or absent, and are read without unpickling anything but tensors and numbers."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, object], path: str | Path, storage_options: object = None) -> None:
        content = io.BytesIO()  # torch.save would hide that the disk is full
        torch.save(checkpoint, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with whole_file(Path(path)) as file:
            file.write(content.getbuffer())

    @override
    def load_checkpoint(
        self, path: str | Path, map_location: object = None, weights_only: bool | None = None
    ) -> dict[str, object]:
        way = "Restore it, or delete it: learning then begins anew, with all stored results of the experts."
        with own_file(Path(path), "a checkpoint of learning", way):
            found = torch.load(path, map_location="cpu", weights_only=True)
            check_form(found, _CHECKPOINT)
        return found

    @override
    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def check_joined(wanted: int) -> None:
    """Refuse to learn on several devices where no processes have been joined.

    Raises:
        ConfigError: There are more or fewer processes than devices.
    """
    _, found = rank_and_count()
    if wanted != found:
        raise ConfigError(
            f"trainer.devices: expected {wanted} processes (devices × num_nodes), found {found}. Use adamerge fit, "
            "which starts them or joins those that torchrun or SLURM started; in Python, set devices: 1."
        )
