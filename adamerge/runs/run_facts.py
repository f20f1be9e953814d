"""What a run notes of itself for its report: time, memory, rows, what it printed, task vectors by depth."""

import resource
import time

import torch

from adamerge.calibration.agreement import HeldOut
from adamerge.data.questions import Choices, Questions, count_questions
from adamerge.data.rows import Rows
from adamerge.experts.experts import Experts
from adamerge.learning.course import Staged
from adamerge.results.measures import MEASURES
from adamerge.runs.load_rows import Data
from adamerge.runs.opened import Opened
from adamerge.storage.memory import read_from_disk

HELD_OUT = "held out of them"
"""Key of the calibration rows that are not learned from."""


class Clock:
    """Seconds per phase of a run.

    Attributes:
        seconds: By phase, in their order.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        """End a phase."""
        now = time.perf_counter()
        self.seconds[phase], self._last = round(now - self._last, 2), now


def run_facts(opened: Opened, staged: Staged, held_out: HeldOut, clock: Clock) -> dict[str, object]:
    """Collect what a report says of a run besides its results, as JSON.

    Args:
        opened: Experts and rows.
        staged: The merged model, and the stages in which its coefficients were learned.
        held_out: The rows that were held out.
        clock: Seconds per phase.
    """
    data = opened.data
    return {
        "seconds": clock.seconds,
        "device": str(staged.model.vectors.device),
        "peak_memory_bytes": peak_memory(),
        "disk_bytes": read_from_disk(),
        "input_bytes": input_bytes(opened.experts),
        "stages": [stage.begins for stage in staged.stages if stage.begins],
        "groups_of_stages": [stage.groups for stage in staged.stages],
        "rows": rows_of(data, held_out),
        "predictions": {task: count_questions(own) for task, own in data.evaluation.items() if _one_per_row(own)},
        "held_out_predictions": one_of_each_row(held_out.judging),
        "language_models": [task for task, one in opened.experts.tasks.items() if one.kind.language_model],
        "kept": list(opened.experts.kept),
        "heads": {task: list(expert.head) for task, expert in opened.experts.tasks.items()},
        "left_out": list(opened.experts.left_out),
        "lines": list(opened.lines),
        "task_vectors": {
            "tasks": list(opened.experts.tasks),
            "depths": list(opened.products),
            "grams": [gram.tolist() for gram in opened.products.values()],
        },
    }


def one_of_each_row(held_out: HeldOut) -> dict[str, int]:
    """Count the held-out predictions of the tasks that have one per row, be it a class, all labels or a vector."""
    counts = {task: sum(len(batch) for batch in own) for task, own in held_out.predicted.items()}
    return {task: count for task, count in counts.items() if count == len(held_out.rows[task])}


def rows_of(data: Data, held_out: HeldOut) -> dict[str, dict[str, int]]:
    """Count the rows of every task by what they are used for, and those that are not used or used twice.

    Args:
        data: The rows.
        held_out: The rows that were held out.
    """
    return {task: _rows_of(task, data, held_out) for task in dict.fromkeys([*data.calibration, *data.evaluation])}


def _rows_of(task: str, data: Data, held_out: HeldOut) -> dict[str, int]:
    dropped = data.dropped.get(task, {})
    return {
        "calibration": len(data.calibration.get(task, ())),
        HELD_OUT: held_out.count(task),
        "dropped from calibration": dropped.get("calibration", 0),
        "evaluation": count_questions(data.evaluation[task]) if task in data.evaluation else 0,
        "dropped from evaluation": dropped.get("evaluation", 0),
        "in both": data.shared.get(task, 0),
    }


def _one_per_row(rows: Rows) -> bool:
    """Return whether each row is right or wrong, so that rows can be resampled by their number alone."""
    if isinstance(rows, Questions | Choices) or rows.metric:
        return MEASURES[rows.metric or "accuracy"].share
    labels = rows.batch([0]).labels if len(rows) else None
    return labels is not None and labels.ndim == 1


def peak_memory() -> dict[str, int]:
    """Return the largest memory of this process so far, and of its device, in bytes."""
    found = {"process, with pages of mapped files": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        found["device"] = torch.cuda.max_memory_allocated()
    return found


def input_bytes(experts: Experts) -> int:
    """Return the size of all files of weights, each of which is read at least once."""
    checkpoints = [experts.checkpoint, *(expert.checkpoint for expert in experts.tasks.values())]
    files = {file for checkpoint in checkpoints if checkpoint for file in checkpoint.tensors.files}
    return sum(file.stat().st_size for file in files)
