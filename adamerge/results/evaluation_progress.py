"""How far an evaluation is: a bar that counts batches, or a line without a terminal."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from adamerge.experts.progress_bars import bars_on_terminals


@contextmanager
def counting(console: Console, batches: int) -> Generator[Callable[[int], object]]:
    """Show how many batches of an evaluation are done, and the time left.

    Args:
        console: Where to.
        batches: Of the whole evaluation.

    Yields:
        What is called with the number of further batches that are done.
    """
    if not console.is_terminal:
        console.print(f"evaluating: {batches} batches")
    columns = (
        TextColumn("evaluating"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("batches, left"),
        TimeRemainingColumn(),
    )
    with bars_on_terminals(console, *columns) as bar:
        task = bar.add_task("", total=batches)
        yield lambda count: bar.advance(task, count)
