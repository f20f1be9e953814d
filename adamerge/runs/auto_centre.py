"""`centre: auto`: finished merges race on held-out rows, and the winner is written as the centre."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from adamerge.calibration.agreement import HeldOut, hold_out
from adamerge.calibration.cache_keys import kept_of_rows, key_of
from adamerge.calibration.calibrated_merge import CalibratedMerge
from adamerge.calibration.race import Auto, Round, race, scales_in_time
from adamerge.calibration.target_settings import target_settings
from adamerge.calibration.targets import compute_targets
from adamerge.data.rows import Rows
from adamerge.experts.experts import Experts
from adamerge.learning.learn import divide
from adamerge.merging.exact import joined
from adamerge.merging.mapped_task_vectors import Mapped
from adamerge.merging.merged_model import MergedModel, uniform
from adamerge.results.adapter_settings import adapter_of
from adamerge.results.finished_merges import Candidate, merit
from adamerge.results.kept_base import included
from adamerge.runs.config import MergeConfig
from adamerge.runs.precision import in_bf16
from adamerge.runs.run_directory import RunDirectory
from adamerge.storage.atomic_files import remove_whole, write_text
from adamerge.storage.kept import Keeper, Key
from adamerge.storage.weights import Header, MappedFiles, Weights
from adamerge.storage.write_safetensors import SafetensorsWriter
from adamerge.transforms import TASK_ARITHMETIC, Transform
from adamerge.types import ConfigError, Fact

Merged: TypeAlias = Callable[[CalibratedMerge | Transform, Path], Weights]
"""Computes a finished merge, or reads it from its file."""


@dataclass(frozen=True, eq=False)
class AutoCentre:
    """Everything that the race needs.

    Attributes:
        config: Seed, objective and rows per forward pass.
        auto: Which merges take part.
        plain: Experts and untransformed task vectors of one group.
        run: Stores the table of the race and the centre; the other merges while it runs.
        rows: Rows to judge on, per task; empty if the stored centre is to be read.
        merged: Computes the merges.
        stay: Files of those merges that are needed after the race, too, by their names beside the experts.
        console: Prints the table.
        keeper: Stores the centre under its cache key.
    """

    config: MergeConfig
    auto: Auto
    plain: MergedModel
    run: RunDirectory
    rows: Mapping[str, Rows]
    merged: Merged
    stay: Mapping[str, Path]
    console: Console
    keeper: Keeper

    def weights(self) -> Weights:
        """Let the merges race and write the winner, or read what an earlier race wrote.

        Raises:
            ConfigError: There are no rows, and no stored centre has the same key.
        """
        return kept_of_rows(self.keeper, self.run.centre, self._key(), self._write, lambda path: MappedFiles([path]))

    def _key(self) -> Key:
        weight = [self.config.keep_weight] if self.config.keep else []
        settings = [repr(self.auto), self.config.seed_everything, repr(self.config.objective), *weight]
        return key_of(self.plain.vectors.digest(), self.rows, settings, self.config.data.micro_batch)

    def _write(self, file: Path) -> None:
        contestants, held_out = self._contestants(), self._held_out()
        rounds = race(
            [*contestants],
            lambda name, rows: -merit(held_out.first(rows).judge(*contestants[name]), "divergence"),
            first=self.auto.rows,
            most=max(len(own) for own in self.rows.values()),
            seed=self.config.seed_everything,
        )
        winner = next(iter(rounds[-1].divergence))
        self._say(f"centre: {winner}, which diverges least from the experts on held-out rows{included(self.rows)}")
        self.console.print(race_table(rounds, included(self.rows)))
        write_text(self.run.race, json.dumps(_as_json(winner, rounds), indent=2, allow_nan=False) + "\n")
        _write_merge(contestants[winner], file)
        if self.run.contestants.exists():
            remove_whole(self.run.contestants)

    def _held_out(self) -> HeldOut:
        bf16, size = in_bf16(self.config), self.config.data.micro_batch
        settings = target_settings(self.config.objective, bf16=bf16)
        targets = compute_targets(self.plain, self.rows, settings, size, self.run.targets / "watch", self.keeper)
        keep = self.config.keep_weight
        return hold_out(self.plain, self.rows, size, targets, settings.temperature, keep, bf16=bf16)

    def _contestants(self) -> dict[str, Candidate]:
        """Build every merge at every scale, by name, the cheap ones first."""
        average = Candidate(self.plain, uniform(self.plain, 1 / len(self.plain.vectors.experts)))
        found = {"average": average}
        scales, _ = _scales(self.config, self.auto, self.rows)
        for scale in scales:
            value = scale * TASK_ARITHMETIC
            found[f"task arithmetic at {value:.3g}"] = Candidate(self.plain, uniform(self.plain, value))
        for number, choice in enumerate(self.auto.contestants):
            if (model := self._model_of(choice, number)) is not None:
                title = title_among(choice, self.auto.contestants)
                names = {f"{title} × {scale:g}": scale for scale in scales}
                found |= {name: Candidate(model, uniform(model, scale)) for name, scale in names.items()}
        return found

    def _model_of(self, choice: CalibratedMerge | Transform, number: int) -> MergedModel | None:
        """Build the model whose only task vector is a finished merge minus the base; None if it cannot take part."""
        plain, vectors = self.plain, self.plain.vectors
        if no_part(self.config, choice, len(vectors.experts), vectors.shapes):
            return None  # as `race_notes` says
        try:
            weights = self.merged(choice, self._file_of(choice, number))
        except ConfigError as error:
            self._say(f"note: centre: {type(choice).__name__} takes no part in the race: {error}")
            return None
        base = plain.experts.base
        only = Mapped({"merge": weights}, tuple(vectors.shapes), base, base, vectors.dtype, vectors.device)
        return MergedModel(plain.experts, only, plain.grouping, plain.rounding, plain.blocks)

    def _file_of(self, choice: CalibratedMerge | Transform, number: int) -> Path:
        """Return where a merge stays beside the experts, or lies until the race is over."""
        beside = self.config.models_beside
        found = (file for name, file in self.stay.items() if beside[name] == choice)
        return next(found, self.run.contestants / f"{number}_{type(choice).__name__}.safetensors")

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def race_notes(config: MergeConfig, experts: Experts, names: Sequence[str], rows: Mapping[str, Rows]) -> list[str]:
    """Say, before a race for the centre, which merges take no part, and at which scales the others do.

    Args:
        config: Configuration.
        experts: Base and experts.
        names: Parameters to merge.
        rows: Calibration rows per task, before any are held out.
    """
    auto = None if config.centre is None else config.chosen_centre
    if not isinstance(auto, Auto):
        return []
    shapes = {name: experts.base.shape(name) for name in names}
    reasons = {type(one).__name__: no_part(config, one, len(experts.tasks), shapes) for one in auto.contestants}
    notes = [f"note: centre: {name} takes no part in the race: {why}" for name, why in reasons.items() if why]
    parts = divide(rows, config.data, config.seed_everything)
    judged = parts.watch or parts.learn
    if not any(map(len, judged.values())):
        return notes
    scales, share = _scales(config, auto, judged)
    if len(scales) < len(auto.scales):
        notes.append(
            Fact(
                f"note: centre: merges race at {scales[0]:g} times their published scale alone, because all scales "
                f"would take {100 * share:.0f} % of the time of learning (centre.share: {auto.share:g})"
            )
        )
    return notes


def no_part(
    config: MergeConfig, choice: CalibratedMerge | Transform, count: int, shapes: Mapping[str, torch.Size]
) -> str:
    """Return why a merge can take no part in a race for the centre; empty if it can.

    Args:
        config: Says what is exported.
        choice: The merge.
        count: K, the number of experts.
        shapes: Shapes of the parameters to merge.
    """
    if adapter_of(config.export) and not choice.keeps_span:
        return "it leaves the span of the adapters' factors, which is all that export: adapter holds."
    try:
        if isinstance(choice, Transform):
            choice.check(count, shapes)
    except ConfigError as error:
        return str(error)
    return ""


def _scales(config: MergeConfig, auto: Auto, rows: Mapping[str, Rows]) -> tuple[list[float], float]:
    """Choose the scales at which merges take part; return the share of time that all would take, too."""
    most = max(map(len, rows.values()))
    return scales_in_time(auto, most, config.trainer.max_steps, config.data.batch_size or most)


def race_table(rounds: list[Round], also: str = "") -> Table:
    """Make a table with one line per merge and one column per round; the last ones to leave come first."""
    title = f"race of centres: mean divergence from the experts{also}, nats, by unlabeled rows per task"
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    shown.add_column("merge", no_wrap=True)
    for one in rounds:
        shown.add_column(f"{one.rows} rows", justify="right")
    ranks = [{name: rank for rank, name in enumerate(one.divergence)} for one in reversed(rounds)]
    order = sorted(rounds[0].divergence, key=lambda name: [rank.get(name, len(rank)) for rank in ranks])
    for name in order:
        cells = [f"{one.divergence[name]:.4g}" if name in one.divergence else "" for one in rounds]
        shown.add_row(name, *cells, style="bold" * (name == order[0]))
    return shown


def title_among(choice: CalibratedMerge | Transform, others: Sequence[CalibratedMerge | Transform]) -> str:
    """Name a merge by its class, and by the options that are not its defaults where several are of that class.

    Example:
        >>> from adamerge.transforms import Wudi
        >>> wudi, strong = Wudi(), Wudi(ridge=0.5)
        >>> title_among(strong, [strong]), title_among(strong, [wudi, strong]), title_among(wudi, [wudi, strong])
        ('Wudi', 'Wudi(ridge=0.5)', 'Wudi()')
    """
    name = type(choice).__name__
    if sum(type(other) is type(choice) for other in others) < 2 or not is_dataclass(choice):
        return name
    values = {own.name: (getattr(choice, own.name), own.default) for own in fields(choice)}
    return f"{name}({', '.join(f'{key}={value!r}' for key, (value, default) in values.items() if value != default)})"


def _as_json(winner: str, rounds: list[Round]) -> dict[str, object]:
    table = [{"rows": one.rows, "divergence": {n: _finite(d) for n, d in one.divergence.items()}} for one in rounds]
    return {"winner": winner, "rounds": table}


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def _write_merge(one: Candidate, file: Path) -> None:
    vectors, rows = one.model.vectors, one.model.grouping.rows
    headers = {name: Header(shape, vectors.dtype) for name, shape in vectors.shapes.items()}
    with SafetensorsWriter(file, headers, {"format": "pt"}) as writer:
        for name in vectors.shapes:
            parts = vectors.exactly(name, one.coefficients, rows[name])
            writer.write(name, joined(parts, vectors.shapes[name], vectors.dtype))
