"""Export beside mergekit: the same data-free merge of the same files, import, merging and writing, verification apart.

    python tests/benchmarks/export.py --folder FOLDER    # Qwen2.5-1.5B's shapes, 4 of the experts that larger.py wrote
    python tests/benchmarks/export.py --layers 2 --width 256 --vocabulary 20000

Task arithmetic, 0.3 an expert, from bf16 files to a bf16 file. Every run is a process of its own, the two in turn, and
finds its files in the page cache, where they are read before it; the first pair does not count. Anonymous memory
(RssAnon) is sampled from outside. mergekit compares nothing with what it wrote; adamerge reads its export back as
transformers does, and compares every bit.
"""

import argparse
import json
import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import yaml
from watched import peak_of


class Taken(NamedTuple):
    """Seconds of the parts of an export, and its peak anonymous memory in MB."""

    importing: float
    merging: float
    verifying: float
    peak: float

    def __str__(self) -> str:
        total = self.importing + self.merging + self.verifying
        return (
            f"import {self.importing:.1f} s, merging and writing {self.merging:.1f} s, verification "
            f"{self.verifying:.1f} s, in all {total:.1f} s; {self.peak:.0f} MB"
        )


def by_adamerge(folder: Path, count: int, threads: int, file: Path) -> None:
    """Merge by adamerge's export; writes seconds of its parts."""
    began = time.perf_counter()
    import torch

    from adamerge.experts.checkpoint import open_checkpoint
    from adamerge.experts.from_checkpoints import from_checkpoints
    from adamerge.merging.grouping import task_wise
    from adamerge.merging.merged_model import MergedModel, task_vectors, uniform
    from adamerge.results import export as of_export

    torch.set_num_threads(threads)
    imported = time.perf_counter()
    spent: list[float] = []
    of_export.compare_with_files = _timed(of_export.compare_with_files, spent)
    base, opened = open_checkpoint(str(folder / "base")), (open_checkpoint(str(folder / f"e{k}")) for k in range(count))
    experts = from_checkpoints(base, {f"e{k}": one for k, one in enumerate(opened)})
    model = MergedModel(experts, task_vectors(experts, experts.shared, resident=False), task_wise(experts.shared))
    of_export.export(model, uniform(model, 0.3), folder / "out", dtype=torch.bfloat16)
    whole = time.perf_counter() - imported
    file.write_text(json.dumps([imported - began, whole - sum(spent), sum(spent)]))


def by_mergekit(folder: Path, count: int, threads: int, file: Path) -> None:
    """Merge by mergekit; writes seconds of its parts."""
    began = time.perf_counter()
    import torch
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    torch.set_num_threads(threads)
    imported = time.perf_counter()
    models = [{"model": str(folder / f"e{k}"), "parameters": {"weight": 0.3}} for k in range(count)]
    written = {"merge_method": "task_arithmetic", "base_model": str(folder / "base"), "models": models}
    config = MergeConfiguration.model_validate({**written, "dtype": "bfloat16"})
    run_merge(config, str(folder / "out"), MergeOptions(quiet=True), yaml.safe_dump(written))
    file.write_text(json.dumps([imported - began, time.perf_counter() - imported, 0.0]))


def _timed(function: Callable[..., None], spent: list[float]) -> Callable[..., None]:
    def timed(*given: object) -> None:
        began = time.perf_counter()
        function(*given)
        spent.append(time.perf_counter() - began)

    return timed


def read(folders: list[Path]) -> None:
    """Read all weights once, so that they lie in the page cache."""
    piece = bytearray(2**24)
    for file in (file for folder in folders for file in folder.glob("*.safetensors")):
        with file.open("rb", buffering=0) as own:
            while own.readinto(piece):
                pass


def take(run: Callable[..., None], folder: Path, options: argparse.Namespace) -> Taken:
    """Run one of them in a process of its own, and watch it."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    read([folder / "base", *(folder / f"e{k}" for k in range(options.experts))])
    times = folder / "times.json"
    process = multiprocessing.get_context("spawn").Process(
        target=run, args=(folder, options.experts, options.threads, times)
    )
    highest = peak_of(process)
    return Taken(*json.loads(times.read_text()), highest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--vocabulary", type=int, default=151936)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="Where larger.py has written its files.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = (options.folder or Path(place)).absolute()
        if not (folder / "base").exists():
            from larger import make

            make(folder, argparse.Namespace(**vars(options), rows=1, steps=1, limit=None, max_shard_size="50GB"))
        runs: dict[str, list[Taken]] = {"adamerge": [], "mergekit": []}
        for _ in range(options.repeats + 1):
            for name, run in (("adamerge", by_adamerge), ("mergekit", by_mergekit)):
                runs[name].append(take(run, folder, options))
                print(f"{name}: {runs[name][-1]}", flush=True)
        shutil.rmtree(folder / "out")
    counted = {name: [Taken(*map(statistics.median, zip(*own[1:], strict=True)))] for name, own in runs.items()}
    ours, theirs = counted["adamerge"][0], counted["mergekit"][0]
    print(f"medians, adamerge: {ours}\nmedians, mergekit: {theirs}")
    print(f"merging and writing over mergekit's: {ours.merging / theirs.merging:.2f} (at most 0.8)")
    print(f"memory over mergekit's: {ours.peak / theirs.peak:.2f} (at most 1)")


if __name__ == "__main__":
    main()
