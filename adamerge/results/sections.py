"""Sections of a report on one run, as data that a page and a Markdown file render alike."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from adamerge.experts.experts import KEEP
from adamerge.results.behind_pictures import coefficients, cosines, learning, norms
from adamerge.results.candidates import HEADERS
from adamerge.results.evaluate import MEAN
from adamerge.results.grids import Cell, Grid, number
from adamerge.results.measures import interval_text, score_text
from adamerge.results.pictures import Picture, all_groups, pictures
from adamerge.results.seen_run import SeenRun
from adamerge.results.verdict import verdict

_VECTORS = ("Task vectors by depth", "Cosines of task vectors", "Cosines by depth")


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        title: Its heading.
        text: Paragraphs.
        grids: Tables.
        pictures: Pictures.
        folded: Lines and pictures that are shown on demand alone.
        folded_pictures: Pictures that are shown on demand alone.
    """

    title: str
    text: Sequence[str] = ()
    grids: Sequence[Grid] = ()
    pictures: Sequence[Picture] = ()
    folded: Sequence[str] = ()
    folded_pictures: Sequence[Picture] = field(default_factory=tuple[Picture, ...])


def sections(run: SeenRun) -> list[Section]:
    """List the sections of a report on one run; what it has no numbers for is left out."""
    drawn = {picture.title: picture for picture in pictures(run)}
    curves = [drawn.pop(title) for title in ("Learning",) if title in drawn]
    vectors = [drawn.pop(title) for title in _VECTORS if title in drawn]
    found = [
        Section("Result", [verdict(run), *run.metrics.get("warnings", [])], [*_results(run), *_harness(run)]),
        Section("Learning", _how(run), [*_race(run), *learning(run)], curves),
        Section("Coefficients", [_words(run)], [*coefficients(run)], [*drawn.values()], (), _every(run)),
        Section("Task vectors", _of_vectors(run), [*norms(run), *cosines(run)], vectors),
        Section("Models and rows", _merged(run), [*_rows(run)], folded=run.facts.get("lines", [])),
        Section("Time, memory, versions", [], [*_costs(run)]),
    ]
    return [own for own in found if any((own.text, own.grids, own.pictures, own.folded))]


def _results(run: SeenRun) -> Iterator[Grid]:
    tasks, scores = [*run.tasks, MEAN], _learned_first(run.scores)
    if scores:
        rows = [[Cell(run.label(task)), *(_score(run, key, task) for key in scores)] for task in tasks]
        tuned = " Tuned: at the scale chosen on held-out unlabeled rows." if "task_arithmetic_tuned" in scores else ""
        note = f"(…): % of the expert on its own task; […]: 95 % bootstrap interval over rows.{tuned}"
        yield Grid(f"Scores on evaluation rows ({run.unit})", ["task", *map(_head, scores)], rows, note)
    if agreement := _learned_first(run.agreement):
        kept = f" {KEEP}: the base's rows, compared with the base; not in the mean." if run.from_base else ""
        teachers = [*run.tasks, *([KEEP] if run.from_base else []), MEAN]
        rows = [[Cell(task), *(_agrees(run, key, task) for key in agreement)] for task in teachers]
        note = f"Share of the {run.held_out} on which a merge predicts what the task's expert predicts.{kept}"
        yield Grid("Agreement with the experts, %", ["task", *map(_head, agreement)], rows, note)
        if divergence := {key: run.divergence[key] for key in agreement if key in run.divergence}:
            rows = [[Cell(task), *(number(own.get(task), 4) for own in divergence.values())] for task in teachers]
            note = f"Mean KL(expert ‖ merge) on held-out unlabeled rows, lower is better.{kept}"
            yield Grid("Divergence from the experts, nats", ["task", *map(_head, divergence)], rows, note)


def _learned_first(candidates: Iterable[str]) -> list[str]:
    """Put the merge first, which a narrow window shows without scrolling."""
    return sorted(candidates, key=lambda candidate: candidate != "learned")


def _harness(run: SeenRun) -> Iterator[Grid]:
    """Show what lm-eval measured: a row per task and metric, a column per model."""
    models: dict[str, dict[str, dict[str, float]]] = run.metrics.get("lm_eval", {}).get("models", {})
    keys = dict.fromkeys((t, m) for own in models.values() for t, found in own.items() for m in found)
    shown = [(task, metric) for task, metric in keys if "_stderr," not in metric]
    if shown:
        rows = [
            [Cell(f"{task}: {metric}"), *(_with_error(own.get(task, {}), metric) for own in models.values())]
            for task, metric in shown
        ]
        note = "Metrics as lm-eval names them (metric, filter); ±: its standard error."
        yield Grid("By lm-eval", ["task: metric", *models], rows, note)


def _with_error(scores: dict[str, float], metric: str) -> Cell:
    value, error = scores.get(metric), scores.get(metric.replace(",", "_stderr,", 1))
    found = number(value)
    return found if value is None or error is None else Cell(f"{found.text} ± {error:.3f}", value)


def _score(run: SeenRun, candidate: str, task: str) -> Cell:
    value = run.scores[candidate].get(task)
    share = run.relative.get(candidate, {}).get(task) if candidate != "expert" else None
    if value is None:
        return Cell("–")
    percent = run.percent(task)
    text = score_text(value, percent=percent) + (f" ({share:.0f})" if share is not None else "")
    return Cell(text, value, interval_text(run.score_interval(candidate, task), percent=percent))


