"""Several runs side by side: scores, agreement, settings and coefficients that differ."""

from dataclasses import replace

import pytest
import torch
from results.test_report_page import Page, made

from adamerge.merging.coefficients import Table
from adamerge.merging.grouping import Grouping
from adamerge.results.report_page import report_on
from adamerge.results.side_by_side import compared


def test_runs_side_by_side():
    first = made("first", init=0.3, chunks=None, base_model="/models/a")
    found = report_on([first, made("second", init=0.5, shift=0.25, beside=None)])
    assert "| init | 0.3 | 0.5 |" in found.markdown
    assert not any(f"| {same} |" in found.markdown for same in ("seed", "chunks", "beside"))
    assert "| second | 0.2500 | 0.2500 |" in found.markdown
    assert "second − first" in found.markdown
    assert '<td class="words">/<wbr>models/<wbr>a</td>' in found.html  # wraps; numbers do not
    assert not Page(found.html).open


def cells(grid):
    return [[cell.text for cell in row] for row in grid.rows]


def test_runs_of_other_experts_show_what_they_share():
    first = with_table(made("first", **{"models.0.model": "/m/news", "models.1.model": "/m/mail"}), "news mail", 2)
    other = with_table(made("other", **{"models.0.model": "/m/mail", "models.1.model": "/m/spam"}), "mail spam", 4)
    first.metrics["learned"], other.metrics["learned"] = {"news": 80, "mail": 70}, {"mail": 75, "spam": 60}
    found = compared([first, other])
    assert found.text[2:] == ["Tasks that first does not have: spam.", "Tasks that other does not have: news."]
    grids = {grid.title: cells(grid) for grid in found.grids}
    assert grids["Scores of the merges (accuracy, %, higher is better)"] == [
        ["news", "80.0", "–", "–"],
        ["mail", "70.0", "75.0", "5.0"],
        ["spam", "–", "60.0", "–"],
        ["mean of shared tasks (mail)", "70.0", "75.0", "5.0"],
    ]
    assert grids["Settings that differ"] == [
        ["models.news.model", "/m/news", "–"],
        ["models.spam.model", "–", "/m/spam"],
    ]
    then, now = first.table.coefficients, other.table.coefficients
    apart = (now[:, 0].view(2, 2).mean(1) - then[:, 1]).abs()  # the first's groups are parameters, the other's halves
    ((_, mean, most, where, what),) = grids["Coefficients against first"]
    assert (mean, most) == (f"{apart.mean():.4f}", f"{apart.max():.4f}")
    assert (where, what) == (f"p{apart.argmax()}: mail", "2 parameters (means over their groups) of mail")
    means = [f"{own:.4f}" for own in (*then.mean(0), *now.mean(0))]
    assert grids["Mean coefficients"] == [["news", means[0], "–"], ["mail", *means[1:3]], ["spam", "–", means[3]]]


def test_settings_and_agreement_of_tasks_without_evaluation_rows_stand_by_their_own_names():
    first = made("first", **{"models.0.model": "/m/news", "models.1.model": "/m/mail"})
    other = made("other", **{"models.0.model": "/m/news", "models.1.model": "/m/post"})
    for run in (first, other):
        run.metrics["learned"] = {"mail": 70.0, "mean": 70.0}  # news comes first, and has no evaluation rows
        run.metrics["agreement"] = {"learned": {"news": 0.9, "mail": 0.8, "mean": 0.85}}
        run.metrics["divergence"] = {"learned": {"news": 0.5, "mail": None, "mean": 0.5}}
        run.metrics["run"]["heads"] = {"news": [], "mail": []}
    found = compared([first, other])
    assert not [line for line in found.text if "does not have" in line]
    grids = {grid.title: cells(grid) for grid in found.grids}
    assert grids["Settings that differ"] == [["models.mail.model", "/m/mail", "/m/post"]]
    assert grids["Agreement with the experts, %"][0] == ["news", "90.0", "90.0", "0.0"]
    assert grids["Divergence from the experts, nats"][0] == ["news", "0.5000", "0.5000", "0.0000"]


def with_table(run, names, groups):
    """A run over two parameters whose groups are these, or equal parts of these."""
    own = torch.rand(groups, 2, generator=torch.Generator().manual_seed(groups))
    rows = {f"p{k}": torch.arange(groups).view(2, -1)[k] for k in range(2)}
    table = Table(own, Grouping(tuple(f"g{groups}.{k}" for k in range(groups)), rows), tuple(names.split()), "base")
    return replace(run, table=table)


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (made("second", groups=30), "nothing: no parameter in common"),
        (made("second", experts=3), "nothing: no expert in common"),
        (
            made("second", task_vectors="Ties"),
            "nothing: factors of other task vectors (over Isotropic; Ties over Isotropic)",
        ),
    ],
)
def test_coefficients_that_nothing_compares(second, said):
    (apart,) = (own for own in compared([made("first"), second]).grids if own.title == "Coefficients against first")
    assert cells(apart) == [["second", "–", "–", "–", said]]


