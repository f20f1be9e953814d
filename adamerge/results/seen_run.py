"""A finished run as a report reads it: from its files alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adamerge.experts.experts import KEEP
from adamerge.merging.coefficients import Table
from adamerge.results.candidates import CANDIDATES
from adamerge.results.evaluate import MEAN, Scores
from adamerge.results.factors import Factors, factors_in
from adamerge.results.interval import interval, interval_of_mean
from adamerge.results.measures import MEASURES, Measure, common_unit


@dataclass(frozen=True, eq=False)
class SeenRun:
    """A finished run.

    Attributes:
        name: Its name in the report.
        folder: Its directory.
        settings: Its configuration, as dotted keys.
        metrics: Content of metrics.json.
        recipe: Content of recipe.json.
        table: Its coefficients.
        race: Content of centre_race.json; empty without a race.
    """

    name: str
    folder: Path
    settings: Mapping[str, object]
    metrics: Mapping[str, Any]
    recipe: Mapping[str, Any]
    table: Table
    race: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks in the order of the models, those without evaluation rows among them."""
        known = self.facts.get("heads") or self.metrics.get("learned", {})  # runs of earlier versions note no heads
        return [task for task in known if task != MEAN]

    @property
    def centre(self) -> str:
        """Name of the centre; of one that a race found, with the winner."""
        name = factors_in(self.settings, self.table.centre, plain=self.table.plain).centre.name
        winner = self.race.get("winner")
        return f"{name}: {winner}" if winner and name.lower() == "auto" else name  # of runs that did not write it

    @property
    def factors(self) -> Factors:
        """What its coefficients are factors of."""
        return factors_in(self.settings, self.centre, plain=self.table.plain)

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the run noted of itself: time, memory, rows, lines; empty in runs of earlier versions."""
        return self.metrics.get("run", {})

    @property
    def history(self) -> list[dict[str, float]]:
        """What was measured while learning."""
        return list(self.metrics.get("history", []))

    @property
    def metric(self) -> str:
        """Name of the metric; mixed if tasks have several."""
        return str(self.metrics.get("metric", "accuracy"))

    @property
    def measures(self) -> dict[str, Measure]:
        """The metric of each task."""
        names = self.metrics.get("metrics", {})
        return {task: MEASURES[name] for task in self.tasks if (name := names.get(task, self.metric)) in MEASURES}

    def percent(self, task: str) -> bool:
        """Return whether a task's score, or the mean, is a percentage."""
        found = [self.measures[task]] if task in self.measures else self.measures.values()
        return all(one.percent for one in found)

    @property
    def unit(self) -> str:
        """The metric, its unit and its direction."""
        return common_unit(self.measures.values()) if self.measures else self.metric

    def label(self, task: str) -> str:
        """Name of a task in tables: with the metric, if tasks have several."""
        return f"{task} ({self.measures[task].unit})" if self.metric == "mixed" and task in self.measures else task

    @property
    def scores(self) -> dict[str, Scores]:
        """Scores of the candidates that were measured, by task."""
        found = {key: self.metrics[key] for key in CANDIDATES if key in self.metrics}
        return {key: own for key, own in found.items() if any(value is not None for value in own.values())}

    @property
    def relative(self) -> dict[str, Scores]:
        """Scores in % of each expert's own."""
        return dict(self.metrics.get("percent_of_expert", {}))

    @property
    def agreement(self) -> dict[str, dict[str, float]]:
        """Share of held-out predictions equal to the expert's, by candidate and task, 0 to 1."""
        return dict(self.metrics.get("agreement", {}))

    @property
    def held_out(self) -> str:
        """What agreement is a share of: rows, or, where these have several predictions each, the predictions."""
        counts = self.facts.get("held_out_predictions")
        several = [task for task in self.tasks if counts is not None and task not in counts]
        speak: list[str] = self.facts.get("language_models", [])  # runs of earlier versions do not note them
        tokens = " (tokens)" if several and all(task in speak for task in several) else ""
        return f"predictions{tokens} on held-out unlabeled rows" if several else "held-out unlabeled rows"

    @property
    def divergence(self) -> dict[str, dict[str, float | None]]:
        """Divergence from the experts on held-out rows in nats, by candidate and task."""
        return dict(self.metrics.get("divergence", {}))

    @property
    def from_base(self) -> dict[str, float | None]:
        """Divergence from the base, where it is a teacher, by candidate."""
        return {key: own[KEEP] for key, own in self.divergence.items() if KEEP in own}

    def score_interval(self, candidate: str, task: str) -> tuple[float, float] | None:
        """Return the bootstrap interval of a share of rows in %; None where it is unknown."""
        shares = {own: value / 100 for own, value in self.scores[candidate].items() if value is not None}
        asked = self.measures.values() if task == MEAN else [self.measures[task]] if task in self.measures else []
        known = bool(asked) and all(one.share for one in asked)
        found = _interval(shares, task, self.facts.get("predictions", {})) if known else None
        return (100 * found[0], 100 * found[1]) if found else None

    def agreement_interval(self, candidate: str, task: str) -> tuple[float, float] | None:
        """Return the bootstrap interval of an agreement; None where it is unknown."""
        return _interval(self.agreement[candidate], task, self.facts.get("held_out_predictions", {}))


def _interval(shares: Mapping[str, float], task: str, counts: Mapping[str, int]) -> tuple[float, float] | None:
    if task != MEAN:
        return interval(shares[task], counts[task]) if task in shares and task in counts else None
    tasks = [own for own in shares if own not in (MEAN, KEEP)]
    if not tasks or any(own not in counts for own in tasks):
        return None
    return interval_of_mean([(shares[own], counts[own]) for own in tasks])
