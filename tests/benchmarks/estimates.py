"""The memory that adamerge says it needs beside the peak that was measured, by execution, experts, adapters and centre.

    python tests/benchmarks/estimates.py --folder FOLDER                           # 50 M parameters
    python tests/benchmarks/estimates.py --folder FOLDER --layers 10 --width 1024  # 240 M

Base, experts and adapters with random weights are written in bf16. Two of the tasks have rows, of 64 tokens each. Every
run is a process of its own, with one thread; its anonymous memory (RssAnon) is sampled from its start to its end, with
the export of the merge.
"""

import argparse
import json
import os
import random
import re
from pathlib import Path

import torch
import yaml
from larger import make, take
from peft import LoraConfig, get_peft_model
from support.families import WORDS
from transformers import Qwen2ForCausalLM

from adamerge.merging.device import BF16

WITH_ROWS = 2
RUNS = ("mapped 4", "mapped 8", "resident 4", "resident 8", "streamed 4", "streamed 8")
RUNS += ("mapped 8 adapters", "streamed 8 adapters", "mapped 4 Wudi", "streamed 4 Wudi", "mapped 4 Isotropic")
RUNS += ("resident 4 bf16", "mapped 4 bf16", "streamed 4 bf16")
"""Execution, experts, and what else: adapters in the place of experts, passes in bf16, or a transform as the centre."""


def complete(folder: Path, options: argparse.Namespace) -> None:
    """Write checkpoints, adapters, and rows of as many words as the tokenizer takes."""
    make(folder, options)
    base = Qwen2ForCausalLM.from_pretrained(folder / "base", dtype=torch.bfloat16)
    for number in range(options.experts):
        torch.manual_seed(number)
        lora = LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", init_lora_weights=False)
        adapted = get_peft_model(base, lora)
        adapted.save_pretrained(folder / f"a{number}")
        base = adapted.unload()
        draw = random.Random(number)
        rows = [{"text": " ".join(draw.choices(WORDS, k=80))} for _ in range(2 * options.rows)]
        (folder / f"e{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def configure(folder: Path, run: str, options: argparse.Namespace) -> None:
    """Write the configuration of a run, merge.yaml."""
    mode, count, *more = run.split()
    models: list[dict[str, object]] = [{"model": f"e{k}", "task": f"t{k}"} for k in range(int(count))]
    if more == ["adapters"]:
        models = [{"model": f"a{k}", "task": f"t{k}"} for k in range(int(count))]
    for number, model in enumerate(models[:WITH_ROWS]):
        model["calibration"] = f"e{number}.jsonl"
    written = {
        "base_model": "base",
        "models": models,
        "method": "expert_merging",
        "memory": mode,
        "out_dtype": "bfloat16",
        "data": {
            "batch_size": options.rows,
            "held_out": options.held_out,
            "micro_batch": options.rows,
            "positions": "all",
        },
        "watch": {"every": options.steps},
        "trainer": {
            "max_steps": options.steps,
            "accelerator": "cpu",
            **({"precision": BF16} if more == ["bf16"] else {}),
        },
        **({"centre": more[0]} if more and more[0] not in ("adapters", "bf16") else {}),
    }
    (folder / "merge.yaml").write_text(yaml.safe_dump(written, sort_keys=False), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--rows", type=int, default=4, help="Rows of a task in a step.")
    parser.add_argument("--held-out", type=float, default=0.5, help="Share of rows; without, no merge is measured.")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--limit", default="20GB", help="memory.limit")
    parser.add_argument("--max-shard-size", default="50GB")
    parser.add_argument("--runs", nargs="+", default=RUNS)
    parser.add_argument("--folder", type=Path, required=True, help="Where the files are, or are written and stay.")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    folder = options.folder.absolute()
    if not (folder / "merge.yaml").exists():
        complete(folder, options)
    for number, run in enumerate(options.runs):
        configure(folder, run, options)
        taken = take(folder, "fit", "--config", "merge.yaml", "--run_dir", f"run{number}")
        said = re.findall(r"^memory: \w+ (\d+) MB.*", taken.text, re.MULTILINE)[0]
        print(next(line for line in taken.text.splitlines() if line.startswith("memory:")))
        print(f"| {run} | {taken.peak / 1e6:.0f} | {said} | {1e6 * int(said) / taken.peak:.2f} |", flush=True)


if __name__ == "__main__":
    main()
