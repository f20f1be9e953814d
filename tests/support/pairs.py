"""Tables in which every two values of any two axes meet at least once."""

import itertools
from collections.abc import Callable, Mapping, Sequence

Choice = Mapping[str, str]


def covering(axes: Mapping[str, Sequence[str]], allowed: Callable[[Choice], bool]) -> list[dict[str, str]]:
    """Rows that hold every pair of values which some allowed row can hold; few, though not the fewest.

    Greedy: a row begins with a pair that is still to be covered, and goes on, axis by axis, with the value that
    covers most; `allowed` is asked of rows that are whole in the axes it looks at, and must say yes of those that lack
    them.
    """
    names = list(axes)
    left = {
        pair
        for one, other in itertools.combinations(names, 2)
        for pair in itertools.product([(one, value) for value in axes[one]], [(other, value) for value in axes[other]])
        if allowed(dict(pair))
    }
    rows: list[dict[str, str]] = []
    while left:
        row = dict(min(left))
        for name in [name for name in names if name not in row]:
            values = [value for value in axes[name] if allowed({**row, name: value})]
            row[name] = max(values, key=lambda value: len(_pairs({**row, name: value}) & left))
        rows.append({name: row[name] for name in names})
        left -= _pairs(rows[-1])
    return rows


def _pairs(row: Choice) -> set[tuple[tuple[str, str], tuple[str, str]]]:
    return {pair for pair in itertools.permutations(row.items(), 2)}
