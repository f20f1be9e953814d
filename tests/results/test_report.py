"""Tables of results name every task as it is called; the legend of the curve is whole."""

import io

import pytest
import torch
from matplotlib.image import imread
from rich.console import Console

from adamerge.results.report import curve, heat_map, table


def test_names_of_tasks_are_no_markup():
    names = ["news[b]", "[red]", "a.b", "base", "average"]
    scores = {"learned": {**dict.fromkeys(names, 50.0), "mean": 50.0}}
    ratios = {"learned": {**dict.fromkeys(names, 100.0), "mean": 100.0}}
    out = io.StringIO()
    Console(file=out, width=100).print(table(scores, ratios, "accuracy, %"))
    lines = out.getvalue().splitlines()
    assert all(any(line.strip().startswith(f"{name} ") and "50.0 (100)" in line for line in lines) for name in names)


@pytest.mark.parametrize("monitor", ["divergence", "agreement", "objective", "last"])
def test_the_legend_is_within_the_picture(monitor, tmp_path):
    history = [{"step": step, "agreement": 0.9, "divergence": 0.1, "objective": 0.2} for step in (0, 100_000)]
    curve(history, 100_000, tmp_path / "learning.png", monitor)
    picture = imread(tmp_path / "learning.png")[..., :3]
    legend = picture[:30]
    assert legend.min() < 0.5
    assert legend[:, [0, 1, -2, -1]].min() == 1


@pytest.mark.parametrize(("groups", "labels"), [(330, 2 + 55), (2500, 2 + 80)])
def test_a_heat_map_of_many_groups_is_no_taller_than_its_names(groups, labels, tmp_path):
    """Many are summed up, and names of too many are left out."""
    names = [f"h.{i % 2}.part{i % (labels - 2 if groups == 330 else 500)}[{i}:{i + 1}]" for i in range(groups)]
    heat_map(torch.rand(groups, 2), names, ["a$b$", "c"], tmp_path / "coefficients.png")
    height, width = imread(tmp_path / "coefficients.png").shape[:2]
    assert height <= 24 * labels + 500
    assert 600 <= width <= 900
