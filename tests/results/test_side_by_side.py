"""Several runs side by side: scores, agreement, settings and coefficients that differ."""

from results.test_report_page import Page, made

from adamerge.results.report_page import report_on
from adamerge.results.side_by_side import compared


def test_runs_side_by_side():
    first = made("first", init=0.3, chunks=None, base_model="/models/a")
    found = report_on([first, made("second", init=0.5, shift=0.25, beside=None)])
    assert "| init | 0.3 | 0.5 |" in found.markdown
    assert not any(f"| {same} |" in found.markdown for same in ("seed", "chunks", "beside"))
    assert "| second | 0.2500 | 0.2500 |" in found.markdown
    assert "second − first" in found.markdown
    assert '<td class="words">/models/a</td>' in found.html  # wraps; numbers do not
    assert not Page(found.html).open
    grids = compared([made("first"), made("second", groups=30)]).grids
    (apart,) = (grid for grid in grids if grid.title == "Coefficients against first")
    assert [cell.text for cell in apart.rows[0]] == ["second", "–", "–", "other groups, experts or centre"]


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
    ]
    assert agreement.title == "Agreement with the experts, %"
    assert [[row[-2].text, row[-1].text] for row in agreement.rows] == [["0.0", "0.0"], ["0.0", "–"], ["0.0", "–"]]
