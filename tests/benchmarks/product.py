"""Every combination of the design's axes on a small real problem: runs, stays feasible, improves, resumes.

    python tests/benchmarks/product.py                # all of them, about half an hour on a core
    python tests/benchmarks/product.py --every 20     # every twentieth

Prints what failed and why; the exit code is 1 if anything did. The tests take the rows of a table in which every two
values meet.
"""

import argparse
import itertools
import sys
import tempfile
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.table import AXES, Table, allowed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="Take every so manieth combination.")
    options = parser.parse_args()
    rows = [dict(zip(AXES, values, strict=True)) for values in itertools.product(*AXES.values())]
    defined = [row for row in rows if allowed(row)]
    chosen = defined[:: options.every]
    failed = 0
    with tempfile.TemporaryDirectory() as place:
        table = Table(Path(place) / "vectors")
        for number, row in enumerate(chosen):
            try:
                table.judge(row, Path(place) / str(number))
            except Exception:
                failed += 1
                print(", ".join(row.values()), traceback.format_exc(limit=-1), sep="\n", flush=True)
    refused = len(rows) - len(defined)
    print(f"{len(chosen)} of {len(defined)} combinations, {failed} failed; {refused} more are not defined")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
