"""What became of public reports: small scripts that rebuild them are run with an earlier version and with this one.

    python tests/benchmarks/field.py ../shared/field --before CHECKOUT --results results/field   # hours on one core
    python tests/benchmarks/field.py ../shared/field --before CHECKOUT --results results/field --only 15 49

Each script builds tiny models and rows and runs `adamerge check` and `adamerge fit` on them. What it prints is kept in
--results, so that a second call goes on where the first one ended; an output that is to be made anew is removed there.
Prints a table in Markdown: what the commands of both versions returned and measured, and whether that is right. The
exit code is 1 if this version is not right.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path

import yaml

HERE = Path(__file__).parents[2]
FLAGS = re.MULTILINE | re.DOTALL
PATIENT = """
import runpy, subprocess, sys
run = subprocess.run
subprocess.run = lambda *words, timeout=None, **options: run(*words, **options)
del sys.argv[0]
sys.path[0] = sys.argv[1]
runpy.run_path(sys.argv.pop(0), run_name="__main__")
"""
"""Runs a script whose commands may take as long as they need: the whole script has a limit."""


@dataclass(frozen=True)
class Report:
    """What a script rebuilds, and what a right output is; `field_reports.yaml` says what each key means."""

    what: str
    right: str
    codes: str
    shows: Mapping[str, str] = field(default_factory=dict)
    hides: str = "Traceback"
    measures: str = "$^()"

    def missing(self, printed: str) -> list[str]:
        """What is not right in an output."""
        codes = "".join(code for _, code in exits(printed))
        found = [] if re.fullmatch(self.codes, codes) else [f"exit codes {codes}"]
        found += [f"no {name}" for name, pattern in self.shows.items() if not re.search(pattern, printed, FLAGS)]
        return found + [self.hides] * bool(re.search(self.hides, printed, FLAGS))

    def measured(self, printed: str) -> str:
        """The numbers that the table shows."""
        found = re.findall(self.measures, printed)
        return ", ".join(f"{float(number):.1f}" if "." in number else number for number in found)


REPORTS = {
    number: Report(**keys)
    for number, keys in yaml.safe_load(Path(__file__).with_name("field_reports.yaml").read_text()).items()
}


def exits(printed: str) -> list[tuple[str, str]]:
    """The commands that a script ran, and what they returned."""
    return re.findall(r"^\$ adamerge (\w+) -> exit (-?\d+)", printed, flags=re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """What a script printed, None if it had no end; and the seconds that it took."""

    printed: str | None
    seconds: float


def command(tree: Path, place: Path) -> Path:
    """A folder with a command `adamerge` that runs the package in `tree`."""
    folder = place / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    start = "import sys; from adamerge.cli import main; sys.exit(main())"
    (folder / "adamerge").write_text(
        f'#!/bin/sh\nexport PYTHONPATH="{tree}:$PYTHONPATH"\nexec "{sys.executable}" -P -c "{start}" "$@"\n'
    )
    (folder / "adamerge").chmod(0o755)
    return folder


def ran(script: Path, tree: Path, place: Path, limit: float) -> Outcome:
    """Run a script from a folder of its own, with the command of `tree` on the path."""
    path = f"{command(tree, place)}:{os.environ['PATH']}"
    words = [sys.executable, "-c", PATIENT, str(script), str(script.parent)]
    began = time.monotonic()
    with subprocess.Popen(
        words,
        cwd=place,
        env={**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        try:
            printed = process.communicate(timeout=limit)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            printed = None
    return Outcome(printed, round(time.monotonic() - began, 1))


def kept(script: Path, tree: Path, place: Path, limit: float) -> Outcome:
    """The outcome in a folder, made if it is not there."""
    file = place / f"{script.stem}.json"
    if not file.exists():
        print(f"{place.name}: {script.name}", file=sys.stderr, flush=True)
        outcome = ran(script, tree, place / script.stem, limit)
        file.write_text(json.dumps(asdict(outcome), indent=1, ensure_ascii=False))
    return Outcome(**json.loads(file.read_text()))


def cell(outcome: Outcome, report: Report) -> str:
    """What a version did, in a cell of the table."""
    if outcome.printed is None:
        return f"no end in {outcome.seconds:.0f} s"
    runs = [(words, len([*same])) for words, same in groupby(exits(outcome.printed))]
    returned = [f"{name} {code}{f' ×{times}' if times > 1 else ''}" for (name, code), times in runs]
    return "; ".join(filter(None, [", ".join(returned), report.measured(outcome.printed)]))


def verdict(outcome: Outcome, report: Report) -> str:
    """Whether an outcome is right, and what is missing."""
    missing = ["an end"] if outcome.printed is None else report.missing(outcome.printed)
    return f"not right: {', '.join(missing)}" if missing else "right"


def main() -> int:
    """Run what has not run, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Where the scripts are.")
    parser.add_argument("--before", type=Path, required=True, help="A checkout of the earlier version.")
    parser.add_argument("--results", type=Path, required=True, help="Where outputs are kept.")
    numbers = sorted(REPORTS)
    parser.add_argument("--only", nargs="+", choices=numbers, default=numbers, help="Numbers of the scripts to run.")
    parser.add_argument("--limit", type=float, default=3600, help="Seconds that a script may take.")
    options = parser.parse_args()
    if not options.folder.is_dir():
        print(f"skipped: there is no folder {options.folder}")
        return 0
    print("| | what it rebuilds, and what is right | before | now | verdict |\n|---|---|---|---|---|")
    wrong = 0
    for number in options.only:
        (script,) = options.folder.resolve().glob(f"{number}_*.py")
        sides = {"before": options.before.resolve(), "now": HERE}
        found = {
            side: kept(script, tree, options.results.resolve() / side, options.limit) for side, tree in sides.items()
        }
        report = REPORTS[number]
        says = {side: verdict(outcome, report) for side, outcome in found.items()}
        wrong += says["now"] != "right"
        done = "mended" if says["now"] == "right" != says["before"] else says["now"]
        cells = [number, f"{report.what}: {report.right}", *(cell(found[side], report) for side in sides), done]
        print(f"| {' | '.join(text.replace('|', '/') for text in cells)} |", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
