"""A step over five adapters against a plain pass of the base: peak anonymous memory, and time.

    python ../shared/zoo/llm/unpack.py llm
    python tests/benchmarks/adapters.py llm                     # about five minutes on two cores
    python tests/benchmarks/adapters.py llm --repeats 3 --variants plain adapters

SmolLM2-135M and its five adapters (r 8 to 32), fp32, 5 tasks × 4 rows, 1,120 tokens per step, tensor-wise coefficients,
KL divergence from each expert's own predictions. Four variants, each a process of its own that holds what it needs:

    plain      forward and backward pass of the base, fp32 weights in memory, gradients for all of them, task by task
    adapters   a step of the package over the five adapters
    dense      the same over the five adapters merged into bf16 checkpoints, mapped
    naive      base + Σ c·s·B A by autograd and `functional_call`, a walk back through it per task

The processes take steps in turn, so that what else the machine does meets all of them. × plain of a time is the median
over rounds of the ratio in one round, not the ratio of the medians beside it; of memory it is the ratio of the peaks.
Anonymous memory (RssAnon) is sampled from outside, since ru_maxrss would count the page cache. Printed at the end are
the parts of a step, and whether the limits hold: adapters at most 1.15 × plain in memory and in time, and what a step
costs over the plain pass, (× plain − 1), at most 0.6 of what it costs with dense checkpoints, in time and in memory.
Below 0, a step over adapters costs less than the plain pass.
"""

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from adapter_steps import LENGTH, ROWS, TASKS, step_of
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

VARIANTS = ("plain", "adapters", "dense", "naive")
TIMES, COST = 1.15, 0.6
"""Limits of memory and time × plain, and of the cost over plain as a share of that of dense checkpoints."""

DATA = Path(__file__).resolve().parents[3] / "shared/zoo/llm/data"


def prepare(folder: Path, data: Path) -> None:
    """Write dense checkpoints, token ids of every task and each expert's predictions, where they are missing."""
    from peft import PeftModel

    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    for task in TASKS:
        place, rows = folder / "bf16" / task, folder / "rows" / f"{task}_{ROWS}x{LENGTH}.safetensors"
        if place.exists() and rows.exists():
            continue
        base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
        merged = PeftModel.from_pretrained(base, folder / task).merge_and_unload().eval()
        lines = (data / task / "unlabeled.jsonl").read_text(encoding="utf-8").splitlines()
        text = "\n".join(json.loads(line)["messages"][0]["content"] for line in lines[:40])
        ids = torch.tensor(tokenizer(text)["input_ids"][: ROWS * LENGTH]).view(ROWS, LENGTH)
        with torch.no_grad():
            expected = merged(input_ids=ids, use_cache=False).logits.softmax(-1)
        rows.parent.mkdir(exist_ok=True)
        save_file({"input_ids": ids, "expected": expected.bfloat16()}, rows)
        merged.bfloat16().save_pretrained(place)


def work(variant: str, folder: Path, threads: int) -> None:
    """Take a step for every line of standard input, and say its seconds and their parts."""
    torch.set_num_threads(threads)
    parts: dict[str, float] = {}
    step = step_of(variant, folder, parts)
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        if line.strip() == "gradient":
            gradient = step()
            print(json.dumps({"gradient": [] if gradient is None else gradient.flatten().tolist()}), flush=True)
            continue
        parts.clear()
        began, used = time.perf_counter(), time.process_time()
        step()
        seconds = {"step": time.perf_counter() - began, "cpu": time.process_time() - used}
        print(json.dumps({**seconds, **parts}), flush=True)


