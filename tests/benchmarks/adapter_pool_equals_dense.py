"""Do five adapters learn, and export, what the same five as complete fp32 checkpoints do?

    python ../shared/zoo/llm/unpack.py llm
    python tests/benchmarks/adapter_pool_equals_dense.py llm --out exports      # two minutes of one core
    python tests/benchmarks/adapter_pool_equals_dense.py llm --out exports --rows 4 --steps 3 --length 128

The language pool: SmolLM2-135M and adapters of five kinds (r 8 to 32, rsLoRA, patterns). The dense checkpoints are
PEFT's merges in fp32. Both pools learn from the same rows; coefficients must be equal to 1e-4. Then the merge of the
adapters is exported as a complete checkpoint and as an adapter, which PEFT merges: equal to 1e-5.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from adapters import DATA, TASKS
from peft import PeftModel
from transformers import AutoModelForCausalLM

from adamerge import Expert, Merge
from adamerge.result import Result


def write_dense(folder: Path) -> None:
    """Merge each adapter by PEFT in fp32, where that is missing."""
    for task in TASKS:
        if not (folder / "fp32" / task).exists():
            base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
            merged = PeftModel.from_pretrained(base, folder / task).merge_and_unload()
            merged.save_pretrained(folder / "fp32" / task)


def learned(base: Path, places: Sequence[Path], data: Path, rows: int, steps: int, length: int) -> Result:
    """Learn by logit alignment on chats, of which `length` tokens count."""
    experts = [
        Expert(place, task=place.name, calibration={"path": str(data / place.name / "test.jsonl"), "rows": rows})
        for place in places
    ]
    settings = {"data": {"batch_size": 2, "max_length": length}, "trainer": {"max_steps": steps}}
    return Merge(base, experts, method="expert_merging", memory="mapped", **settings).learn()


def largest_difference(dense: Path, base: Path, adapter: Path) -> float:
    """Largest difference of a number in a complete checkpoint from PEFT's merge of an adapter."""
    expected = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32).state_dict()
    start = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    found = PeftModel.from_pretrained(start, adapter).merge_and_unload().state_dict()
    assert found.keys() == expected.keys()
    return max((found[name] - value).abs().max().item() for name, value in expected.items())


def say(what: str, value: float, limit: float) -> None:
    print(f"{what}: {value:.1e} (at most {limit:.0e}) {'holds' if value <= limit else 'DOES NOT HOLD'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Where unpack.py wrote base and adapters; more is written there.")
    parser.add_argument("--data", type=Path, default=DATA, help="Rows of the language zoo.")
    parser.add_argument("--out", type=Path, required=True, help="Folder for the exports; must not exist.")
    parser.add_argument("--rows", type=int, default=2, help="Rows of each task.")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--length", type=int, default=64, help="Tokens of a row.")
    options = parser.parse_args()
    write_dense(options.folder)
    found: list[Result] = []
    for kind in (options.folder, options.folder / "fp32"):
        began = time.perf_counter()
        places = [kind / task for task in TASKS]
        size = options.rows, options.steps, options.length
        found.append(learned(options.folder / "base", places, options.data, *size))
        print(f"{kind}: {found[-1].coefficients.numel()} coefficients, {time.perf_counter() - began:.0f} s", flush=True)
    adapters, dense = found
    moved = (adapters.coefficients - 0.3).abs().max().item()
    assert moved > 1e-2, "nothing was learned"
    say("coefficients, adapters and dense", (adapters.coefficients - dense.coefficients).abs().max().item(), 1e-4)
    adapters.export(options.out / "dense", dtype=torch.float32)
    exported = adapters.export(options.out / "adapter", adapter=True)
    print(*exported.notes, sep="\n")
    difference = largest_difference(options.out / "dense", options.folder / "base", exported.folder)
    say("exports, adapter and dense", difference, 1e-5)


if __name__ == "__main__":
    main()
