"""What a merge learned, and what can be done with it."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from adamerge.arguments import dtype_of, path_of
from adamerge.calibration.agreement import HeldOut
from adamerge.data.rows import Rows
from adamerge.learning.course import Staged
from adamerge.learning.keep_best import criterion
from adamerge.merging.coefficients import save_coefficients
from adamerge.merging.rounding import RoundingMode
from adamerge.results.adapter_agreement import agreement_lines
from adamerge.results.adapter_settings import adapter_of
from adamerge.results.compare import Comparison, compare
from adamerge.results.evaluate import Evaluation, Scores
from adamerge.results.export import Exported, check_free
from adamerge.results.export_as import export_as
from adamerge.results.merged_modules import export_modules, merged_module
from adamerge.results.surviving import Surviving
from adamerge.results.unchanged import check_contents
from adamerge.runs.build_model import rounding_by
from adamerge.runs.cards import card_facts, write_cards
from adamerge.runs.config import MergeConfig
from adamerge.runs.open_run import chosen
from adamerge.runs.opened import Opened
from adamerge.runs.run_facts import rows_of
from adamerge.types import Coefficients, ConfigError, Fact


class Result:
    """What a merge learned, and what can be done with it.

    merged[p] = centre[p] + Σₖ cₖ[group of p] · (expertₖ[p] − centre[p])

    Attributes:
        coefficients: c of the best iterate, fp32, (G, K).
        groups: Names of its rows, (G,).
        experts: Names of its columns, (K,).
        best_step: Step of the best iterate.
        history: What was measured at each look at the held-out rows.
        certificate: Measures of convergence at the best iterate, a gap for example; empty for torch's optimisers.
        moved: Largest distance of a coefficient from its start over all steps; None if nothing was learned.
        warnings: What a user should know of learning: an optimiser that has not moved the coefficients, and why.
        model: The experts and their task vectors, for a loop of your own.

    Example:
        >>> from torch import nn
        >>> from adamerge import Merge
        >>> base, expert = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        >>> _ = base.weight.data.fill_(2), expert.weight.data.fill_(3)
        >>> result = Merge(base, {"news": expert}, method="task_arithmetic").learn()
        >>> result.coefficients, result.groups, result.experts
        (tensor([[0.3000]]), ('model',), ('news',))
        >>> round(result.module("news").weight.item(), 4)
        2.3
    """

    def __init__(
        self, staged: Staged, held_out: HeldOut, opened: Opened, config: MergeConfig, contents: Mapping[Path, str]
    ) -> None:
        self.model, self._learned, self._held_out = staged.model, staged.learned, held_out
        self._contents = contents
        self._opened, self._config = opened, config
        self.coefficients: Coefficients = self._learned.coefficients
        self.groups: tuple[str, ...] = self.model.grouping.groups
        self.experts: tuple[str, ...] = self.model.vectors.experts
        self.best_step: int = self._learned.best_step
        self.history: list[dict[str, float]] = self._learned.history
        self.certificate: dict[str, float] = self._learned.certificate
        self.moved: float | None = self._learned.moved
        self.warnings: tuple[str, ...] = self._learned.warnings

    def __repr__(self) -> str:
        """Return the sizes and the best step."""
        return f"Result({len(self.groups)} groups × {len(self.experts)} experts, best_step={self.best_step})"

    def module(self, task: str, *, dtype: torch.dtype | None = None) -> nn.Module:
        """Build the module of a task with merged weights and the expert's own head, in eval mode.

        Args:
            task: Name of the task.
            dtype: Of the numbers; by default one that holds base and experts exactly.

        Raises:
            ConfigError: There is no such task.
        """
        return merged_module(self.model, self.coefficients, task, dtype=dtype_of(dtype))

    def export(
        self,
        folder: str | Path,
        *,
        dtype: torch.dtype | None = None,
        rounding: RoundingMode | None = None,
        adapter: bool | None = None,
        max_rank: int | None = None,
        max_shard_size: int | str | None = None,
    ) -> Exported:
        """Write the merged checkpoint, or one adapter over the base, complete or not at all.

        Merges of checkpoints, and of transformers modules in memory, load by `from_pretrained`; of other modules the
        state dict is written as model.safetensors. Each task with a head of its own gets a folder in it.

        Args:
            folder: Where to; must not exist.
            dtype: Of the numbers on disk; by default that of the key out_dtype.
            rounding: Of the numbers on disk; by default that of the key rounding.
            adapter: Whether to write one LoRA adapter over the base; by default what the key export says.
            max_rank: Largest rank of the adapter; smaller singular values are cut off. The error and what it costs in
                agreement are in the result's notes.
            max_shard_size: Largest size of one file of a merge of checkpoints, such as "2GB"; by default that of the
                key max_shard_size, or 50 GB.

        Raises:
            ConfigError: The folder exists; the content of a model's files is not the one that was learned from; or an
                adapter cannot hold the merge.
        """
        place = path_of(folder, "folder")
        experts = self.model.experts
        check_free(place)
        check_contents(experts, self._contents)
        on_disk = all(one.checkpoint for one in (experts, *experts.tasks.values()))
        config = chosen(self._config, adapter, max_rank, max_shard_size)
        kind, model = adapter_of(config.export), self.model
        if (kind is None) != (adapter_of(self._config.export) is None):
            model = model.rounded_by(rounding_by(config, experts))
        model = model.written_in(dtype_of(dtype), rounding)
        if on_disk or kind:
            size = config.shard_bytes
            exported = export_as(kind, model, self.coefficients, place, shard_bytes=size, cards=self._write_cards)
        elif config.shard_bytes is not None:
            raise ConfigError("max_shard_size: expected a merge of checkpoints, found modules in memory. Remove it.")
        else:
            exported = export_modules(model, self.coefficients, place)
        lines = agreement_lines(model, self.coefficients, self._held_out, exported)
        exported = replace(exported, notes=(*exported.notes, *lines))
        warning = exported.surviving.warning(model.rounding.mode)
        noted = [
            line for line in exported.notes if line.startswith(("note: ", "warning: ")) and not isinstance(line, Fact)
        ]
        for line in [*noted, *filter(None, [warning])]:
            warnings.warn(line.removeprefix("note: ").removeprefix("warning: "), stacklevel=2)
        return exported

    def _write_cards(self, folder: Path, surviving: Surviving) -> None:
        """Write README.md into the folders of an export; `compare` measures, an export does not."""
        rows = rows_of(replace(self._opened.data, evaluation={}), self._held_out)
        facts = card_facts(self._config, self.model.experts, self._learned, None, surviving, rows)
        write_cards(facts, folder)

    def save_coefficients(self, file: str | Path) -> None:
        """Write coefficients, groups and experts as a safetensors file, which `load_coefficients` reads."""
        own, place = self._learned, path_of(file, "file")
        save_coefficients(
            place, self.coefficients, self.model.grouping, self.experts, centre=own.centre, plain=own.plain
        )

    def agreement(self) -> dict[str, float]:
        """Measure the share of held-out rows, 0 to 1, on which merged model and expert predict the same, by task."""
        return self._held_out.judging.agreement(self.model, self.coefficients)

    def scores(self) -> Scores:
        """Measure accuracy in %, or perplexity, on the evaluation rows, by task, and "mean".

        Raises:
            ConfigError: No expert has evaluation rows.
        """
        return Evaluation(self.model, self._labeled(), self._held_out.size).merged(self.coefficients)

    def compare(self) -> Comparison:
        """Measure base, experts, average, task arithmetic and this merge on evaluation rows and held-out rows.

        Raises:
            ConfigError: There are neither evaluation rows nor held-out rows.
        """
        rows = self._opened.data.evaluation if self._held_out else self._labeled()
        quiet = Console(quiet=True)
        by = criterion(self._config.watch.monitor)
        return compare(self.model, self._opened.changed, rows, self._held_out, self.coefficients, quiet, by=by)

    def _labeled(self) -> Mapping[str, Rows]:
        if not self._opened.data.evaluation:
            raise ConfigError(
                "evaluation: expected labeled rows of at least one expert, found none. Give some: "
                "Expert(…, evaluation=rows)."
            )
        return self._opened.data.evaluation
