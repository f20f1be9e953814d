"""The report in Markdown says what the page says: its tables, and the numbers behind its pictures."""

import re
from html.parser import HTMLParser

import pytest
import torch
from results.test_report_page import made

from adamerge.results.report_page import report_on
from adamerge.results.sections import sections


def test_intervals_are_in_the_table():
    found = report_on([made()]).markdown
    assert re.search(r"\| a&#124;b \| 81\.0 \(95\) \[7\d\.\d, 8\d\.\d\] \| 86\.0 \[7\d\.\d, 9\d\.\d\]", found)


def test_tables_of_markdown_have_a_cell_per_column():
    text = report_on([made(), made("other")]).markdown
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1, block


class Captions(HTMLParser):
    """Titles of a page's tables."""

    def __init__(self, text):
        super().__init__()
        self.found, self.inside = [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.inside = tag == "caption"

    def handle_data(self, data):
        self.found += [data] if self.inside else []
        self.inside = False


@pytest.mark.parametrize("groups", [20, 2500])
def test_every_table_of_the_page_is_in_markdown_or_named_with_its_size(groups):
    page, text = report_on([made(groups=groups)])
    tables = re.findall(r"^\*\*([^*]+)\*\*", text, flags=re.MULTILINE)
    named = re.findall(
        r"^\*([^*]+)\* \(in the page\): a table of (\d+) rows and (\d+) columns", text, flags=re.MULTILINE
    )
    assert sorted(tables + [title for title, _, _ in named]) == sorted(Captions(page).found)
    assert named == ([("Every coefficient", "2500", "2")] if groups > 20 else [])
    assert {"Versions", "Mean coefficient by kind of module", "‖expert − base‖ by block"} <= set(tables)
    assert ("Mean coefficient by block" in tables) == (groups > 20)  # 20 are of one block
    assert "| torch | 2 |" in text
    assert len(text.splitlines()) < 300


def grid(run, title):
    (found,) = (own for section in sections(run) for own in section.grids if own.title == title)
    return [[cell.text for cell in row] for row in found.rows], found


def test_learning_in_numbers_has_some_of_many_steps_and_the_best():
    own = made()
    last = own.history[-1]
    own.metrics["history"][1:] = [{**last, "step": step, "agreement": step / 400} for step in range(1, 401)]
    own.metrics["best_step"] = 7
    rows, found = grid(own, "Learning in numbers")
    assert len(rows) == 21
    assert rows[0] == ["0", "–", "1.0000", "50.0", "0.000", "0.300"]
    assert ["7 (best)", "0.7000", "0.8000", "1.8", "0.000", "0.300"] in rows
    assert rows[-1][0] == "400"
    assert found.note.startswith("21 of 401 measurements. ")
    own.metrics["history"][2:] = []
    assert len(grid(own, "Learning in numbers")[0]) == 2


def test_cosines_are_those_of_the_vectors():
    own, vectors = made(), torch.tensor([[[3.0, 4.0], [4.0, 3.0]], [[1.0, 0.0], [0.0, 2.0]], [[0.0, 0.0], [1.0, 1.0]]])
    own.facts["task_vectors"]["grams"] = (vectors @ vectors.mT).tolist()
    rows, _ = grid(own, "Cosines of pairs by block")
    assert rows == [["embed", *["0.96"] * 3], ["layers.0", *["0.00"] * 3], ["layers.1", *["0.00"] * 3]]
    whole = torch.nn.functional.cosine_similarity(*vectors.transpose(0, 1).flatten(1), dim=0).item()
    rows, _ = grid(own, "Cosines of task vectors, whole model")
    assert [row[1:] for row in rows] == [["1.00", f"{whole:.2f}"], [f"{whole:.2f}", "1.00"]]
