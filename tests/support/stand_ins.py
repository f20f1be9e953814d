"""What most tests of runs do without: reports, pictures, waiting until a disk has everything, most tuned scales."""

from pathlib import Path


def touch(*given, **named):
    """Leave an empty file in place of a picture."""
    next(one for one in given if isinstance(one, Path)).touch()


def nothing(*given, **named):
    """Do nothing."""


OF_RUNS = {"write_report": nothing, "heat_map": touch, "curve": touch}
"""By their names in adamerge.runs.fit; a page takes a second, and the pictures as long as learning."""

FEW = ("adamerge.results.finished_merges.SCALES", (0.2, 0.5, 0.8))
"""Scales over which task arithmetic is tuned; all ten pass held-out rows ten times, twice as often as learning does."""
