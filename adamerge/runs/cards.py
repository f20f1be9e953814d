"""Collect what a model card says of a merge, and write the card of every folder of an export."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from adamerge.experts.checkpoint import Checkpoint
from adamerge.experts.experts import KEEP, Experts
from adamerge.experts.origin import Origin, origin_of
from adamerge.learning.learned import Learned
from adamerge.merging.rounding import RoundingMode
from adamerge.results.candidates import IN_WORDS
from adamerge.results.compare import Comparison, finite
from adamerge.results.export import Cards
from adamerge.results.kept_base import from_base
from adamerge.results.loading import Loading, loading_of
from adamerge.results.model_card import CARD, CardFacts, Source, card, licence_of
from adamerge.results.surviving import Surviving
from adamerge.runs.config import MergeConfig
from adamerge.runs.inputs import read_recipe
from adamerge.runs.run_facts import HELD_OUT
from adamerge.storage.atomic_files import write_text
from adamerge.storage.own_files import own_file

OTHERWISE = (
    "Scores are of the first export of this merge; this one has another number format, rounding or kind of file, so "
    "measure it where that matters."
)


def card_facts(
    config: MergeConfig,
    experts: Experts,
    learned: Learned,
    comparison: Comparison | None,
    surviving: Surviving,
    rows: Mapping[str, Mapping[str, int]],
) -> CardFacts:
    """Collect what a card says of a merge.

    Args:
        config: Configuration.
        experts: Base and experts.
        learned: Coefficients, and how they were learned.
        comparison: Scores and agreement; None if nothing was measured.
        surviving: Share of what was merged in that rounding left.
        rows: Number of rows per task by use, as `rows_of` counts them.
    """
    checkpoints = [("base", experts.checkpoint), *((name, one.checkpoint) for name, one in experts.tasks.items())]
    measured = comparison is not None and comparison.measured
    return CardFacts(
        [_source(name, checkpoint) for name, checkpoint in checkpoints],
        config.method,
        list(_how(config, learned, rows)),
        comparison.unit if comparison and measured else None,
        finite(comparison.scores) if comparison and measured else {},
        finite(comparison.relative()) if comparison and measured else {},
        _known(comparison.agreement) if comparison else {},
        list(filter(None, [surviving.warning(config.rounding)])),
        version("adamerge"),
        {task: one.key for task, one in comparison.measures.items()} if comparison and measured else {},
        _finite(from_base(comparison.judged)) if comparison else {},
    )


def _known(agreement: Mapping[str, Mapping[str, float | None]]) -> dict[str, dict[str, float]]:
    """Leave out the tasks that cannot be measured without labels."""
    return {key: {task: one for task, one in own.items() if one is not None} for key, own in agreement.items()}


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """Replace what JSON cannot hold."""
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


def _source(name: str, checkpoint: Checkpoint | None) -> Source:
    origin = origin_of(checkpoint) if checkpoint else Origin()
    return Source(name, checkpoint.source if checkpoint else name, origin.hub_id, origin.ancestors, origin.licence)


def _how(config: MergeConfig, learned: Learned, rows: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Describe method, what is merged into what, and how coefficients were found."""
    groups, experts = learned.coefficients.shape
    plain = learned.plain or config.task_vectors is None
    transform = "expert − centre, unchanged" if plain else type(config.task_vectors).__name__
    yield "merged = centre + Σₖ cₖ · τₖ, with the coefficients c per group of parameters"
    yield f"method `{config.method}`; centre: {learned.centre}; task vectors τ: {transform}"
    yield f"{groups} groups × {experts} columns = {groups * experts} coefficients"
    yield f"start of the coefficients: {learned.start}"
    if not learned.moved and not config.trainer.max_steps:
        yield "no learning: the start coefficients are the result"
    else:
        yield _learning(config, learned)
    if taken := _taken(learned):
        yield f"exported instead of what was learned: {taken}, which is better on held-out rows"
    yield from _rows(config, rows)


