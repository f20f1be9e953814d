"""What a step takes: seconds, and bytes that come from the disk."""

import time

from pytorch_lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from adamerge.storage.memory import read_from_disk


class StepCosts(Callback):
    """Measures all steps of this session, without evaluations on held-out rows.

    Attributes:
        steps: Number of steps.
        seconds: Of all of them.
        bytes: That the system read from a disk for them; what it had in memory already (the page cache) is not counted.
    """

    def __init__(self) -> None:
        self.steps, self.seconds, self.bytes = 0, 0.0, 0
        self._began, self._read = 0.0, 0

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        self._began, self._read = time.perf_counter(), read_from_disk()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self.steps += 1
        self.seconds += time.perf_counter() - self._began
        self.bytes += read_from_disk() - self._read

    def line(self) -> str:
        """Say what a step took on average.

        Example:
            >>> costs = StepCosts()
            >>> costs.steps, costs.seconds, costs.bytes = 2, 3.0, 5_000_000
            >>> costs.line()
            'a step took 1.50 s and read 2.5 MB from the disk'
        """
        seconds, read = self.seconds / self.steps, self.bytes / self.steps / 1e6
        return f"a step took {seconds:.{0 if seconds > 10 else 2}f} s and read {read:.1f} MB from the disk"
