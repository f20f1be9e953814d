"""Stop on Ctrl-C, SIGTERM or SIGHUP: at once, or while coefficients are learned after the step, with a checkpoint."""

import signal
from pathlib import Path
from types import FrameType

from pytorch_lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from adamerge.optim.processes import on_any_process
from adamerge.storage.signals import ENDING, may_listen


class StopOnInterrupt(Callback):
    """On Ctrl-C (SIGTERM, SIGHUP) finish the current step, write a checkpoint and stop; on a second one stop at once.

    Args:
        checkpoint: File of the checkpoint.

    Attributes:
        interrupted: Whether a signal was received, by this process or another one that learns with it.
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
        self._listen()  # again: after setup, Lightning installed its own handler of SIGTERM

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self.interrupted = on_any_process(self.interrupted, pl_module.device)
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
        if not may_listen():
            return
        for number in (signal.SIGINT, *ENDING):
            if signal.getsignal(number) is signal.SIG_IGN:  # by nohup
                continue
            former = signal.signal(number, self._note)
            self._former.setdefault(number, former)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise SystemExit(128 + number)  # Lightning would turn a KeyboardInterrupt into exit code 1
        self.interrupted = True

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)  # pyright: ignore
        self._former = {}