class Worker:
    """A process that takes steps of one variant when asked to; its anonymous memory is sampled from outside."""

    def __init__(self, variant: str, folder: Path, threads: int) -> None:
        command = [sys.executable, __file__, str(folder), "--worker", variant, "--threads", str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.peak = 0
        self._answer()

    def ask(self, what: str) -> dict[str, float]:
        assert self._process.stdin
        with self._sampled():
            self._process.stdin.write(what + "\n")
            self._process.stdin.flush()
            return self._answer()

    def close(self) -> None:
        self._process.communicate()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a process ended early: {self._process.wait()}")
        return json.loads(line)

    @contextmanager
    def _sampled(self) -> Iterator[None]:
        done = threading.Event()

        def sample() -> None:
            status = Path(f"/proc/{self._process.pid}/status")
            while not done.wait(0.01):
                for line in status.read_text().splitlines():
                    if line.startswith("RssAnon"):
                        self.peak = max(self.peak, int(line.split()[1]))

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def ratio(values: list[dict[str, float]], others: list[dict[str, float]], key: str = "step") -> float:
    """Median over rounds of the ratio of two variants' seconds."""
    return statistics.median(a[key] / b[key] for a, b in zip(values, others, strict=True))


def cost_limits(times: Mapping[str, float], memory: Mapping[str, float]) -> Iterator[tuple[str, float, bool]]:
    """List what adapters cost over the plain pass as a share of what dense checkpoints cost, and whether it holds.

    Args:
        times: Time of a step × plain, of `adapters` and `dense`.
        memory: The same of peak memory.
    """
    for what, ratios in (("time", times), ("memory", memory)):
        own, dense = ratios["adapters"] - 1, ratios["dense"] - 1
        yield f"cost over plain in {what}, adapters / dense", own / dense, own <= COST * dense


def compare_gradients(workers: Mapping[str, Worker]) -> None:
    """Print how far apart the gradients of the variants are."""
    asked = {name: worker.ask("gradient")["gradient"] for name, worker in workers.items()}
    found = {name: torch.tensor(gradient) for name, gradient in asked.items() if gradient}
    for name, gradient in found.items():
        reference = found.get("naive", gradient)
        error = ((gradient - reference).norm() / reference.norm()).item()
        print(f"gradient of {name}: relative difference from naive {error:.1e}")


def report(seconds: Mapping[str, list[dict[str, float]]], peaks: Mapping[str, int]) -> None:
    heads = ("s a step", "× plain", "CPU s", "× plain", "peak MB", "× plain")
    print("\n" + " " * 10 + "".join(f"{head:>10s}" for head in heads) + "  parts of a step, s")
    for name, values in seconds.items():
        parts = {p: statistics.median(v[p] for v in values) for p in ("combine", "inner") if p in values[0]}
        words = ", ".join(f"{part} {value:.2f}" for part, value in parts.items())
        median = {key: statistics.median(value[key] for value in values) for key in ("step", "cpu")}
        times = (ratio(values, seconds["plain"], key) for key in ("step", "cpu"))
        columns = [x for pair in zip(median.values(), times, strict=True) for x in pair]
        columns += [peaks[name] / 1024, peaks[name] / peaks["plain"]]
        print(f"{name:10s}" + "".join(f"{column:10.3f}" for column in columns) + f"  {words}")
    print("s, CPU s: medians; their × plain: medians over rounds of the ratio in one round; MB: peaks, and their ratio")
    if "adapters" in seconds:
        times = {name: ratio(values, seconds["plain"]) for name, values in seconds.items()}
        memory = {name: peak / peaks["plain"] for name, peak in peaks.items()}
        for what, ratios in (("memory", memory), ("time", times)):
            say(f"adapters: {what} × plain", ratios["adapters"], TIMES, holds=ratios["adapters"] <= TIMES)
        for what, value, holds in cost_limits(times, memory) if "dense" in seconds else ():
            say(what, value, COST, holds=holds)


def say(what: str, value: float, limit: float, *, holds: bool) -> None:
    print(f"{what}: {value:.3f} (at most {limit}) {'holds' if holds else 'DOES NOT HOLD'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Where unpack.py wrote base and adapters; more is written there.")
    parser.add_argument("--data", type=Path, default=DATA, help="Rows of the language zoo.")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--worker", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.folder, options.threads)
        return
    prepare(options.folder, options.data)
    names = dict.fromkeys(["plain", *options.variants])
    workers = {name: Worker(name, options.folder, options.threads) for name in names}
    compare_gradients(workers)  # what a first step allocates is no part of the others' time
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    for _ in range(options.repeats):
        for name, worker in workers.items():
            seconds[name].append(worker.ask("step"))
    report(seconds, {name: worker.peak for name, worker in workers.items()})
    for worker in workers.values():
        worker.close()


if __name__ == "__main__":
    main()
