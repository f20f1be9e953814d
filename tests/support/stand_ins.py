"""What most tests of runs do without: reports, pictures, a disk that has everything, tuned scales, and the probe."""

from pathlib import Path


def touch(*given, **named):
    """Leave an empty file in place of a picture."""
    next(one for one in given if isinstance(one, Path)).touch()


def nothing(*given, **named):
    """Do nothing."""


OF_RUNS = {"write_report": nothing, "heat_map": touch, "curve": touch}
"""By their names in adamerge.runs.fit; a page takes a second, and the pictures as long as learning."""

FEW = ("adamerge.results.finished_merges.SCALES", (0.5,))
"""Scales over which task arithmetic is tuned; all ten pass held-out rows ten times, twice as often as learning does."""


def as_they_are(model, rows, *limits):
    """Do not ask a model whether rows may share a forward pass."""
    from adamerge.calibration.probe import Verdict  # slow, and the first process of xdist has no need of it

    return Verdict(rows)


UNASKED = ("adamerge.runs.settle_rows.settle", as_they_are)
"""The probe takes as many forward passes as learning does; models of most tests read no padding."""
