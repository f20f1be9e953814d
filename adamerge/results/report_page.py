"""Render a report as one HTML page without network, and as Markdown."""

from collections.abc import Sequence
from typing import NamedTuple

from adamerge.results.model_card import templates
from adamerge.results.sections import Section, sections
from adamerge.results.seen_run import SeenRun
from adamerge.results.side_by_side import compared


class Part(NamedTuple):
    """Sections of one run.

    Attributes:
        name: Its name.
        sections: Its sections.
    """

    name: str
    sections: Sequence[Section]


class Report(NamedTuple):
    """A report.

    Attributes:
        html: The page.
        markdown: The same as Markdown, without pictures.
    """

    html: str
    markdown: str


def report_on(runs: Sequence[SeenRun]) -> Report:
    """Write the report on one run, or on several side by side.

    Args:
        runs: At least one.
    """
    parts = [Part(run.name, sections(run)) for run in runs]
    beside = [compared(runs)] if len(runs) > 1 else []
    title = "Merge: " + ", ".join(run.name for run in runs)
    given = {"title": title, "parts": parts, "beside": beside}
    page, text = (
        templates(escaped=escaped).get_template(f"report.{kind}.j2").render(given)
        for escaped, kind in ((True, "html"), (False, "md"))
    )
    return Report(page, text)
