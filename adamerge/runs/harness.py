"""lm-eval on the base, the experts and the merge of a finished run: commands, a script, and results."""

import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from adamerge.data.processor_files import has_tokenizer
from adamerge.experts.experts import Experts
from adamerge.runs.config import MergeConfig
from adamerge.runs.paths import anchor
from adamerge.runs.report_runs import write_report
from adamerge.runs.run_directory import RunDirectory, use_run
from adamerge.storage.atomic_files import write_text
from adamerge.storage.file_names import is_there
from adamerge.storage.own_files import EVERY, own_json
from adamerge.storage.regular_files import is_folder
from adamerge.types import ConfigError, quoted

RESULTS = "lm_eval"
"""Key of metrics.json, and folder of the run directory, with lm-eval's results."""

_PLAIN = re.compile(r"(?!(true|false|none|nan|inf|infinity)$)[a-z/][^,'\"(){}\[\]]*", re.IGNORECASE | re.ASCII)
"""What lm-eval reads as the same text in key=value,key=value: no other punctuation, no number, no word of Python."""

_SCRIPT = """\
#!/bin/sh
# Measures base, experts and merge of this run by lm-eval (pip install "lm-eval[hf]"):
#     sh lm_eval.sh TASK[,TASK ...] [more options of lm_eval, such as --limit 100]
#     sh lm_eval.sh --keys TASK[,TASK ...] names the metrics of tasks, as results have them, and measures nothing
# `adamerge evaluate RUN --lm_eval TASK[,TASK ...]` does the same, and adds the results to metrics.json and the report.
# Results: lm_eval/MODEL/**/results_*.json; its key results.TASK has the metrics, such as "acc,none" or
# "exact_match,strict-match" (name of the metric, filter), each with METRIC_stderr,FILTER.
set -e
cd "$(dirname "$0")"
tasks="${1:?expected tasks of lm-eval: sh lm_eval.sh TASK[,TASK ...]}"
shift
if [ "$tasks" = --keys ]; then
  program=$(head -n 1 "$(command -v lm_eval)")
  ${program#"#!"} - "$1" <<'END'
%sEND
  exit
fi
"""


def arguments_of(config: MergeConfig, run: Path, start: str = "") -> dict[str, str]:
    """Return lm-eval's --model_args for each model: base, the experts by task, and the merge.

    Args:
        config: Configuration of the run.
        run: Run directory, for the merge.
        start: Start of paths that is left out: of what is read in a folder that may be moved.
    """
    trust = {"trust_remote_code": True} if config.trust_remote_code else {}
    return {
        name: _written({key: value.removeprefix(start) for key, value in own.items()} | trust)
        for name, own in _models_of(config, run).items()
    }


def _models_of(config: MergeConfig, run: Path) -> dict[str, dict[str, str]]:
    base = anchor(config.base_model)
    found = {"base": _pretrained(base)}
    for model in config.models:
        place = anchor(model.model)
        below = (
            (place, anchor(model.adapter)) if model.adapter else (base, place) if _is_adapter(place) else (place, "")
        )
        bare = Path(place).is_dir() and below == (place, "") and not has_tokenizer(Path(place))
        own = f"expert {model.name}" if model.name in ("base", "merge") else model.name
        found[own] = _pretrained(*below, tokenizer=base if bare else "")
    merged = run / "merged"
    found["merge"] = _pretrained(base, str(merged)) if _is_adapter(str(merged)) else _pretrained(str(merged))
    apart = [model.name for model in config.models if (merged / model.name / "config.json").is_file()]
    found |= {f"merge of {task}": _pretrained(str(merged / task)) for task in apart}
    return found


def _pretrained(place: str, adapter: str = "", tokenizer: str = "") -> dict[str, str]:
    """Name a model by lm-eval's keys; `id@revision` has a key of its own there, of the model and of its tokenizer.

    A tokenizer of another place is given for a folder alone, which has no revision.

    Example:
        >>> _pretrained("org/base@v1", "mine")
        {'pretrained': 'org/base', 'revision': 'v1', 'peft': 'mine'}
        >>> _pretrained("/experts/news", tokenizer="org/base@v1")
        {'pretrained': '/experts/news', 'revision': 'v1', 'tokenizer': 'org/base'}
    """
    name, revision = _id_and_revision(place)
    words, of_words = _id_and_revision(tokenizer)
    parts = {"pretrained": name, "revision": revision or of_words, "peft": adapter, "tokenizer": words}
    return {key: value for key, value in parts.items() if value}


