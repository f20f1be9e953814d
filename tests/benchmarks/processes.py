"""Two processes against one: their coefficients, and what is left when one of them is killed.

    python tests/benchmarks/processes.py                    # about ten minutes on two cores
    python tests/benchmarks/processes.py --steps 4 --methods adamerging

Every method learns on one process, and on two under `ddp` and under `fsdp2`, from a tiny BERT with three experts, of
which one has a single row: one of two processes has none of its rows. Printed is the largest difference of a
coefficient from those of one process. Then one of two processes is killed (SIGKILL) in the middle of a step: printed
are the exit codes, what the other one says, and the difference of the run that is resumed on one and on two processes.
The exit code is 1 if a difference is 1e-5 or more.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

from support.families import save_text_family
from support.learned_together import METHODS, STRATEGIES, coefficients, fit_of, place_of
from support.processes import run, run_together

TOLERANCE = 1e-5


def compare(method: str, steps: int) -> bool:
    """Learn on one process and on two, and print how far apart the coefficients are."""
    began = time.perf_counter()
    assert run(fit_of(method, steps=steps), ".", "one.txt") == 0, Path("one.txt").read_text()
    lines, well = [f"one process {time.perf_counter() - began:.0f} s"], True
    for strategy in STRATEGIES:
        began = time.perf_counter()
        codes = run_together([fit_of(method, 2, strategy, steps)], ".")
        assert codes == [0, 0], Path("0.txt").read_text() + Path("1.txt").read_text()
        gap = _gap(place_of(method, 2, strategy), method)
        lines.append(f"{strategy} {gap:.1e} ({time.perf_counter() - began:.0f} s)")
        well = well and gap < TOLERANCE
    learned = coefficients(place_of(method))
    print(f"{method}: {', '.join(lines)}; coefficients {learned.min():.3f} to {learned.max():.3f}", flush=True)
    return well


def kill(strategy: str, call: int, steps: int) -> bool:
    """Kill one of two processes in a step, and resume on one process and on two."""
    method = "adamerging"
    place, command = Path(place_of(method, 2, strategy)), fit_of(method, 2, strategy, steps)
    shutil.rmtree(place)
    Path("0.txt").unlink()
    codes = run_together([command], ".", strikes={1: STRATEGIES[strategy]._replace(call=call)})
    said = Path("0.txt").read_text().splitlines()[-1]
    print(f"{strategy}, one of two killed: exit codes {codes}; the other says: {said}", flush=True)
    well = codes[1] == -signal.SIGKILL and "another process of this run has ended" in said
    shutil.copytree(place, "killed")
    for count in (1, 2):
        shutil.rmtree(place)
        shutil.copytree("killed", place)
        if count == 1:
            alone = ["--trainer.devices", "1", "--trainer.strategy", "ddp"]
            codes = [run([*command, *alone, "--ckpt_path", "last"], ".", "resumed.txt")]
        else:
            codes = run_together([[*command, "--ckpt_path", "last"]], ".")
        gap = _gap(place, method)
        print(f"{strategy}, resumed on {count}: exit codes {codes}, difference {gap:.1e}", flush=True)
        well = well and gap < TOLERANCE
    shutil.rmtree("killed")
    return well


def _gap(place: str | Path, method: str) -> float:
    return (coefficients(place) - coefficients(place_of(method))).abs().max().item()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(save_text_family(Path(folder), ("mood", "topic", "speed"), layers=2))
        well = [compare(method, options.steps) for method in options.methods]
        if "adamerging" in options.methods:
            half = options.steps // 2
            well += [kill("ddp", half + 1, options.steps), kill("fsdp2", 4 * half, options.steps)]
        os.chdir("/")
    return int(not all(well))


if __name__ == "__main__":
    sys.exit(main())
