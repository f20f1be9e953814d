"""What a long run holds: resident memory, open files and mappings of `adamerge fit` at some of its steps.

    python tests/benchmarks/long_run.py --memory mapped streamed

A tiny text classifier and two experts, 4 rows of each in a step; every run is a process of its own.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.families import save_text_family

TASKS = ("mood", "topic")


def held() -> tuple[float, int, int, float]:
    """Count resident MiB, open files and mappings of this process, and its seconds of CPU."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    resident = pages * os.sysconf("SC_PAGESIZE") / 2**20
    mappings = Path("/proc/self/maps").read_text().count("\n")
    return resident, len(os.listdir("/proc/self/fd")), mappings, time.process_time()


def learn(folder: Path, memory: str, shown: list[int]) -> None:
    """Run `adamerge fit` and print what this process holds before each of the steps."""
    from adamerge import cli
    from adamerge.learning.merge_module import MergeModule

    step = MergeModule.training_step

    def watched(module: MergeModule, *given: object) -> object:
        if module.global_step + 1 in shown:
            resident, files, mappings, seconds = held()
            row = f"| {memory} | {module.global_step + 1} | {resident:.1f} | {files} | {mappings} | {seconds:.0f} |"
            print(row, file=sys.stderr, flush=True)
        return step(module, *given)

    MergeModule.training_step = watched
    os.chdir(folder)
    words = ["--memory", memory, "--run_dir", f"run_{memory}", "--trainer.max_steps", str(shown[-1])]
    raise SystemExit(cli.main(["fit", "--config", "merge.yaml", *words]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", nargs="+", default=["mapped", "streamed"])
    parser.add_argument(
        "--shown", nargs="+", type=int, default=[100, 1000, 2000, 3000], help="The last one ends a run."
    )
    options = parser.parse_args()
    written = {
        "base_model": "base",
        "models": [{"model": task, "calibration": f"{task}.jsonl"} for task in TASKS],
        "method": "adamerging",
        "data": {"batch_size": 4, "rows": 8},
        "trainer": {"accelerator": "cpu"},
        "watch": {"every": 1000},
    }
    with tempfile.TemporaryDirectory() as place:
        folder = save_text_family(Path(place), TASKS)
        (folder / "merge.yaml").write_text(yaml.safe_dump(written, sort_keys=False), encoding="utf-8")
        for memory in options.memory:
            process = multiprocessing.get_context("spawn").Process(target=learn, args=(folder, memory, options.shown))
            process.start()
            process.join()
            assert process.exitcode == 0


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