def _agrees(run: SeenRun, candidate: str, task: str) -> Cell:
    value = run.agreement[candidate].get(task)
    if value is None:
        return Cell("–")
    low_high = run.agreement_interval(candidate, task)
    found = (100 * low_high[0], 100 * low_high[1]) if low_high else None
    return Cell(f"{100 * value:.1f}", value, interval_text(found, percent=True))


def _head(candidate: str) -> str:
    return " ".join(HEADERS.get(candidate, candidate).split())


def _how(run: SeenRun) -> list[str]:
    lines = [line.replace("`", "") for line in run.recipe.get("card", {}).get("learned", [])]
    if (moved := run.metrics.get("moved")) is not None:
        lines.append(f"largest distance of a coefficient from its start: {moved:.3g}")
    certificate = run.metrics.get("certificate", {})
    if certificate:
        lines.append(
            "certificate of the optimiser: " + ", ".join(f"{key} {own:.4g}" for key, own in certificate.items())
        )
    return lines


def _race(run: SeenRun) -> Iterator[Grid]:
    """Show the race for the centre: a row per merge, those first that stayed longest; a column per round."""
    rounds: list[dict[str, Any]] = run.race.get("rounds", [])
    if rounds:
        names = dict.fromkeys(name for one in reversed(rounds) for name in one["divergence"])
        rows = [[Cell(name), *(number(one["divergence"].get(name)) for one in rounds)] for name in names]
        note = "Mean divergence from the experts in nats, lower is better; the first row is the centre."
        yield Grid("Race for the centre", ["merge", *(f"{one['rows']} rows" for one in rounds)], rows, note, True)


def _words(run: SeenRun) -> str:
    table = run.table.coefficients
    unused = [name for name, used in zip(run.table.experts, table.any(0).tolist(), strict=True) if not used]
    return (
        f"{len(run.table.grouping)} groups × {len(run.table.experts)} columns; from {float(table.min()):.3g} to "
        f"{float(table.max()):.3g}, mean {float(table.mean()):.3g}. 0 leaves the centre ({run.centre}) as it is."
        + f" 0 in every group, so no part of the merge: {', '.join(unused)}."
        * bool(unused)
    )


def _every(run: SeenRun) -> list[Picture]:
    found = all_groups(run)
    return [found] if found else []


def _of_vectors(run: SeenRun) -> list[str]:
    if not run.facts.get("task_vectors", {}).get("depths"):
        return []
    return [
        "Norms and cosines are of expert − base, before any transform. Task vectors of different tasks are mostly "
        "nearly orthogonal; cosines near 1 mean another base, or an expert that contains another."
    ]


def _merged(run: SeenRun) -> list[str]:
    sizes, facts = run.metrics.get("sizes", {}), run.facts
    lines = []
    if sizes:
        lines.append(
            f"Merged: {len(run.table.grouping.rows)} parameters, {sizes['numbers_merged']:,} numbers; the export has "
            f"{sizes['bytes_on_disk'] / 1e6:.1f} MB."
        )
    grown = facts.get("groups_of_stages", [])
    last = f"; {len(run.table.grouping)} after the last, without steps" * (grown[-1:] != [len(run.table.grouping)])
    lines += [f"Groups of coefficients, by stage: {', '.join(map(str, grown))}{last}."] if grown else []
    heads = {", ".join(names): "" for names in facts.get("heads", {}).values() if names}
    heads = {own: ", ".join(task for task, names in facts["heads"].items() if ", ".join(names) == own) for own in heads}
    lines += [f"Each expert's own: {'; '.join(f'{own} ({tasks})' for own, tasks in heads.items())}."] if heads else []
    lines += [f"Kept from the base: {', '.join(facts['kept'])}."] if facts.get("kept") else []
    left_out = facts.get("left_out", [])
    lines += [f"Of the base alone, no expert has a place for it: {', '.join(left_out)}."] if left_out else []
    share = run.metrics.get("surviving_share", {}).get("all")
    lines += [f"Share of what was merged in that rounding left: {share:.3f}."] if share is not None else []
    return [*lines, *run.metrics.get("measured_again", [])]


def _rows(run: SeenRun) -> Iterator[Grid]:
    found = run.facts.get("rows", {})
    if found:
        names = list(next(iter(found.values())))
        rows = [[Cell(task), *(number(own[name], 0) for name in names)] for task, own in found.items()]
        note = (
            "Rows that are used; those dropped, because nothing of them counts; calibration rows that are evaluation "
            "rows too. Why, and how many were cut, is in the messages below."
        )
        yield Grid("Rows", ["task", *names], rows, note)


def _costs(run: SeenRun) -> Iterator[Grid]:
    facts = run.facts
    seconds = facts.get("seconds", {})
    if seconds:
        rows = [[Cell(f"seconds: {phase}"), number(own, 1)] for phase, own in seconds.items()]
        rows.append([Cell("seconds: all"), number(sum(seconds.values()), 1)])
        rows += [[Cell(f"peak memory of {k}, MB"), number(v / 1e6, 0)] for k, v in facts["peak_memory_bytes"].items()]
        rows.append([Cell("weights read (each at least once), MB"), number(facts["input_bytes"] / 1e6, 1)])
        if "disk_bytes" in facts:
            rows.append([Cell("read from the disk, not from memory, MB"), number(facts["disk_bytes"] / 1e6, 1)])
        rows.append([Cell("device"), Cell(facts["device"])])
        yield Grid("Time and memory", ["what", "value"], rows, "Of the last session, where a run was resumed.")
    if packages := run.recipe.get("packages"):
        rows = [[Cell(name), Cell(own)] for name, own in {**packages, "python": run.recipe.get("python", "–")}.items()]
        yield Grid("Versions", ["package", "version"], rows, folded=True)
