"""A report says what the files of a run say, on one page without network, from 20 to 2,500 groups."""

import itertools
import re
import xml.etree.ElementTree as ElementTree
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from matplotlib import rc_context, rcParams
from matplotlib.figure import Figure

from adamerge.merging.coefficients import Table
from adamerge.merging.grouping import Grouping
from adamerge.results.heat_maps import STYLE, HeatMap, draw, size_of
from adamerge.results.pictures import pictures
from adamerge.results.report_page import report_on
from adamerge.results.sections import sections
from adamerge.results.seen_run import SeenRun

KINDS = ("attn.q.weight", "attn.o.weight", "mlp.up.weight", "mlp.down.weight", "norm.weight")


def made(name="run", *, groups=20, experts=2, history=True, scores=True, agreement=True, shift=0.0, **settings):
    """A finished run with random numbers."""
    random = torch.Generator().manual_seed(0)
    labels = [f"model.layers.{i // 5 // 20}.{KINDS[i % 5]}[{i // 5 % 20}:{i // 5 % 20 + 1}]" for i in range(groups)]
    tasks = [f"task{k}" for k in range(experts)] if experts > 2 else ["<b>news", "a|b"]
    values = {task: 80.0 + k for k, task in enumerate(tasks)} | {"mean": 80.0 + (experts - 1) / 2}
    seen = {"step": 0, "agreement": 0.5, "objective": 1.0, "c_min": 0.0, "c_max": 0.3}
    grams = torch.eye(experts).expand(3, experts, experts).tolist()
    metrics = {
        "metric": "accuracy",
        "learned": values if scores else dict.fromkeys(values),
        "expert": {k: v + 5 for k, v in values.items()} if scores else dict.fromkeys(values),
        "average": {k: v - 2 for k, v in values.items()} if scores else dict.fromkeys(values),
        "percent_of_expert": {"learned": {k: 95.0 for k in values}} if scores else {},
        "agreement": {"learned": dict.fromkeys(values, 0.9), "average": dict.fromkeys(values, 0.8)}
        if agreement
        else {},
        "history": [seen, {**seen, "step": 10, "loss": 0.7, "objective": 0.8}] if history else [],
        "best_step": 10,
        "run": {
            "seconds": {"learn": 2.0},
            "device": "cpu",
            "peak_memory_bytes": {"process": 10**9},
            "input_bytes": 10**6,
            "stages": [5],
            "predictions": dict.fromkeys(tasks, 100),
            "rows": {task: {"calibration": 10, "evaluation": 100} for task in tasks},
            "lines": ["<script>alert(1)</script>"],
            "task_vectors": {"tasks": tasks, "depths": ["embed", "layers.0", "layers.1"], "grams": grams},
        },
    }
    table = torch.rand(groups, experts, generator=random) - 0.2 + shift
    found = Table(table, Grouping(tuple(labels), {}), tuple(tasks), "Isotropic")
    return SeenRun(name, Path("run"), {"seed": 0, **settings}, metrics, {"packages": {"torch": "2"}}, found)


