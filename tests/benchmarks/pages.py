"""Look at reports in Chromium, 1280 and 480 pixels wide: what is cut off, empty, unsorted or not accessible.

Needs node, a Chromium, and a folder in which `npm install playwright-core axe-core` was run:

    python tests/benchmarks/pages.py --packages FOLDER --chromium FILE --out PICTURES [RUN …]

Reports on the runs are made anew, and beside them two of random numbers: 20 groups of 2 experts, 2,500 of 20. Pictures
of all pages at 100 %, in pieces of 1000 pixels, are for eyes; the exit status is 1 if a page has a fault that a program
sees.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from results.test_report_page import made

from adamerge.results.report_page import report_on
from adamerge.runs.report_runs import write_report

MOST_BYTES = 3_000_000
SERIOUS = {"serious", "critical"}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--packages", type=Path, required=True, help="folder with node_modules")
    asked.add_argument("--chromium", type=Path, required=True, help="the browser's binary")
    asked.add_argument("--out", type=Path, required=True, help="folder of the pages and pictures")
    asked.add_argument("runs", type=Path, nargs="*", help="directories of finished runs")
    given = asked.parse_args()
    pages = list(write_pages(given.out, given.runs))
    script = Path(__file__).with_suffix(".mjs")
    done = subprocess.run(
        ["node", script, given.out.absolute(), *pages],
        cwd=given.packages,
        env={**os.environ, "CHROMIUM": str(given.chromium)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seen = [json.loads(line) for line in done.stdout.splitlines()]
    found = [f"{one['file']} at {one['width']}: {fault}" for one in seen for fault in faults(one)]
    print("\n".join([*map(row, seen), *found]))
    sys.exit(1 if found or len(seen) != 2 * len(pages) else 0)


def write_pages(out: Path, runs: list[Path]) -> Iterator[Path]:
    """Write a page per run, one of all runs side by side, and those of random numbers; return their places."""
    out.mkdir(parents=True, exist_ok=True)
    several = [*enumerate([run] for run in runs)] + ([("all", runs)] if len(runs) > 1 else [])
    for name, chosen in several:
        yield (page := out.absolute() / f"run_{name}.html")
        write_report(chosen, page)
    for groups, experts in ((20, 2), (2500, 20)):
        page = out.absolute() / f"random_{groups}x{experts}.html"
        page.write_text(report_on([made(groups=groups, experts=experts)]).html, encoding="utf-8")
        yield page


def row(seen: dict[str, Any]) -> str:
    """Say what a page has at one width, as a row of Markdown."""
    cut = [name for name, *_ in seen["hidden"]]
    size = f"{Path(seen['file']).stat().st_size / 1e6:.2f}"
    counts = f"{seen['details'][1]} | {len(seen['axe'] + seen['axe_opened'])} | {len(cut)}"
    return f"| {Path(seen['file']).stem} | {seen['width']} | {size} | {counts} |"


def faults(seen: dict[str, Any]) -> Iterator[str]:
    """List what a reader would trip over."""
    yield from (f"error: {one}" for one in seen["errors"])
    yield from (f"asks the network for {one}" for one in seen["requests"])
    yield from (f"empty picture: {one}" for one in seen["empty"] + seen["empty_opened"])
    yield from (f"axe: {one}" for one in seen["axe"] + seen["axe_opened"] if one[0] in SERIOUS)
    yield from (f"does not sort: {one}" for one in seen["sort"])
    if max(seen["page"], seen["page_opened"]) > seen["window"]:
        yield f"the page is {seen['page']} pixels wide, the window {seen['window']}"
    if seen["details"][0] != seen["details"][1]:
        yield "a folded part does not open"
    if seen["width"] == 1280 and any("Scores" in name or "Agreement" in name for name, *_ in seen["hidden"]):
        yield f"a table of results is cut off: {seen['hidden']}"
    if Path(seen["file"]).stat().st_size > MOST_BYTES:
        yield f"more than {MOST_BYTES} bytes"


if __name__ == "__main__":
    main()
