"""Print a table in a terminal that may be narrower than it: in parts, or as a list; no cell is ever folded."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from adamerge.results.grids import Grid

_UNLIMITED = 10**6


def print_grid(grid: Grid, console: Console) -> None:
    """Print a table whole where it fits, else the columns that fit below each other, else each row as a list.

    Args:
        grid: The table.
        console: Where to print; its width decides.
    """
    parts = [_table(grid, columns) for columns in _parts(grid, console)]
    if len(parts) < max(2, len(grid.header) - 1) and all(_fits(part, console) for part in parts):
        for part in parts:
            console.print(part)
        return
    for line in (grid.title, *_as_list(grid), ""):
        console.print(Text(line), soft_wrap=True)


def _parts(grid: Grid, console: Console) -> list[list[int]]:
    """Divide the columns beside the first into as many parts as there must be for each to fit."""
    parts = [list[int]()]
    for column in range(1, len(grid.header)):
        if parts[-1] and not _fits(_table(grid, [*parts[-1], column]), console):
            parts.append([])
        parts[-1].append(column)
    return parts


def _fits(table: Table, console: Console) -> bool:
    unlimited = console.options.update(width=_UNLIMITED)
    return Measurement.get(console, unlimited, table).maximum <= console.width


def _table(grid: Grid, columns: Sequence[int]) -> Table:
    table = Table(title=Text(grid.title), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    for column in (0, *columns):
        head = Text(grid.header[column].replace(" − ", " −\n"))
        table.add_column(head, justify="right" if column else "left", no_wrap=True)
    for row in grid.rows:
        table.add_row(*(Text(row[column].text) for column in (0, *columns)))
    return table


def _as_list(grid: Grid) -> Iterator[str]:
    """Write each row as its name and a line for each of its values, with the columns that have it."""
    for name, *cells in grid.rows:
        yield f"  {name.text}"
        columns = dict[str, list[str]]()
        for column, cell in zip(grid.header[1:], cells, strict=True):
            columns.setdefault(cell.text, []).append(column)
        yield from (f"    {', '.join(own)}: {value}" for value, own in columns.items())
