"""Commands that learn, check, export and measure a merge."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from adamerge.storage.file_names import at_home

if TYPE_CHECKING:  # slow imports are in the commands that need them
    from rich.console import Console

    from adamerge.runs.config import MergeConfig
    from adamerge.runs.read_yaml import Document

COMMANDS = {
    "fit": "Learn coefficients from unlabeled rows, export the merged checkpoint, and measure it.",
    "check": "List every problem with a configuration; reads no weights above 1 GiB, and writes nothing.",
    "export": "Export the merged checkpoint of a finished run to another folder or in another dtype.",
    "evaluate": "Measure a finished run on its evaluation rows again.",
}

DType: TypeAlias = Literal["float32", "float16", "bfloat16", "float64"]


@dataclass(frozen=True)
class Fit:
    """Options of `fit` besides the configuration's keys.

    Attributes:
        ckpt_path: last resumes the run in run_dir; by default a new run starts.
        print_config: Print the configuration with all defaults and exit.
        allow_code: Let the configuration name classes outside torch, Lightning and adamerge, and Python code beside
            weights; both run code.
        no_links: Copy the merged weights into the folder of every task. By default folders share files that are the
            same by hard links, so that such a file, if it is edited in place, changes in all of them.
    """

    ckpt_path: Literal["last"] | None = None
    print_config: bool = False
    allow_code: bool = False
    no_links: bool = False


@dataclass(frozen=True)
class Check:
    """Options of `check` besides the configuration's keys.

    Attributes:
        deep: Read all weights too, to find NaNs, experts equal to the base, and experts of another base.
        print_config: Print the configuration with all defaults and exit.
        allow_code: Let the configuration name classes outside torch, Lightning and adamerge, and Python code beside
            weights; both run code.
    """

    deep: bool = False
    print_config: bool = False
    allow_code: bool = False


@dataclass(frozen=True)
class Export:
    """Options of `export`.

    Attributes:
        run: Run directory of a finished run.
        out: Folder to write the checkpoint to; must not exist.
        out_dtype: Number format of the checkpoint; by default as in the run.
        rounding: How its numbers are rounded; by default as in the run.
        adapter: Write one adapter over the base (LoRA), or with `--adapter false` a checkpoint; by default as in the
            run.
        max_rank: Largest rank of the adapter; the truncation error is printed.
        max_shard_size: Largest size of one file of a checkpoint, such as 2GB; by default as in the run.
        push_to_hub: Upload the export to this repository of the hub (ORG/NAME), as the user that `hf auth login` set.
        private: Make the repository private; one that is public already is refused.
        each_task: Upload the folder of each task to a repository of its own, ORG/NAME-TASK.
        allow_code: Let the run's configuration name classes outside torch, Lightning and adamerge, and Python code
            beside weights; both run code.
        no_links: Copy the merged weights into the folder of every task, instead of hard links.
    """

    run: str
    out: str
    out_dtype: DType | None = None
    rounding: Literal["nearest", "stochastic"] | None = None
    adapter: bool | None = None
    max_rank: int | None = None
    max_shard_size: int | str | None = None
    push_to_hub: str | None = None
    private: bool = False
    each_task: bool = False
    allow_code: bool = False
    no_links: bool = False


@dataclass(frozen=True)
class Evaluate:
    """Options of `evaluate`.

    Attributes:
        run: Run directory of a finished run.
        lm_eval: Tasks of lm-eval (commas between them) on which base, experts and merge are measured, in place of the
            evaluation rows; lm-eval must be installed.
        allow_code: Let the run's configuration name classes outside torch, Lightning and adamerge, and Python code
            beside weights; both run code.
    """

    run: str
    lm_eval: str | None = None
    allow_code: bool = False


OPTIONS: dict[str, type] = {"fit": Fit, "check": Check, "export": Export, "evaluate": Evaluate}

MERGES = ("fit", "check")
"""Commands that take a configuration."""


def call(options: object, layers: "Sequence[Document]", console: "Console") -> bool:
    """Run one of these commands.

    Args:
        options: Its options.
        layers: The configuration of a merge: its files, and the options that override them.
        console: Prints the result.

    Returns:
        False if `check` has found a problem.
    """
    match options:
        case Fit() | Check():
            return _merge(options, layers, console)
        case Export():
            _export(options, console)
        case Evaluate(run, tasks, allow_code):
            _evaluate(at_home(run), tasks, allow_code, console)
        case _:
            raise AssertionError(options)
    return True


def _evaluate(run: Path, tasks: str | None, allow_code: bool, console: "Console") -> None:
    from adamerge.runs.harness import run_harness
    from adamerge.runs.open_recipe import config_of
    from adamerge.runs.open_run import evaluate_again

    config = config_of(run, allow_code=allow_code)
    if tasks is None:
        evaluate_again(config, run, console)
    else:
        run_harness(config, run, tasks, console)


def _export(options: Export, console: "Console") -> None:
    from adamerge.runs.open_recipe import config_of
    from adamerge.runs.open_run import chosen, export_again
    from adamerge.runs.push import push, repositories
    from adamerge.types import ConfigError

    run, out = at_home(options.run), at_home(options.out)
    former = config_of(run, allow_code=options.allow_code)
    config = chosen(former, options.adapter, options.max_rank, options.max_shard_size)
    if options.push_to_hub is None and (options.private or options.each_task):
        raise ConfigError("--private and --each_task are for an upload; add --push_to_hub ORG/NAME.")
    names = {}
    if options.push_to_hub is not None:
        names = repositories(options.push_to_hub, [one.name for one in config.models], each=options.each_task)
    export_again(config, run, out, options.out_dtype, options.rounding, console, links=not options.no_links)
    if names:
        push(out, names, private=options.private, console=console)


def _merge(options: Fit | Check, layers: "Sequence[Document]", console: "Console") -> bool:
    from adamerge.runs.read_config import merge_layers
    from adamerge.types import ConfigError

    try:
        config = merge_layers(layers, allow_code=options.allow_code, use="plan" if options.print_config else "learn")
    except ConfigError as error:
        if isinstance(options, Check) and not options.print_config:
            from adamerge.runs.check import check_rest

            if check_rest(layers, error.problems, console, deep=options.deep, allow_code=options.allow_code):
                return False
        raise
    if options.print_config:
        from adamerge.runs.save_config import as_yaml, settings

        print(as_yaml(settings(config), config.written), end="")
        return True
    if isinstance(options, Check):
        from adamerge.runs.check import check

        return not check(config, console, deep=options.deep)
    _fit(config, options, layers, console)
    return True


def _fit(config: "MergeConfig", options: Fit, layers: "Sequence[Document]", console: "Console") -> None:
    from adamerge.runs.begun_run import where_it_lies
    from adamerge.runs.finished import RunFinishedError
    from adamerge.runs.fit import fit
    from adamerge.runs.run_directory import RunDirectory
    from adamerge.runs.save_config import resolved

    resume, links = options.ckpt_path is not None, not options.no_links
    if resume and not any("run_dir" in layer.content for layer in layers if not layer.file):
        tell = partial(console.print, markup=False, highlight=False, soft_wrap=True)
        config = where_it_lies(config, [layer.file for layer in layers if layer.file], tell)
    try:
        if fit(config, resolved(config), resume=resume, console=console, links=links):
            return
    except RunFinishedError as finished:
        console.print(str(finished), markup=False, highlight=False, soft_wrap=True)
        return
    except KeyboardInterrupt:
        pass
    former = RunDirectory(at_home(config.run_dir)).config
    way = f"Resume with: {shlex.join(['adamerge', 'fit', '--config', str(former), '--ckpt_path', 'last'])}"
    raise KeyboardInterrupt(way if former.exists() else "Nothing was written.")
