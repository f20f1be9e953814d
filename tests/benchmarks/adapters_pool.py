"""Does memory grow with the number of adapters in a pool?

    python tests/benchmarks/adapters_pool.py          # about a minute on two cores

A random language model of 34 million parameters, and adapters of rank 16 of all its linear layers (5 MB each). Five of
them have rows, whatever the size of the pool. Every pool is opened, and a few steps of entropy are taken, in a process
of its own, whose anonymous memory (RssAnon) is sampled from outside: factors are mapped from their files, so the peak
with 32 adapters must be at most 1.1 times that with five. Printed beside it: what the adapters take on disk, which is
what a program that holds them would add; the time of a step; and the same by component.
"""

import argparse
import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from watched import peak_of

from adamerge.batch import Batch
from adamerge.experts.adapter import open_expert
from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.merging.execution import Work, execution_of
from adamerge.merging.factored_task_vectors import Factored
from adamerge.merging.grouping import component_wise, tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors, uniform
from adamerge.objectives import entropy
from adamerge.runs.components import components, ranks

WITH_ROWS = 5
CONFIG = {
    "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8,
    "vocab_size": 8192, "tie_word_embeddings": False,
}  # fmt: skip


def make(folder: Path, count: int, rank: int) -> None:
    """Write a base and `count` adapters with random factors."""
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**CONFIG))
    base.save_pretrained(folder / "base")
    options = {"r": rank, "lora_alpha": rank, "target_modules": "all-linear", "init_lora_weights": False}
    for number in range(count):
        torch.manual_seed(number)
        adapted = get_peft_model(base, LoraConfig(**options))
        adapted.save_pretrained(folder / str(number))
        base = adapted.unload()


def learn(folder: Path, count: int, kind: str, steps: int, tell: Connection) -> None:
    """Open a pool and take steps; sends the seconds of the last one."""
    torch.set_num_threads(1)
    base = open_checkpoint(str(folder / "base"))
    experts = from_checkpoints(base, {str(k): open_expert(str(folder / str(k)), base) for k in range(count)})
    vectors, grouping = task_vectors(experts, experts.shared), tensor_wise(experts.shared)
    assert isinstance(vectors, Factored)
    if kind == "component":
        vectors, grouping = vectors.by_component(), component_wise(components(ranks(experts, experts.shared)))
    model = MergedModel(experts, vectors, grouping)
    execution, coefficients = execution_of(model), uniform(model, 1 / count)
    seconds = 0.0
    for step in range(steps):
        began = time.perf_counter()
        ids = torch.randint(CONFIG["vocab_size"], (4, 64), generator=torch.Generator().manual_seed(step))
        work = Work(Batch({"input_ids": ids}, torch.arange(4)), lambda out, _: entropy(out.logits).mean())
        found = execution.losses_and_gradient(coefficients, {str(k): [work] for k in range(WITH_ROWS)})
        coefficients = coefficients - 1e-3 * found.gradient
        seconds = time.perf_counter() - began
    tell.send(seconds)


def measure(folder: Path, count: int, kind: str, steps: int) -> tuple[float, float]:
    """Peak RssAnon in MB, and the seconds of a step, of a process of its own."""
    mine, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=learn, args=(folder, count, kind, steps, theirs))
    return peak_of(process), mine.recv()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, nargs="+", default=[WITH_ROWS, 32])
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make(folder, max(options.adapters), options.rank)
        size = (folder / "0/adapter_model.safetensors").stat().st_size / 2**20
        print("grouping   adapters   on disk, MB   peak RssAnon, MB   × the first   seconds per step")
        for kind in ("tensor", "component"):
            first = None
            for count in options.adapters:
                peak, seconds = measure(folder, count, kind, options.steps)
                first = first or peak
                print(
                    f"{kind:9s}  {count:8d}  {count * size:12.0f}  {peak:17.0f}  {peak / first:12.3f}  {seconds:14.2f}"
                )


if __name__ == "__main__":
    main()
