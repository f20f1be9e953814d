"""Commands; the only place where a word in YAML becomes a class (jsonargparse)."""

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace
from rich.console import Console

from adamerge.config import PRESETS, MergeConfig
from adamerge.mistakes import explain
from adamerge.types import ConfigError, IncompatibleExpertsError

BAD_INPUT = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    console = Console(stderr=True)
    try:
        return _run(arguments or ["--help"])
    except (ConfigError, IncompatibleExpertsError) as error:
        console.print("[bold red]error:[/]", end=" ")
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
    except OSError as error:  # a full disk, a missing permission
        if error.errno is None:
            raise
        console.print(f"error: {error.filename or ''}: {error.strerror}. Nothing half-written was left.", markup=False)
    except KeyboardInterrupt:
        return INTERRUPTED
    return BAD_INPUT


def _run(arguments: list[str]) -> int:
    parser = _parser(_preset(arguments))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            chosen = parser.parse_args(arguments)
    except Exception as error:  # jsonargparse raises several kinds, all of them about what was written
        raise ConfigError(explain(str(error))) from error
    command = chosen.subcommand
    options = chosen[command]
    console = Console()
    match command:
        case "fit":
            return _fit(options, console)
        case "check":
            from adamerge.check import check

            return BAD_INPUT if check(_config(options), console, deep=options.deep) else 0
        case "export":
            from adamerge.rerun import export_again

            export_again(parse_file(Path(options.run) / "config.yaml"), Path(options.run), Path(options.out), options.out_dtype, console)
        case "evaluate":
            from adamerge.rerun import evaluate_again

            evaluate_again(parse_file(Path(options.run) / "config.yaml"), Path(options.run), console)
        case _:
            from adamerge.demo import demo

            return main(["fit", *demo(Path(options.folder), console)])
    return 0


def _fit(options: Namespace, console: Console) -> int:
    from adamerge.fit import fit

    if options.ckpt_path not in (None, "last"):
        raise ConfigError(f"--ckpt_path: expected last, got {options.ckpt_path}; a run resumes from its last checkpoint.")
    done = fit(_config(options), _resolved(options), resume=options.ckpt_path == "last", console=console)
    return 0 if done else INTERRUPTED


def parse_file(path: Path) -> MergeConfig:
    """Read a configuration from a YAML file.

    Raises:
        ConfigError: There is no such file, or a key or value in it is wrong.
    """
    arguments = ["--config", str(path)]
    parser = _merge_parser(_preset(arguments))
    try:
        return _config(parser.parse_args(arguments))
    except Exception as error:
        raise ConfigError(explain(str(error))) from error


def _parser(preset: dict[str, object]) -> ArgumentParser:
    parser = ArgumentParser(
        prog="adamerge",
        description="Learn from unlabeled data how much of each fine-tuned expert to merge into one model.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    commands = parser.add_subcommands()
    fit = _merge_parser(preset)
    fit.add_argument("--ckpt_path", type=str | None, default=None, help="last: go on with the run in run_dir.")
    commands.add_subcommand("fit", fit, help="Learn coefficients, export the merged checkpoint, measure it.")
    check = _merge_parser(preset)
    check.add_argument("--deep", type=bool, default=False, help="Read all weights too: NaNs, equal to the base, wrong base.")
    commands.add_subcommand("check", check, help="List every problem; read configurations and file headers only.")
    export = ArgumentParser(exit_on_error=False, description="Write the merged checkpoint of a finished run once more.")
    export.add_argument("run", type=str, help="Run directory.")
    export.add_argument("out", type=str, help="Where to; must not exist.")
    export.add_argument("--out_dtype", type=str | None, default=None, help="float32, bfloat16, …; as in the run by default.")
    commands.add_subcommand("export", export, help="Write the merged checkpoint of a finished run once more.")
    evaluate = ArgumentParser(exit_on_error=False, description="Measure a finished run once more.")
    evaluate.add_argument("run", type=str, help="Run directory.")
    commands.add_subcommand("evaluate", evaluate, help="Measure a finished run once more on its evaluation rows.")
    demo = ArgumentParser(exit_on_error=False, description="Train a base and four experts on digits here, and merge them.")
    demo.add_argument("--folder", type=str, default="demo", help="Where everything is written.")
    commands.add_subcommand("demo", demo, help="Make a small model and four experts here, merge them, show the gain.")
    return parser


def _merge_parser(preset: dict[str, object]) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False, description=MergeConfig.__doc__)
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file; options after it overrule it.")
    parser.add_class_arguments(MergeConfig, None)
    parser.set_defaults(preset)
    return parser


def _preset(arguments: Sequence[str]) -> dict[str, object]:
    """Defaults that the method's name stands for, whether it is on the command line or in the file."""
    method: object = "adamerging"
    pairs = [(a.partition("=")[0], a.partition("=")[2] or b) for a, b in zip(arguments, [*arguments[1:], ""], strict=True)]
    for option, value in pairs:
        if option == "--config" and Path(value).is_file():
            try:
                content = yaml.safe_load(Path(value).read_text(encoding="utf-8"))
            except yaml.YAMLError as error:
                raise ConfigError(f"{value}: this is not YAML: {error}") from error
            method = content.get("method", method) if isinstance(content, dict) else method
        if option == "--method":
            method = value
    return PRESETS.get(str(method), PRESETS["adamerging"])


def _config(options: Namespace) -> MergeConfig:
    """The part of a command's options that says what to merge, as objects."""
    made = _merge_parser(PRESETS[options.method]).instantiate(_part(options))
    return MergeConfig(**{key: getattr(made, key) for key in MergeConfig.__annotations__})


def _resolved(options: Namespace) -> str:
    """The same as YAML, everything that was left to its default included."""
    return _merge_parser(PRESETS[options.method]).dump(_part(options), skip_none=False)


def _part(options: Namespace) -> Namespace:
    return Namespace({key: options[key] for key in MergeConfig.__annotations__})
