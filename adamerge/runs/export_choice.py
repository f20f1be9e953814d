"""Choose what a run exports: the learned merge, or a finished merge that the guard found better."""

from collections.abc import Sequence
from dataclasses import replace

from adamerge.calibration.agreement import HeldOut
from adamerge.learning.course import Staged
from adamerge.learning.keep_best import criterion
from adamerge.merging.coefficients import Table
from adamerge.results.finished_merges import Candidate
from adamerge.results.guard import Guarded, guard
from adamerge.runs.config import MergeConfig


def guard_merge(config: MergeConfig, staged: Staged, changed: Sequence[str], held_out: HeldOut) -> Guarded:
    """Compare what was learned with the finished merges, by what the configuration watches.

    Args:
        config: Configuration.
        staged: Model and learned coefficients.
        changed: Parameters in which experts differ from the base.
        held_out: Held-out rows, at least one.
    """
    return guard(
        Candidate(staged.model, staged.learned.coefficients),
        changed,
        held_out,
        criterion(config.watch.monitor),
        config.feasible,
        centre=config.centre is not None,
        transformed=config.task_vectors is not None,
    )


def take(staged: Staged, guarded: Guarded) -> Staged:
    """Put the merge that the guard took in the place of what was learned; the history stays."""
    learned = replace(staged.learned, guard=guarded.as_json())
    if guarded.taken == "learned":
        return replace(staged, learned=learned)
    model, coefficients = guarded.best
    centre = "base" if guarded.plain else learned.centre
    taken = replace(learned, coefficients=coefficients, plain=guarded.plain, centre=centre)
    taken = replace(taken, certificate={}, converged=False, selections=[])
    return Staged(model, taken, staged.stages)


def as_exported(config: MergeConfig, learned: Table) -> MergeConfig:
    """Return the settings of what a run exports: of plain task vectors over the base if the guard took such.

    Args:
        config: Configuration of the run.
        learned: Coefficients that it saved.
    """
    if not learned.plain:
        return config
    return replace(config, centre=None, task_vectors=None, beside=[], grouping="task")