def _id_and_revision(place: str) -> tuple[str, str]:
    """Divide a hub id from its revision; a path has none."""
    name, _, revision = (place, "", "") if is_there(place) else place.partition("@")
    return name, revision


def _written(values: Mapping[str, str | bool]) -> str:
    """Write keys and values as lm-eval reads them; as JSON where it would divide a value, or take it for a number.

    Example:
        >>> _written({"pretrained": "org/base", "peft": "mine"})
        'pretrained=org/base,peft=mine'
        >>> _written({"pretrained": "/experts/one, two"}), _written({"pretrained": "org/base", "revision": "1e5"})
        ('{"pretrained": "/experts/one, two"}', '{"pretrained": "org/base", "revision": "1e5"}')
    """
    if all(isinstance(value, bool) or _PLAIN.fullmatch(value) for value in values.values()):
        return ",".join(f"{key}={value}" for key, value in values.items())
    return json.dumps(values, ensure_ascii=False)


def _is_adapter(place: str) -> bool:
    folder = Path(place)
    return is_folder(folder) and (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def write_script(config: MergeConfig, run: RunDirectory, experts: Experts) -> None:
    """Write a script with the commands of lm-eval into the run directory of language models that generate."""
    if any(expert.kind.predicts != "next token" for expert in experts.tasks.values()):
        return
    lines = [_SCRIPT % _names_keys()]
    place = run.path.absolute()
    for name, own in arguments_of(config, place, f"{place}/").items():
        words = _words("lm_eval", own, f"{RESULTS}/{name}")
        lines.append(f'{shlex.join(words)} --tasks "$tasks" "$@"\n')
    write_text(run.harness, "".join(lines))


def _names_keys() -> str:
    """Return a program for lm-eval's Python that names the metrics of tasks."""
    return Path(__file__).with_name("harness_keys.py").read_text(encoding="utf-8")


def _keys_in(program: Sequence[str], tasks: str) -> list[str]:
    """Ask lm-eval for the metrics of tasks, a line per task; without its Python they are seen afterwards."""
    if program[0] == sys.executable:
        python = [sys.executable]
    else:
        with open(program[0], encoding="utf-8", errors="replace") as file:
            first = file.readline()
        python = first.removeprefix("#!").split() if first.startswith("#!") else []
    if not python or "python" not in python[-1]:
        return []
    done = subprocess.run([*python, "-c", _names_keys(), tasks], check=False, capture_output=True, text=True)
    return [f"lm-eval: {line}" for line in done.stdout.splitlines()] if done.returncode == 0 else []


def _words(program: str, arguments: str, out: str) -> list[str]:
    return [program, "--model", "hf", "--model_args", arguments, "--output_path", out]


def run_harness(config: MergeConfig, folder: Path, tasks: str, console: Console) -> None:
    """Measure all models of a finished run by lm-eval, and add its results to metrics.json and the report.

    Args:
        config: Configuration of the run.
        folder: Run directory.
        tasks: lm-eval's tasks, with commas between them.
        console: Prints the results.

    Raises:
        ConfigError: A task has no name, lm-eval is not installed or fails, the run is not finished, or has no merged
            checkpoint.
    """
    run, names = RunDirectory(folder), [name.strip() for name in tasks.split(",")]
    if not all(names):
        raise ConfigError(f"--lm_eval: expected names of tasks with commas between them, found {quoted(tasks)}.")
    if not run.metrics.is_file() or not run.merged.is_dir():
        raise ConfigError(
            f"{folder}: expected a finished run with its merged checkpoint ({run.merged.name}), found none. Finish it, "
            "or export it again."
        )
    program = program_of()
    found: dict[str, dict[str, dict[str, float]]] = {}
    with use_run(run, "adamerge evaluate", console):
        for line in _keys_in(program, ",".join(names)):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        for name, own in arguments_of(config, folder.absolute()).items():
            console.print(f"lm-eval: {name}", markup=False, highlight=False, soft_wrap=True)
            found[name], complaints = _measured([*program], own, folder / RESULTS / name, ",".join(names))
            for complaint in complaints:
                console.print(f"Warning: {name}: {complaint}", markup=False, highlight=False, soft_wrap=True)
        kept: Mapping[str, Any] = own_json(run.metrics, "the measurements of a run", "Restore it.", {EVERY: object})
        added = {**kept, RESULTS: {"tasks": names, "models": found}}
        write_text(run.metrics, json.dumps(added, indent=2, allow_nan=False) + "\n")
        write_report([folder], run.report)
    for name, scores in found.items():
        for task, metrics in scores.items():
            for metric, value in metrics.items():
                line = f"{name}: {task}: {metric} {value:.4g}"
                console.print(line, markup=False, highlight=False, soft_wrap=True)


def program_of() -> list[str]:
    """Find lm-eval.

    Raises:
        ConfigError: It is not installed.
    """
    command = shutil.which("lm_eval")
    if command:
        return [command]
    if find_spec("lm_eval") is not None:
        return [sys.executable, "-m", "lm_eval"]
    raise ConfigError(
        '--lm_eval: expected the command lm_eval, but it is not installed here. pip install "lm-eval[hf]"; or run '
        "lm_eval.sh of the run directory where it is."
    )


def _measured(
    program: Sequence[str], arguments: str, out: Path, tasks: str
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Run lm-eval on one model; return its results, and what it does not say of them."""
    former = set(out.rglob("*.json*"))
    words = [*_words("", arguments, str(out))[1:], "--tasks", tasks, "--log_samples"]
    done = subprocess.run([*program, *words], check=False)
    if done.returncode:
        raise ConfigError(
            f"--lm_eval: expected lm_eval to succeed, but it ended with the code {done.returncode} on {arguments}; its "
            "message is above. Nothing was added to metrics.json."
        )
    new = sorted(set(out.rglob("*.json*")) - former)
    results = [file for file in new if file.name.startswith("results")]
    if not results:
        raise ConfigError(f"--lm_eval: expected results_*.json of lm_eval in {out}, found none.")
    content = own_json(results[-1], "results of lm-eval", "Run it again.", {"results": dict, EVERY: object})
    unlikely = [said for file in new if file.suffix == ".jsonl" for said in _without_likelihood(file)]
    return scores_in(content), [*_not_finite(content), *unlikely]


def _not_finite(content: Mapping[str, Any]) -> list[str]:
    """Name the metrics that `scores_in` leaves out because they are infinite or not a number."""
    return [
        f"{task}: {name} is {value}, and left out."
        for task, own in content["results"].items()
        for name, value in own.items()
        if isinstance(value, float) and not math.isfinite(value)
    ]


def _without_likelihood(samples: Path) -> list[str]:
    """Say how many questions of a task have an answer without likelihood, which lm-eval takes for the likeliest."""
    rows = [_holds_nan(json.loads(line).get("resps")) for line in samples.read_bytes().splitlines()]
    task = samples.stem.removeprefix("samples_").rpartition("_")[0]
    if not any(rows):
        return []
    return [
        f"{task}: {sum(rows)} of {len(rows)} questions have answers whose likelihood is not a number (NaN). lm-eval "
        "takes these for the likeliest, so that its scores of this model mean nothing here, however good they are."
    ]


def _holds_nan(value: object) -> bool:
    """Tell whether answers to a question, as lm-eval logs them, have a likelihood that is not a number.

    What a model writes is no likelihood, even if it writes nan.

    Example:
        >>> _holds_nan([[["-2.5", "False"]], [["nan", "False"]]]), _holds_nan([["nan"]])
        (True, False)
    """
    if not isinstance(value, list):
        return False
    return value in (["nan", "False"], ["nan", "True"]) or any(map(_holds_nan, value))


def scores_in(content: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return lm-eval's numbers by task and metric, as its keys name them; aliases and counts are no metrics.

    Example:
        >>> scores_in({"results": {"arc": {"alias": "arc", "acc,none": 0.5, "acc_stderr,none": "N/A"}}})
        {'arc': {'acc,none': 0.5}}
    """
    return {
        task: {
            name: float(value)
            for name, value in own.items()
            if "," in name and isinstance(value, int | float) and math.isfinite(value)
        }
        for task, own in content["results"].items()
    }
