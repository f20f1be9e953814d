"""The course of learning in stages: what each may do, and what all of them so far have led to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import NamedTuple

import torch

from adamerge.learning.growth import Growth
from adamerge.learning.learned import Learned
from adamerge.learning.settings import Learning
from adamerge.learning.trainer import clock_of
from adamerge.merging.chunks import Chunks, Importance, chunked, most_blocks
from adamerge.merging.grouping import Grouping
from adamerge.merging.merged_model import MergedModel
from adamerge.optim import Selection
from adamerge.storage.kept import Key
from adamerge.types import Coefficients


class Stage(NamedTuple):
    """A stage that has learned.

    Attributes:
        begins: Steps of the stages before it.
        groups: Number of its groups of coefficients.
    """

    begins: int
    groups: int


@dataclass(frozen=True, eq=False)
class Staged:
    """Result of all stages.

    Attributes:
        model: The model with the last stage's grouping.
        learned: Its coefficients, and the history of all stages with steps counted from the first.
        stages: The stages, if there could be several.
    """

    model: MergedModel
    learned: Learned
    stages: Sequence[Stage] = ()


@dataclass(frozen=True, eq=False)
class Plan:
    """What a stage may do.

    Attributes:
        name: First, second, and so on.
        learning: Its settings.
        growth: What ends it; None if its number of steps does.
        last: Whether it is known before that no finer one follows.
    """

    name: str
    learning: Learning
    growth: Growth | None
    last: bool

    @property
    def key(self) -> Key:
        """What the stage depends on beside what all stages are made of."""
        return {"steps": str(self.learning.steps) if self.growth is None else f"{self.name} stage, while it pays"}

    def ends_stage(self, history: Sequence[Mapping[str, float]]) -> bool:
        """Return whether the stage ends early because a finer one pays more."""
        return self.growth is not None and not self.last and self.growth.ends_stage(history)

    def goes_on(self, found: Learned) -> bool:
        """Return whether a finer stage follows."""
        if self.last or self.growth is None:
            return not self.last
        return self.growth.ends_stage(found.history, over=found.converged)


class Course:
    """What the stages so far have led to.

    Args:
        model: The model, grouped tensor-wise.
        learning: Settings of all stages together.
        chunks: The budget and its distribution.

    Attributes:
        model: With the groups of the stage that is next.
        stages: Those that have learned.
        steps: Their steps.
    """

    def __init__(self, model: MergedModel, learning: Learning, chunks: Chunks) -> None:
        self.model, self.chunks = model, chunks
        self.stages: list[Stage] = []
        self.steps = 0
        self._learning, self._seconds = learning, 0.0
        self._learned: Learned | None = None

    def plan(self) -> Plan | None:
        """Plan the next stage; None if no steps or no time is left for it."""
        left, time = self._learning.steps - self.steps, self._time_left()
        if self.stages and (left <= 0 or time == timedelta()):
            return None
        first, chunks = not self.stages, self.chunks
        steps = min(chunks.first_steps, left) if first and not chunks.grows else left
        options = {**self._learning.trainer, "max_steps": steps, "max_time": time}
        init = self._learning.init if self._learned is None else self._learned.coefficients
        fewest = max(chunks.first_steps, self._learning.watching.every)
        return Plan(
            _name(len(self.stages) + 1),
            replace(self._learning, init=init, trainer=options),
            Growth(chunks.least, chunks.first_steps, left - fewest, first) if chunks.grows else None,
            last=self._is_finest() if chunks.grows else not first,
        )

    def add(self, plan: Plan, found: Learned) -> None:
        """Add what a stage learned."""
        noted = tuple(f"{line} (in the {plan.name} stage)" for line in found.warnings)
        found = replace(found, warnings=noted)
        self._learned = found if self._learned is None else joined(self._learned, found, self.steps)
        self.stages.append(Stage(self.steps, len(self.model.grouping)))
        self.steps += int(found.history[-1]["step"]) if self.chunks.grows else self.chunks.first_steps
        self._seconds += found.seconds

    def refine(self, shares: Importance) -> None:
        """Divide the groups for the next stage; what is merged does not change."""
        coarse, number = self.model.grouping, len(self.stages) + 1
        fine = chunked(self.model.vectors, self.chunks, shares, self._learning.seed, coarse, number)
        self.model, former = self.model.regrouped(fine), self.learned
        selections = finer_selections(former.selections, coarse, fine)
        self._learned = replace(former, coefficients=spread(former.coefficients, coarse, fine), selections=selections)

    @property
    def learned(self) -> Learned:
        """Result of all stages so far, of which there is one at least."""
        assert self._learned is not None
        return self._learned

    def staged(self) -> Staged:
        """Return the result."""
        return Staged(self.model, self.learned, tuple(self.stages))

    def opening(self, plan: Plan) -> str:
        """Say that a stage begins."""
        former = "the first" if len(self.stages) == 1 else "all before"
        start = f", from the best iterate of {former}" if self.stages else ""
        groups, columns = len(self.model.grouping), len(self.model.vectors.experts)
        steps = plan.learning.steps
        return f"{plan.name} stage{start}: {groups} groups × {columns} columns of coefficients, at most {steps} steps"

    def closing(self, plan: Plan | None) -> str:
        """Say how far the groups have grown, and why not further."""
        grown = ", ".join(f"{stage.groups} (from step {stage.begins})" for stage in self.stages)
        if plan is None:
            reason = "no steps or no time is left for a finer stage"
        elif plan.last:
            reason = "chunks.most and the tensors allow no more"
        else:
            reason = (
                f"the last stage did not pay (chunks.least: {self.chunks.least:g}), or had no steps left for another"
            )
        return f"chunks: groups grown in stages: {grown}; not further, because {reason}"

    def _time_left(self) -> timedelta | None:
        """Return what is left of trainer.max_time; None without a limit."""
        limit = clock_of(self._learning.trainer).time_remaining()
        return None if limit is None else timedelta(seconds=max(0.0, limit - self._seconds))

    def _is_finest(self) -> bool:
        most = most_blocks(self.model.vectors.shapes, self.chunks, self.model.grouping)
        return max(most.values(), default=1) == 1


def _name(number: int) -> str:
    """Name a stage.

    Example:
        >>> _name(1), _name(2), _name(11)
        ('first', 'second', '11th')
    """
    return _ORDINALS[number - 1] if number <= len(_ORDINALS) else f"{number}th"


_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def joined(former: Learned, later: Learned, steps: int) -> Learned:
    """Join the histories of stages, of which the later one starts at the best iterate of the former.

    Args:
        former: Result of all stages so far, with the groups of the later one.
        later: Result of the later one.
        steps: Steps before it.
    """
    both = {
        "history": former.history + [{**seen, "step": seen["step"] + steps} for seen in later.history if seen["step"]],
        "moved": max(former.moved or 0.0, later.moved or 0.0),
        "warnings": (*former.warnings, *later.warnings),
        "seconds": former.seconds + later.seconds,
    }
    if not later.best_step:  # the best iterate is the former's, with its certificate
        return replace(former, **both, coefficients=later.coefficients, interrupted=later.interrupted)
    selections = [replace(selection, first_step=selection.first_step + steps) for selection in later.selections]
    return replace(later, **both, best_step=later.best_step + steps, selections=selections)


def spread(coefficients: Coefficients, coarse: Grouping, fine: Grouping) -> Coefficients:
    """Copy to every chunk the coefficients of the group that contained its rows: (G, K) → (G', K).

    Args:
        coefficients: Coefficients of the coarse grouping, (G, K).
        coarse: The coarse grouping.
        fine: The fine grouping.

    Returns:
        Coefficients of the fine grouping, (G', K).

    Example:
        >>> from adamerge.merging.grouping import row_blocks, tensor_wise
        >>> spread(torch.tensor([[0.1], [0.2]]), tensor_wise("ab"), row_blocks({"a": (4, 1), "b": (3,)}, 2)).tolist()
        [[0.10000000149011612], [0.10000000149011612], [0.20000000298023224]]
    """
    return coefficients[_sources(coarse, fine)]


def finer_selections(selections: Sequence[Selection], coarse: Grouping, fine: Grouping) -> list[Selection]:
    """Copy to every chunk the selections of the group that contained its rows.

    Args:
        selections: Selections of the coarse grouping.
        coarse: The coarse grouping.
        fine: The fine grouping.

    Returns:
        Selections of the fine grouping.
    """
    own: dict[int, list[Selection]] = {}
    for selection in selections:
        own.setdefault(selection.group, []).append(selection)
    sources = _sources(coarse, fine).tolist()
    return [replace(one, group=group) for group, source in enumerate(sources) for one in own.get(source, [])]


def _sources(coarse: Grouping, fine: Grouping) -> torch.Tensor:
    """Find the group that contained each chunk's rows, (G',)."""
    sources = torch.empty(len(fine), dtype=torch.long)
    for name, rows in fine.rows.items():
        sources[rows] = coarse.rows[name].expand_as(rows)
    return sources
