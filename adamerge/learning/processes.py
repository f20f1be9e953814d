"""The processes that learn together, one per device: Lightning finds those that a launcher started, or starts them."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import distributed

from adamerge.learning.trainer import process_count, without_advice
from adamerge.merging.device import device_of
from adamerge.types import ConfigError

WAIT = timedelta(days=1)
"""How long processes wait for each other: the others for what the first one prepares, which may take hours."""

Value = TypeVar("Value")


class Processes:
    """The processes of one run. The first prepares, writes and reports; the others join it to learn.

    Under torchrun and SLURM all processes are there from the start, and the others wait in `join` for the first one.
    Without a launcher, Lightning starts the same command once more for every other device when the first one joins.

    Args:
        options: Arguments of Lightning's Trainer.

    Raises:
        ConfigError: Lightning cannot run that many processes here.
    """

    def __init__(self, options: Mapping[str, object]) -> None:
        self._count, self._tried, self._fabric, self._waited_for = process_count(options), False, None, False
        if self._count == 1:
            return
        strategy = DDPStrategy(timeout=WAIT)
        device = device_of(str(options.get("accelerator", "auto"))).type
        devices, nodes = (int(str(options.get(key, 1))) for key in ("devices", "num_nodes"))
        with _in_words():
            self._fabric = Fabric(accelerator=device, devices=devices, num_nodes=nodes, strategy=strategy)
        assert strategy.cluster_environment is not None
        self._waited_for = nodes > 1 or strategy.cluster_environment.creates_processes_externally

    @property
    def first(self) -> bool:
        """Whether this is the process that prepares, writes and reports."""
        return self._fabric is None or self._fabric.global_rank == 0

    @property
    def name(self) -> str:
        """Which process this is, for messages."""
        return f"process {self._fabric.global_rank if self._fabric else 0} of {self._count}"

    def join(self, *, going_on: bool = True) -> bool:
        """Wait until all processes are here; return whether the first one goes on.

        Args:
            going_on: Whether it does, if this is the first one.

        Raises:
            ConfigError: There are fewer or more processes than the configuration asks for.
        """
        if self._fabric is None:
            return going_on
        self._tried = True
        with _in_words():
            self._fabric.launch()
        return self.told(going_on)

    def told(self, value: Value) -> Value:
        """Return the first process's value on all processes."""
        return value if self._fabric is None else self._fabric.broadcast(value)

    def leave(self) -> None:
        """End what connects the processes; each goes on alone."""
        if self._fabric is not None:
            distributed.destroy_process_group()

    @contextmanager
    def led(self) -> Generator[None]:
        """Let the others go if the first process ends the block without having joined them."""
        try:
            yield
        except KeyboardInterrupt:
            self._tried = True  # Ctrl-C ends the others too
            raise
        finally:
            if self._waited_for and not self._tried:
                self.join(going_on=False)


@contextmanager
def _in_words() -> Generator[None]:
    """Say in words of the configuration that Lightning cannot run the processes."""
    try:
        with without_advice():
            yield
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"trainer.devices: Lightning cannot run these processes: {str(error).strip()} Set devices and num_nodes to "
            "what the launcher starts (torchrun --nproc_per_node, --nnodes)."
        ) from error
