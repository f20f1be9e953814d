"""Model card: README.md of an exported folder, with the hub's metadata, written from a merge's facts."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from adamerge.experts.experts import KEEP
from adamerge.results.candidates import HEADERS
from adamerge.results.evaluate import MEAN, Scores
from adamerge.results.kept_base import sentence
from adamerge.results.loading import Loading
from adamerge.results.measures import MEASURES, OWN, score_text

CARD = "README.md"


@dataclass(frozen=True)
class Source:
    """The base, or an expert.

    Attributes:
        name: "base", or the task.
        source: Path or hub id.
        hub_id: Id on the hub, if it is known.
        ancestors: Ids on the hub that a local folder says it was made from.
        licence: Keys license, license_name and license_link of its own card; empty if unknown.
    """

    name: str
    source: str
    hub_id: str | None = None
    ancestors: Sequence[str] = ()
    licence: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def label(self) -> str:
        """The id on the hub, or the name of the local folder; a path says more of a machine than of a model."""
        return self.hub_id or f"{Path(self.source).name} (local folder)"

    @property
    def licence_name(self) -> str:
        """The licence in a word."""
        return self.licence.get("license_name") or self.licence.get("license") or "not stated"


@dataclass(frozen=True)
class CardFacts:
    """What a card says of a merge; the same in every folder of an export.

    Attributes:
        sources: The base first, then the experts.
        method: Name of the preset.
        learned: Sentences on how the merge was learned.
        metric: Metric of the scores with its unit; None if there were no labeled rows.
        scores: Scores by candidate and task.
        relative: The same in % of each expert's own.
        agreement: Share of held-out predictions equal to the expert's, by candidate and task.
        notes: Further limits of this merge.
        version: Version of adamerge.
        metrics: Name of each task's metric; empty in runs of earlier versions.
        from_base: Divergence from the base by candidate, in nats, where it was a teacher.
    """

    sources: Sequence[Source]
    method: str
    learned: Sequence[str]
    metric: str | None = None
    scores: Mapping[str, Scores] = field(default_factory=dict[str, Scores])
    relative: Mapping[str, Scores] = field(default_factory=dict[str, Scores])
    agreement: Mapping[str, Mapping[str, float]] = field(default_factory=dict[str, Mapping[str, float]])
    notes: Sequence[str] = ()
    version: str = ""
    metrics: Mapping[str, str] = field(default_factory=dict[str, str])
    from_base: Mapping[str, float | None] = field(default_factory=dict[str, float | None])

    @property
    def of_base(self) -> str:
        """Say how far the merge is from the base, where it was a teacher."""
        return sentence(self.from_base)

    def label(self, task: str) -> str:
        """Name of a task in the table of scores: with the metric, if tasks have several."""
        mixed = self.metric == OWN and task in self.metrics
        return f"{task} ({MEASURES[self.metrics[task]].unit})" if mixed else task

    def percent(self, task: str) -> bool:
        """Return whether a task's score, or the mean, is a percentage."""
        found = [self.metrics[task]] if task in self.metrics else self.metrics.values()
        return all(MEASURES[name].percent for name in found)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks."""
        return [source.name for source in self.sources[1:]]


def licence_of(sources: Sequence[Source]) -> tuple[dict[str, str], str | None]:
    """Find the licence that all sources state, or say why there is none.

    Args:
        sources: The base and the experts.

    Returns:
        The licence's keys of the metadata, empty without agreement; and the reason, None with agreement.

    Example:
        >>> licence_of([Source("base", "b", licence={"license": "mit"}), Source("news", "n")])[1]
        'the sources do not agree on one licence (base: mit; news: not stated)'
    """
    first = dict(sources[0].licence)
    if first and all(dict(source.licence) == first for source in sources):
        return first, None
    if not any(source.licence for source in sources):
        return {}, "no source states a licence"
    stated = "; ".join(f"{source.name}: {source.licence_name}" for source in sources)
    return {}, f"the sources do not agree on one licence ({stated})"


def metadata(facts: CardFacts, loading: Loading, task: str | None, name: str) -> ModelCardData:
    """Build the hub's metadata of one folder.

    Only ids on the hub are in base_model, because the hub refuses paths there: those of the sources, or of what a local
    folder says it was made from.

    Args:
        facts: What the card says.
        loading: Classes that load the folder.
        task: Task of the folder; None for a folder with all tasks.
        name: Name of the model.
    """
    named = [own for source in facts.sources for own in ([source.hub_id] if source.hub_id else source.ancestors)]
    ids = list(dict.fromkeys(named))
    licence = licence_of(facts.sources)[0]
    return ModelCardData(
        library_name=loading.library,
        pipeline_tag=loading.pipeline,
        tags=["merge", "adamerge", facts.method],
        model_name=name,
        eval_results=_results(facts, loading.pipeline or "other", [task] if task else facts.tasks) or None,
        base_model=ids or None,
        license=licence.get("license"),
        license_name=licence.get("license_name"),
        license_link=licence.get("license_link"),
        base_model_relation="merge" if ids else None,
    )


def _results(facts: CardFacts, pipeline: str, tasks: Sequence[str]) -> list[EvalResult]:
    """List the learned merge's scores as the hub's evaluation results."""
    found = facts.scores.get("learned", {}) if facts.metric else {}
    whole = (facts.metric or "").partition(",")[0].replace(" ", "_")
    return [
        EvalResult(
            task_type=pipeline,
            dataset_type=re.sub(r"[^\w.-]+", "-", task).strip("-.") or "rows",
            dataset_name=task,
            metric_type=kind,
            metric_value=round(value / 100 if kind not in MEASURES or MEASURES[kind].percent else value, 4),
        )
        for task in tasks
        if (value := found.get(task)) is not None and (kind := facts.metrics.get(task, whole))
    ]


def card(facts: CardFacts, loadings: Mapping[str, Loading], task: str | None, name: str) -> str:
    """Write the card of one folder of an export.

    Args:
        facts: What the card says.
        loadings: Classes that load each folder, by its name below the export; "" for the folder itself.
        task: Name of the subfolder that the card is for; None for the export itself.
        name: Name of the model.
    """
    own = loadings[task or ""]
    data = metadata(facts, own, task, f"{name}-{task}" if task else name)
    used = {key: how for key, how in loadings.items() if key or set(facts.tasks) - loadings.keys()}
    shown = {key: scores for key, scores in facts.scores.items() if any(v is not None for v in scores.values())}
    return (
        templates(escaped=False)
        .get_template("model_card.md.j2")
        .render(
            facts=facts,
            metadata=data.to_yaml().strip(),
            name=name,
            task=task,
            loadings=used,
            packages=sorted({name for how in used.values() for name in how.packages}),
            own=own,
            shown=shown,
            names={key: " ".join(label.split()) for key, label in HEADERS.items()},
            rows=[task, MEAN] if task else [*facts.tasks, MEAN],
            kept=[KEEP] if facts.from_base and not task else [],
            no_licence=licence_of(facts.sources)[1],
            local=[source for source in facts.sources if not source.hub_id],
        )
    )


def cell(value: str) -> str:
    """Write a text as the cell of a Markdown table.

    Example:
        >>> cell("a|b")
        'a&#124;b'
    """
    return prose(value).replace("|", "&#124;").replace("\n", " ")


def prose(value: str) -> str:
    r"""Write a text, in which there may be names, as Markdown that shows it as it is.

    Example:
        >>> print(prose("<b> 2*3*4 a_b"))
        &lt;b> 2\*3\*4 a_b
    """
    return value.replace("<", "&lt;").replace("*", "\\*")


def literal(value: str) -> str:
    r"""Write a text as code in Python.

    Example:
        >>> print(literal('say "a"'))
        "say \"a\""
    """
    return json.dumps(value, ensure_ascii=False)


def number(value: float | None, digits: int = 1) -> str:
    """Write a number of a table; a dash if it was not measured."""
    return "–" if value is None else f"{value:.{digits}f}"


def score(value: float | None, percent: bool) -> str:
    """Write a score of a table; a dash if it was not measured."""
    return "–" if value is None else score_text(value, percent=percent)


@cache
def templates(*, escaped: bool) -> Environment:
    """Load the templates of cards and reports, with the filters of their tables.

    Args:
        escaped: Whether texts are escaped for HTML.
    """
    found = Environment(
        loader=PackageLoader("adamerge.results"),
        autoescape=escaped,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    found.filters |= {"cell": cell, "prose": prose, "literal": literal, "number": number, "score": score}
    return found
