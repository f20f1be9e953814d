"""Stages of learning in the run directory: coefficients, history, and the importance of each group."""

import csv
import io
import json
from numbers import Real
from pathlib import Path
from typing import NamedTuple, cast

from adamerge.learning.learned import Learned
from adamerge.merging.chunks import Importance
from adamerge.merging.coefficients import COEFFICIENTS, load_coefficients, save_coefficients
from adamerge.merging.grouping import block_sizes
from adamerge.merging.matrices import matrix_shape
from adamerge.merging.merged_model import MergedModel
from adamerge.storage.atomic_files import whole_folder, write_text
from adamerge.storage.own_files import EVERY, check_form, own_json

LEARNED = "learned.json"
TABLE = "importance.csv"


class Kept(NamedTuple):
    """A stage that is over, after which a finer one begins.

    Attributes:
        learned: Its result.
        shares: Importance of its groups.
    """

    learned: Learned
    shares: Importance


def write_stage(folder: Path, model: MergedModel, stage: Kept) -> None:
    """Write a stage to its folder, which is whole or absent."""
    groups, names = model.grouping.groups, model.vectors.experts
    story = {**stage.learned.as_json(groups, names), "seconds": stage.learned.seconds}
    with whole_folder(folder) as part:
        save_coefficients(part / COEFFICIENTS, stage.learned.coefficients, model.grouping, names)
        write_text(part / LEARNED, json.dumps(story, indent=2) + "\n")
        write_text(part / TABLE, _table(stage.shares, _numbers(model)))


def _numbers(model: MergedModel) -> dict[str, int]:
    """Count the numbers of each group."""
    shapes = model.vectors.shapes
    sizes, members = block_sizes(model.grouping, shapes), model.grouping.members()
    return {group: size * matrix_shape(shapes[members[group][0]])[1] for group, size in sizes.items()}


def _table(shares: Importance, numbers: dict[str, int]) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["parameter", "importance", "numbers"])
    for name in sorted(shares, key=lambda name: -shares[name]):
        rows.writerow([name, repr(shares[name]), numbers[name]])
    return text.getvalue()


def read_stage(folder: Path) -> Kept:
    """Read a stage from its folder."""
    form = {"best_step": int, "history": list, EVERY: object}
    found = own_json(folder / LEARNED, "a stage of learning", "", form)
    for seen in cast(list[object], found["history"]):
        check_form(seen, {"step": Real, EVERY: Real})
    kept = load_coefficients(folder / COEFFICIENTS)
    with (folder / TABLE).open(encoding="utf-8") as file:
        shares = {row["parameter"]: float(row["importance"]) for row in csv.DictReader(file)}
    return Kept(Learned.from_json(found, kept.coefficients, kept.grouping.groups, kept.experts), shares)
