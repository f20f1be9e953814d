"""Tables in a terminal that is too narrow for them."""

import pytest
from rich.console import Console

from adamerge.results.grids import Cell, Grid
from adamerge.results.narrow_tables import print_grid

RUNS = [f"run_of_kind_{k}" for k in range(5)]


@pytest.fixture
def printed(capsys):
    """Print a table of one row; return its lines as words, without the title."""

    def printed(header, row, width):
        grid = Grid("Title", ["key", *header], [[Cell("row"), *map(Cell, row)]])
        print_grid(grid, Console(width=width))
        return [words for line in capsys.readouterr().out.splitlines()[1:] if len(words := line.split()) > 1]

    return printed


@pytest.mark.parametrize(
    ("width", "parts"), [(120, [RUNS]), (80, [RUNS[:4], RUNS[4:]]), (50, [RUNS[:2], RUNS[2:4], RUNS[4:]])]
)
def test_a_table_that_does_not_fit_is_printed_in_parts(printed, width, parts):
    rows = iter("12345")
    expected = [line for own in parts for line in (["key", *own], ["row", *(next(rows) for _ in own)])]
    assert printed(RUNS, "12345", width) == expected


def test_where_no_two_columns_fit_each_value_names_its_columns(printed):
    classes = [f"adamerge.objectives.Objective{'A' * 20}{k}" for k in (0, 0, 1, 0, 1)]
    assert [" ".join(words) for words in printed(RUNS, classes, 80)] == [
        f"run_of_kind_0, run_of_kind_1, run_of_kind_3: {classes[0]}",
        f"run_of_kind_2, run_of_kind_4: {classes[2]}",
    ]
