"""Every two values of any two axes work together on a small real problem; `benchmarks/product.py` takes them all."""

import itertools

import pytest
from support.pairs import covering
from support.table import AXES, Table, allowed

ROWS = covering(AXES, allowed)


def resumed():
    """Which rows are resumed too: every value of every axis in one of them."""
    seen, chosen = set(), set()
    for number, row in enumerate(ROWS):
        if not seen.issuperset(row.items()):
            seen.update(row.items())
            chosen.add(number)
    return chosen


RESUMED = resumed()


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return Table(tmp_path_factory.mktemp("vectors"))


@pytest.mark.parametrize("number", range(len(ROWS)), ids=["-".join(row.values()) for row in ROWS])
def test_every_pair_of_values_works(table, number, tmp_path):
    table.judge(ROWS[number], tmp_path if number in RESUMED else None)


def test_the_table_holds_every_defined_pair():
    for one, other in itertools.combinations(AXES, 2):
        held = {(row[one], row[other]) for row in ROWS}
        defined = {
            pair
            for pair in itertools.product(AXES[one], AXES[other])
            if allowed(dict(zip((one, other), pair, strict=True)))
        }
        assert held == defined
