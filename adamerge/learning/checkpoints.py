"""The checkpoint that a run resumes from."""

import re
import warnings
from pathlib import Path

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from typing_extensions import override

LAST = "last.ckpt"
"""Name of the checkpoint that a run resumes from."""


def every(steps: int, folder: Path) -> ModelCheckpoint:
    """Write the checkpoint that a run resumes from every so many steps, always over the former one."""
    return OneCheckpoint(folder, LAST.removesuffix(".ckpt"), every_n_train_steps=steps, enable_version_counter=False)


def newest(folder: Path) -> Path | None:
    """Find the checkpoint to resume from; after a move, version 0.1.0 wrote last-v1.ckpt beside the old one."""
    found = [path for path in folder.glob(f"{LAST.removesuffix('.ckpt')}*.ckpt") if re.fullmatch(_LAST, path.name)]
    return max(found, key=lambda path: (path.lstat().st_mtime_ns, path.name == LAST), default=None)


_LAST = r"last(-v\d+)?\.ckpt"


class OneCheckpoint(ModelCheckpoint):
    """Writes one checkpoint, wherever the run directory was before: Lightning would write another one beside it."""

    @property
    @override
    def state_key(self) -> str:
        return ModelCheckpoint.__qualname__ + super().state_key.removeprefix(type(self).__qualname__)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take a folder that is not empty without a warning, as a run that goes on has one."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            super().setup(trainer, pl_module, stage)

    @override
    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Forget the paths in a checkpoint, which Lightning would remove."""
