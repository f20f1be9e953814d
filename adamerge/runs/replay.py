"""Redo a merge from its recipe: the export from coefficients and sources alone, or the learning as well."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from rich.console import Console

from adamerge.experts.experts import Experts
from adamerge.learning.learn import Calibration, divide
from adamerge.merging.coefficients import Table
from adamerge.merging.merged_model import MergedModel
from adamerge.results.adapter_settings import adapter_of
from adamerge.results.export import check_free
from adamerge.results.export_as import export_as
from adamerge.runs.build_model import answers_to, build_model
from adamerge.runs.cards import facts_in, write_cards
from adamerge.runs.export_choice import as_exported
from adamerge.runs.exported_files import different_files
from adamerge.runs.inputs import check_inputs, hash_rows, inputs
from adamerge.runs.learn_merge import learn_merge, open_inputs
from adamerge.runs.learning_settings import learning_of
from adamerge.runs.load_rows import load_data
from adamerge.runs.open_recipe import Recipe, open_recipe
from adamerge.runs.read_yaml import Document
from adamerge.runs.run_directory import RunDirectory, keeper_for
from adamerge.runs.settle_rows import settled
from adamerge.runs.sources import BY_OPTIONS, told_where
from adamerge.runs.unchanged_sources import open_unchanged
from adamerge.storage.atomic_files import temporary_folder
from adamerge.storage.digest import digest_of_path
from adamerge.storage.kept import Keeper
from adamerge.storage.partial_paths import remove_leftovers_in
from adamerge.storage.resumable import begun_folder
from adamerge.storage.signals import told_when_written
from adamerge.types import ConfigError

SAME = 1e-5
"""Difference of coefficients that another machine's rounding may make."""


def replay(
    file: Path, out: Path, console: Console, places: Sequence[Document] = (), *, allow_code: bool = False
) -> None:
    """Redo the export of a run from its coefficients and sources, after checking that they are unchanged.

    What the run stored besides (a centre, transformed task vectors) is not read but computed again. A replay that was
    interrupted after that goes on, if nothing changed.

    Args:
        file: recipe.json, or the run directory that holds it.
        out: Folder to write; must not exist.
        console: Prints what was written.
        places: Options with other places of the recipe's models and rows.
        allow_code: Whether the recipe's configuration may name code.

    Raises:
        ConfigError: A source or the coefficients changed, `out` exists, or what was written differs from the run's
            export.
    """
    recipe = open_recipe(file, places, allow_code=allow_code)
    check_free(out)
    with told_where(recipe.settings, recipe.file, BY_OPTIONS), told_when_written(out):
        _replay(recipe._replace(config=as_exported(recipe.config, recipe.learned)), out, console)


def _replay(recipe: Recipe, out: Path, console: Console) -> None:
    facts = facts_in(recipe.content, recipe.file)
    experts = open_unchanged(recipe.config, recipe.file)
    with begun_folder(out.with_name(f"{out.name}.replay"), {"recipe": digest_of_path(recipe.file)}) as begun:
        remove_leftovers_in(begun.files)
        model = _rebuilt(recipe, experts, RunDirectory(begun.files), console)
        if any(begun.files.iterdir()):
            begun.note("rebuilt", {})
        kind, shards = adapter_of(recipe.config.export), recipe.config.shard_bytes
        cards = None if facts is None else lambda folder, _: write_cards(facts, folder)
        done = export_as(kind, model, recipe.learned.coefficients, out, shard_bytes=shards, cards=cards)
    for line in done.notes:
        _print(console, line)
    for task, place in done.checkpoints.items():
        _print(console, f"{task}: {place}")
    _print(console, _verdict(recipe, out))


def _rebuilt(recipe: Recipe, experts: Experts, run: RunDirectory, console: Console) -> MergedModel:
    names, keeper = tuple(recipe.learned.grouping.rows), keeper_for(console)
    rows = _rows(recipe, experts, names, run, keeper)
    model = build_model(recipe.config, experts, names, run, rows.learn, console, keeper, rows.watch)
    return model.regrouped(recipe.learned.grouping)


