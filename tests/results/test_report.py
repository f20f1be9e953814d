"""Tables of results name every task as it is called."""

import io

from rich.console import Console

from adamerge.results.report import table


def test_names_of_tasks_are_no_markup():
    names = ["news[b]", "[red]", "a.b", "base", "average"]
    scores = {"learned": {**dict.fromkeys(names, 50.0), "mean": 50.0}}
    ratios = {"learned": {**dict.fromkeys(names, 100.0), "mean": 100.0}}
    out = io.StringIO()
    Console(file=out, width=100).print(table(scores, ratios, "accuracy, %"))
    lines = out.getvalue().splitlines()
    assert all(any(line.strip().startswith(f"{name} ") and "50.0 (100)" in line for line in lines) for name in names)