TIES = {"task_vectors.class_path": "adamerge.transforms.Ties"}
REGMEAN = {"centre.class_path": "adamerge.calibration.regmean.RegMean"}
AUTO = {"centre.class_path": "adamerge.calibration.race.Auto", "centre.init_args.merges.0.class_path": "x.Wudi"}


def over(name, centre, settings):
    run = made(name, **settings)
    return replace(run, table=run.table._replace(centre=centre))


@pytest.mark.parametrize(
    ("centre", "then", "now", "said"),
    [
        ("base", TIES, {**TIES, "task_vectors.init_args.density": 0.2}, ""),  # its default
        (
            "base",
            {**TIES, "task_vectors.init_args.density": 0.1},
            TIES,
            "Ties with density 0.1 over base; Ties with density 0.2 over base",
        ),
        (
            "RegMean",
            {"centre": "regmean"},
            {**REGMEAN, "centre.init_args.scale": 0.5},
            "over RegMean with scale 0.95; over RegMean with scale 0.5",
        ),
        ("RegMean", {"centre": "regmean"}, {**REGMEAN, "centre.init_args.scale": 0.95}, ""),
        (None, {"centre": "regmean"}, {}, "over RegMean; over base"),  # of a version that did not name it
        ("auto: Wudi × 1", {"centre": "auto"}, AUTO, ""),
        (
            "auto: Wudi × 1",
            AUTO,
            {**AUTO, "centre.init_args.merges.0.init_args.ridge": 1},
            "over auto: Wudi × 1 with ridge 0.1; over auto: Wudi × 1 with ridge 1",
        ),
    ],
)
def test_coefficients_with_other_options_of_transform_or_centre_are_not_compared(centre, then, now, said):
    (apart,) = (
        own
        for own in compared([over("first", centre, then), over("second", centre, now)]).grids
        if own.title == "Coefficients against first"
    )
    said = f"nothing: factors of other task vectors ({said})" if said else "all 20 groups"
    assert apart.rows[0][-1].text == said


def test_columns_of_merges_beside_that_have_other_options_are_not_compared():
    def run(name, power):
        beside = {"beside.0": "base", "beside.1.class_path": "x.Esm", "beside.1.init_args.power": power}
        own = with_table(made(name, **beside), "news Esm", 2)
        return replace(own, table=own.table._replace(coefficients=own.table.coefficients + power))

    apart = next(own for own in compared([run("first", 1), run("second", 2)]).grids if "against" in own.title)
    said = "2 groups of news; not of other merges: Esm (Esm with power 1; Esm with power 2)"
    assert cells(apart) == [["second", "1.0000", "1.0000", "g2.0: news", said]]


def test_means_over_other_tasks_are_not_compared():
    for experts, mean, heads in ((2, "0.0", ["second − first"]), (3, "81.0", [])):
        scores = compared([made("first"), made("second", experts=experts)]).grids[0]
        assert [row[-1].text for row in scores.rows if row[0].text == "mean"] == [mean]
        assert scores.header[3:] == heads


def test_tasks_without_a_number_have_no_row():
    without = made("second", experts=3, scores=False)
    scores, agreement, *_ = compared([made("first"), without]).grids
    assert [row[0].text for row in scores.rows] == ["<b>news", "a|b", "mean"]
    assert len(agreement.rows) == 6


def test_numbers_of_other_metrics_and_of_fewer_tasks_are_not_compared():
    other, fewer = made("second"), made("third")
    other.metrics["metrics"] = {"<b>news": "f1", "a|b": "accuracy"}
    fewer.metrics["agreement"]["learned"]["a|b"] = None  # no held-out rows
    scores, agreement, *_ = compared([made("first"), other, fewer]).grids
    assert scores.title == "Scores of the merges (each task's own metric)"
    assert [[row[0].text, row[-2].text, row[-1].text] for row in scores.rows] == [
        ["<b>news (accuracy, %, higher is better; F1, %, higher is better)", "–", "0.0"],
        ["a|b (accuracy, %, higher is better)", "0.0", "0.0"],
        ["mean", "–", "0.0"],
        ["mean of shared tasks (a|b)", "0.0", "0.0"],
    ]
    assert agreement.title == "Agreement with the experts, %"
    assert [[row[-2].text, row[-1].text] for row in agreement.rows] == [
        ["0.0", "0.0"],
        ["0.0", "–"],
        ["0.0", "–"],
        ["0.0", "0.0"],
    ]
