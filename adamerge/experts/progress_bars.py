"""Progress bars: ours, on terminals alone, and a switch that disables those of transformers."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, ProgressColumn
from transformers.utils import logging


def bars_on_terminals(console: Console, *columns: ProgressColumn) -> Progress:
    """Make bars that are removed when they end; where the output is no terminal nothing is written.

    Args:
        console: Where to.
        columns: Parts of a bar; by default rich's own.
    """
    shown = console if console.is_terminal else Console(quiet=True)  # rich 13.0 ends disabled bars by an empty line
    return Progress(*columns, console=shown, transient=True, disable=not console.is_terminal)


@contextmanager
def without_bars() -> Iterator[None]:
    """Disable transformers' progress bars inside the block: one per file would hide more important output."""
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()