def _taken(learned: Learned) -> str:
    """Name the finished merge that the guard took; empty where it took none."""
    taken = str((learned.guard or {}).get("taken", "learned"))
    return "" if taken == "learned" else IN_WORDS[taken]


def _learning(config: MergeConfig, learned: Learned) -> str:
    optimizer = getattr(config.optimizer, "func", config.optimizer)
    name = getattr(optimizer, "__name__", type(optimizer).__name__)
    return (
        f"learned by {name} on the objective {type(config.objective).__name__} of calibration rows; at most "
        f"{config.trainer.max_steps} steps, the best iterate is that of step {learned.best_step}"
    )


def _rows(config: MergeConfig, rows: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Count the calibration rows that were used, and apart from them those that were held out."""
    measured = KEEP if config.keep and not config.keep.weight else None
    held_out = {task: own[HELD_OUT] for task, own in rows.items()}
    used = {task: own["calibration"] - held_out[task] for task, own in rows.items() if task != measured}
    used = used if config.needs_rows else {}
    whats = {"calibration rows": used, "rows held out of calibration, to choose by and to measure agreement": held_out}
    for what, counts in whats.items():
        if any(counts.values()):
            yield f"{what}: " + ", ".join(f"{task} {count}" for task, count in counts.items() if count)


def write_cards(facts: CardFacts, folder: Path) -> None:
    """Write README.md into an exported folder and into each task's folder.

    Args:
        facts: What the cards say.
        folder: The export.
    """
    subfolders = [task for task in facts.tasks if (folder / task).is_dir()]
    loadings = {place: loading_of(folder / place) for place in ("", *subfolders)}
    for place in loadings:
        write_text(folder / place / CARD, card(facts, loadings, place or None, "merged"))


def cards_of(recipe: Path, rounding: RoundingMode, *, changed: bool = False) -> Cards | None:
    """Return what writes the cards of a further export of a run; a run of an earlier version has no facts for it.

    Args:
        recipe: recipe.json of the run.
        rounding: How the numbers of this export are rounded; what that removes is said, if it is much.
        changed: Whether it may be written otherwise than the export whose scores the run has.
    """
    facts = facts_in(cast(Mapping[str, Any], read_recipe(recipe)), recipe) if recipe.is_file() else None
    if facts is None:
        return None

    def write(folder: Path, surviving: Surviving) -> None:
        notes = filter(None, [surviving.warning(rounding), OTHERWISE if changed else None])
        write_cards(replace(facts, notes=list(notes)), folder)

    return write


def facts_in(content: Mapping[str, Any], recipe: Path) -> CardFacts | None:
    """Read what the cards of a run say, before anything is written that they belong to.

    Args:
        content: Content of recipe.json; a run of an earlier version has no facts.
        recipe: The file.

    Raises:
        DamagedFileError: No card can be written of it.
    """
    found = content.get("card")
    if found is None:
        return None
    with own_file(recipe, "what the model card says, under the key card", "Restore the file."):
        facts = from_json(found)
        card(facts, {"": Loading("AutoModel", None)}, None, "merged")
    return facts


def licence_warning(facts: CardFacts) -> str | None:
    """Say that the card states no licence, where sources state some and do not agree; None otherwise."""
    _, why = licence_of(facts.sources)
    if why is None or not any(source.licence for source in facts.sources):
        return None
    return f"warning: {why}; the model card states none. Check the terms of every source before you share the merge."


def as_json(facts: CardFacts) -> dict[str, object]:
    """Convert facts for recipe.json."""
    return asdict(facts)


def from_json(found: Mapping[str, Any]) -> CardFacts:
    """Read what `as_json` wrote."""
    sources = [Source(**cast(Mapping[str, Any], source)) for source in found["sources"]]
    return CardFacts(**{**found, "sources": sources})