def _rows(recipe: Recipe, experts: Experts, names: tuple[str, ...], run: RunDirectory, keeper: Keeper) -> Calibration:
    """Read the calibration rows, divided as in the run, if the centre or a transform is computed from them."""
    config = recipe.config
    by_rows = config.centre is not None and "centre" not in config.transforms
    if not by_rows and not any(transform.fisher for transform in config.transforms.values()):
        return Calibration({}, {})
    data = settled(config, experts, names, load_data(config, experts))
    check_inputs(hash_rows(data), recipe.file)
    rows = answers_to(config, experts, names, data.calibration, run.answers, keeper)
    return divide(rows, config.data, config.seed_everything)


def _verdict(recipe: Recipe, out: Path) -> str:
    """Say that all files are those of the run.

    Raises:
        ConfigError: Some differ; names them, and the packages whose version differs.
    """
    expected = recipe.content.get("files")
    if expected is None:
        return "note: the recipe, of an earlier version, has no hashes of the exported files; they were not compared."
    differing = different_files(expected, out)
    if not differing:
        return f"identical: {len(expected)} files are byte for byte those of the run"
    raise ConfigError(
        f"{out}: was written, but is not what the run exported: {'; '.join(differing[:8])}. {_versions(recipe)}"
    )


def _versions(recipe: Recipe) -> str:
    """Name the packages that have another version than in the run."""
    others = list(_other_versions(recipe.content.get("packages", {})))
    if not others:
        return "All packages have the versions of the run; the device, or the number of threads, may differ."
    return f"Other versions than in the run: {', '.join(others)}. Install those of the run for the same bytes."


def _other_versions(then: Mapping[str, str]) -> Iterator[str]:
    for package, former in then.items():
        try:
            now = version(package)
        except PackageNotFoundError:
            now = "not installed"
        if now != former:
            yield f"{package} {former} (now {now})"


def reproduce(file: Path, console: Console, places: Sequence[Document] = (), *, allow_code: bool = False) -> None:
    """Learn the coefficients of a run again, in a temporary folder, and compare them with its own.

    Args:
        file: recipe.json, or the run directory that holds it.
        console: Prints progress and the comparison.
        places: Options with other places of the recipe's models and rows.
        allow_code: Whether the recipe's configuration may name code.

    Raises:
        ConfigError: Models, rows or coefficients changed, or the coefficients that were learned are others.
    """
    recipe = open_recipe(file, places, allow_code=allow_code)
    with told_where(recipe.settings, recipe.file, BY_OPTIONS):
        found = _learned_again(recipe, console)
    _print(console, _compared(recipe, found))


def _learned_again(recipe: Recipe, console: Console) -> Table:
    config, asked = recipe.config, recipe.config.trainer
    if asked.devices * asked.num_nodes > 1:
        config = replace(config, trainer=replace(asked, devices=1, num_nodes=1, strategy="auto"))
        _print(console, f"note: the run learned on {asked.devices * asked.num_nodes} devices; here on one")
    open_unchanged(config, recipe.file)
    with temporary_folder() as folder:
        run, learning = RunDirectory(folder), learning_of(config, progress_bar=console.is_terminal)
        opened = open_inputs(config, run, console)
        check_inputs(inputs(config, opened.experts, opened.data), recipe.file)
        staged, _, _ = learn_merge(config, opened, learning, run, {}, keeper_for(console), console, resume=False)
    if staged.learned.interrupted:
        raise KeyboardInterrupt
    return Table(staged.learned.coefficients, staged.model.grouping, staged.model.vectors.experts)


def _compared(recipe: Recipe, found: Table) -> str:
    """Compare learned coefficients with those of the run.

    Raises:
        ConfigError: They differ by more than rounding.
    """
    then = recipe.learned
    if (then.grouping.groups, then.experts) != (found.grouping.groups, found.experts):
        raise ConfigError(
            f"{recipe.file}: expected {len(then.grouping)} groups × {len(then.experts)} columns as in the run, found "
            f"{len(found.grouping)} × {len(found.experts)} with other names. {_versions(recipe)}"
        )
    if torch.equal(then.coefficients, found.coefficients):
        return f"identical: {then.coefficients.numel()} coefficients are bit for bit those of the run"
    apart = (then.coefficients - found.coefficients).abs()
    largest, group = apart.max().item(), then.grouping.groups[int(apart.amax(1).argmax())]
    if largest <= SAME:
        return f"equal up to rounding: coefficients differ by at most {largest:.1g} ({group})"
    raise ConfigError(
        f"{recipe.file}: expected the coefficients of the run, found others: they differ by up to {largest:.3g} "
        f"({group}). {_versions(recipe)}"
    )


def _print(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
