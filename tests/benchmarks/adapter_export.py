"""Size, truncation error and agreement of five adapters exported as one, and what serving engines accept of it.

    python ../shared/zoo/llm/unpack.py llm
    python tests/benchmarks/adapter_export.py llm --out exports       # about five minutes on two cores

The language pool merged by task arithmetic (0.3), exported as a complete checkpoint, as an adapter at full rank, in
bf16, and at lower ranks. Every adapter is loaded by PEFT and compared with the merge before it is reported; its keys
are checked against what vLLM's documentation says it accepts (tests/support/engines.py).
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from adapters import DATA, TASKS

from adamerge import Expert, Merge

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support.engines import vllm_problems

LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Where unpack.py wrote base and adapters.")
    parser.add_argument("--data", type=Path, default=DATA, help="Rows of the language zoo.")
    parser.add_argument("--out", type=Path, required=True, help="Folder for the exports; must not exist.")
    parser.add_argument("--ranks", type=int, nargs="*", default=[32], help="Truncated ranks.")
    parser.add_argument("--rows", type=int, default=8, help="Rows per task; half of them are held out.")
    options = parser.parse_args()
    experts = [
        Expert(
            options.folder / task, calibration={"path": str(options.data / task / "test.jsonl"), "rows": options.rows}
        )
        for task in TASKS
    ]
    data = {"batch_size": 2, "micro_batch": 4, "max_length": 128}
    merge = Merge(options.folder / "base", experts, method="task_arithmetic", data=data)
    result = merge.learn()
    dense = result.export(options.out / "dense")
    print(f"complete checkpoint: {dense.bytes / 1e6:.1f} MB", flush=True)
    kinds: dict[str, dict[str, object]] = {"full": {}, "bf16": {"dtype": torch.bfloat16}}
    kinds |= {f"rank_{rank}": {"max_rank": rank} for rank in options.ranks}
    for name, how in kinds.items():
        began = time.perf_counter()
        exported = result.export(options.out / name, adapter=True, **how)
        print(f"\n{name}: {exported.bytes / 1e6:.1f} MB, {time.perf_counter() - began:.0f} s")
        print(*exported.surviving.lines("nearest"), *exported.notes, sep="\n")
        problems = vllm_problems(exported.folder, LINEAR)
        print(f"vLLM: {'; '.join(problems[:5]) or 'every key is one that it accepts'}", flush=True)


if __name__ == "__main__":
    main()