class Page(HTMLParser):
    """Tags, words and addresses of a page; every tag that opens must close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.links, self.headings, self.tables = [], [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        own = dict(attrs)
        if tag not in ("meta", "img", "br", "wbr"):
            self.open.append(tag)
        self.links += [own[key] for key in ("src", "href") if key in own]
        self.images += [own] if tag == "img" else []
        self.headings += [tag] if re.fullmatch(r"h\d", tag) else []
        self.tables += tag == "table"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_page_needs_no_network_and_is_well_formed():
    text = report_on([made()]).html
    page = Page(text)
    assert not page.open
    assert all(link.startswith("data:image/svg+xml;base64,") for link in page.links)
    assert all(image["alt"] for image in page.images)
    assert "//" not in re.sub(r"base64,[^\"]+", "", text)
    assert page.headings[0] == "h1"
    assert text.count("<th scope") >= page.tables
    assert "<script>alert(1)" not in text
    assert "&lt;b&gt;news" in text
    assert '<th scope="row">model.<wbr>layers.<wbr>0.<wbr>' in text  # a narrow window breaks names there
    assert re.findall(r"<button[^>]*>([^<]*)", text)[:2] == ["task", "learned"]  # a narrow window shows it first
    assert re.search(r'data-value="80.0">80.0 \(95\)<br><small>\[7\d\.\d, 8\d\.\d\]</small>', text)


def luminance(colour):
    """Relative luminance of #rgb or #rrggbb, as WCAG 2 defines it."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_words_have_contrast_headings_have_an_order_and_wide_parts_scroll():
    """What an accessibility check reports first: 4.5 : 1, no level left out, regions that keys can scroll."""
    runs = [made(name, groups=5, history=False) for name in ("a", "b")]
    text = report_on(runs).html
    colours = re.findall(r"(?<![\w-])color: (#[0-9a-f]{3,6})", text)
    assert colours
    assert all(1.05 / (luminance(colour) + 0.05) >= 4.5 for colour in colours)  # on white
    levels = [int(heading[1]) for heading in Page(text).headings]
    assert levels.count(1) == 1
    assert all(following - level <= 1 for level, following in itertools.pairwise(levels))
    wide = re.findall(r'<div class="wide"([^>]*)>\s*<(table|img)', text)
    assert len(wide) == text.count("<table>") + text.count("<img ")
    assert all('tabindex="0"' in tag and 'role="region"' in tag and "aria-label=" in tag for tag, _ in wide)
    assert 'name="viewport"' in text
    assert '<html lang="en">' in text


@pytest.mark.parametrize(("groups", "experts"), [(20, 2), (2500, 20)])
def test_pictures_stay_readable_and_the_page_small(groups, experts):
    page = report_on([made(groups=groups, experts=experts)]).html
    drawn = {image["alt"]: b64decode(image["src"].partition(",")[2]).decode() for image in Page(page).images}
    wanted = [
        "Loss, agreement",
        "Norms of",
        "Pairwise cosines",
        "Cosines of all pairs",
        "Coefficients: 20" if groups == 20 else "of all groups",
    ]
    assert all(any(word in text for text in drawn) for word in wanted)
    for svg in drawn.values():
        root = ElementTree.fromstring(svg)
        sizes = re.findall(r"font(?:-size)?: (?:[\w-]+ )*([\d.]+)px", svg)  # Matplotlib 3.9 writes all of a font
        assert min(map(float, sizes)) >= 7.5  # points, so 10 pixels
        assert max(float(root.get(side).removesuffix("pt")) for side in ("width", "height")) < 1500
    assert len(page) < 3_000_000
    assert page.count("<td") >= groups * experts


def test_names_have_room_for_wider_letters_of_a_browser():
    """It rounds their width up, unless it is told not to, or has another font; the page cuts what is outside."""
    rows = ["a.long.name.of.a.module.weight (64)", "b"]
    shown = HeatMap("Coefficients", "module", torch.rand(2, 3), rows)
    with rc_context({**STYLE, "ytick.labelleft": True}):
        figure = Figure(figsize=size_of(2, ["a"] * 3), layout="constrained")
        axes = figure.add_subplot()
        draw(figure, axes, shown, ["a", "b", "c"], "base")
        figure.draw_without_rendering()
        place = axes.get_yticklabels()[0].get_window_extent()
    assert place.x0 > 0.04 * place.width
    assert all("geometricPrecision" in picture.svg for picture in pictures(made()))


@pytest.mark.parametrize("rows", [1, 5, 60])
@pytest.mark.parametrize("name", ["a", "distilbert-of-many-languages-{}"])
def test_rows_have_room_for_their_numbers_below_the_colour_bar(rows, name):
    """However long the names are that stand aslant below."""
    columns = [name.format(k) for k in range(20)]
    with rc_context(STYLE):
        figure = Figure(figsize=size_of(rows, columns), layout="constrained")
        axes = figure.add_subplot()
        draw(figure, axes, HeatMap("", "", torch.rand(rows, 20), ["x"] * rows), columns, "base")
        figure.draw_without_rendering()
        cells, bar = (part.get_window_extent() for part in figure.axes)
    assert cells.height / figure.dpi / rows > 0.14
    assert bar.y0 - cells.y1 > 0.04 * figure.dpi


