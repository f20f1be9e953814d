"""Finish the step under way on Ctrl-C or SIGTERM, write a checkpoint, stop."""

import signal
import threading
from pathlib import Path
from types import FrameType

from pytorch_lightning import Callback, LightningModule, Trainer
from typing_extensions import override


class StopOnInterrupt(Callback):
    """Ctrl-C (or SIGTERM) lets the step under way finish, writes a checkpoint and stops; a second one stops at once.

    Args:
        checkpoint: Where to write it.

    Attributes:
        interrupted: Whether someone asked to stop.
    """

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        self._former: dict[int, object] = {}
        self.interrupted = False

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._listen()

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen()  # once more: since setup, Lightning has put a handler of its own before SIGTERM's

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if self.interrupted:
            trainer.should_stop = True
            trainer.save_checkpoint(self._checkpoint, weights_only=False)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restore()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def _listen(self) -> None:
        if threading.current_thread() is not threading.main_thread():  # others cannot have handlers
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            former = signal.signal(number, self._note)
            self._former.setdefault(number, former)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise SystemExit(128 + number)  # of a KeyboardInterrupt Lightning would make exit code 1
        self.interrupted = True

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)  # pyright: ignore
        self._former = {}