def test_the_heat_map_names_zero_and_the_centre():
    drawn = {picture.title: picture for picture in pictures(made())}
    assert "0 = the centre (Isotropic) alone" in drawn["Coefficients"].svg
    assert "second stage begins" in drawn["Learning"].svg
    assert "best iterate" in drawn["Learning"].svg


def test_colours_differ_in_grey():
    from matplotlib import colormaps

    grey = colormaps["cividis"](torch.linspace(0, 1, 20).numpy())[:, :3] @ [0.299, 0.587, 0.114]
    assert (grey[1:] > grey[:-1]).all()


def test_numbers_in_cells_have_contrast():
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    figure = Figure()
    shown = HeatMap("", "group", torch.linspace(-1, 1, 200)[:, None], [str(i) for i in range(200)])
    draw(figure, axes := figure.add_subplot(), shown, ["news"], "base")
    for text in axes.texts:
        cell = luminance(to_hex(colormaps["cividis"]((shown.values[int(text.get_position()[1]), 0].item() + 1) / 2)))
        ink = luminance(to_hex(text.get_color()))
        assert (max(cell, ink) + 0.05) / (min(cell, ink) + 0.05) > 4.3
    assert len(axes.texts) == 200


def test_the_curve_by_which_the_best_iterate_was_chosen_is_drawn_and_no_axis_passes_all_rows(monkeypatch):
    monkeypatch.setitem(rcParams, "ytick.labelleft", True)
    own = made(**{"watch.monitor": "divergence"})
    history = [{**entry, "agreement": 1.0, "divergence": 0.5 - entry["step"] / 100} for entry in own.history]
    for run, drawn in ((own, False), (replace(own, metrics={**own.metrics, "history": history}), True)):
        svg = next(picture.svg for picture in pictures(run) if picture.title == "Learning")
        assert ("divergence, held out, mean over tasks" in svg) == drawn
        assert "best iterate, by divergence" in svg
    ticks = re.findall(r"<text[^>]*>([\d.]+)<", svg)
    assert max(map(float, ticks)) == 100  # agreement has no other


def test_heads_of_one_name_are_listed_once_and_zero_has_no_sign():
    own = made(history=False)
    heads = {"a": ["cls.weight"], "b": ["cls.weight"], "c": ["score.weight"], "d": []}
    run = replace(own, metrics={**own.metrics, "run": {**own.facts, "heads": heads}})
    (found,) = (section for section in sections(run) if section.title == "Models and rows")
    assert "Each expert's own: cls.weight (a, b); score.weight (c)." in found.text
    small = own.table._replace(coefficients=torch.full_like(own.table.coefficients, -0.001))
    svg = next(iter(pictures(replace(own, table=small)))).svg
    assert "0.00" in svg
    assert "-0.00<" not in svg


def test_the_race_names_the_centre():
    rounds = [{"rows": 8, "divergence": {"Ties": 0.4, "average": 0.5}}, {"rows": 16, "divergence": {"average": 0.3}}]
    own = made(history=False)
    table = own.table._replace(centre="auto")
    run = replace(own, table=table, race={"winner": "average", "rounds": rounds})
    assert run.centre == "auto: average"
    found = {section.title: section for section in sections(run)}
    assert found["Coefficients"].text[0].endswith("0 leaves the centre (auto: average) as it is.")
    (grid,) = found["Learning"].grids
    assert [[cell.text for cell in row] for row in grid.rows] == [["average", "0.500", "0.300"], ["Ties", "0.400", "–"]]
    assert own.centre == "Isotropic"
    own.table.coefficients[:, 1] = 0.0
    (words,) = {part.title: part.text for part in sections(own)}["Coefficients"]
    assert words.endswith(" 0 in every group, so no part of the merge: a|b.")


def test_groups_that_a_last_division_made_without_steps_are_said():
    own = made(history=False)
    for stages, words in (([5], "5; 20 after the last, without steps."), ([5, 20], "5, 20.")):
        own.facts["groups_of_stages"] = stages
        (lines,) = [part.text for part in sections(own) if part.title == "Models and rows"]
        assert f"Groups of coefficients, by stage: {words}" in lines


def test_a_run_without_learning_has_no_empty_picture():
    drawn = [picture.title for picture in pictures(made(history=False))]
    assert "Learning" not in drawn
    assert Page(report_on([made(history=False, scores=False, agreement=False)]).html).images
