"""One block at a time against everything at once: peak anonymous memory and seconds of a step, side by side.

    python tests/benchmarks/streamed.py                                  # a Llama of 240 M parameters; about 20 minutes
    python tests/benchmarks/streamed.py --layers 4 --width 128 --vocabulary 2000 --experts 2 4 --repeats 1

Base and K experts with random weights are written in bf16 to a temporary folder. A step learns on two tasks, each with
half of the tokens in micro-batches, whatever K is, so that K alone grows. Every measurement is a process of its own;
anonymous memory (RssAnon) is sampled from outside, since ru_maxrss would count the page cache. `naive` is the merge by
autograd, with all experts in memory.

With F a forward pass and M one pass of combine or inner over all files, a step in memory takes 3F + 2M and a streamed
one 4F + 3M; both are measured, and the ratio is the floor.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from step import Naive
from torch.func import functional_call
from transformers import LlamaConfig, LlamaForCausalLM
from watched import anonymous

from adamerge.batch import Batch
from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.experts import Experts
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.learning.loss_in_chunks import in_chunks
from adamerge.merging.blocks import find_blocks
from adamerge.merging.choose_execution import Around, Memory, choose
from adamerge.merging.execution import Work, execution_of
from adamerge.merging.grouping import tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.merging.saved_bytes import saved_bytes
from adamerge.objectives import Entropy, entropy
from adamerge.storage.memory import anonymous_memory, give_back

TASKS = 2


def make(folder: Path, count: int, options: argparse.Namespace) -> None:
    """Write a base and `count` experts."""
    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.width,
        intermediate_size=round(19 / 6 * options.width),
        num_hidden_layers=options.layers,
        num_attention_heads=max(1, options.width // 64),
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.0f} M parameters", flush=True)
    model.save_pretrained(folder / "base")
    start = {name: value.clone() for name, value in model.named_parameters()}
    for number in range(count):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, dtype=torch.float32).mul_(2e-3)
                parameter.copy_(noise.add_(start[name]))
        model.save_pretrained(folder / str(number))


def load(folder: Path, count: int) -> Experts:
    return from_checkpoints(
        open_checkpoint(str(folder / "base")), {str(k): open_checkpoint(str(folder / str(k))) for k in range(count)}
    )


def batches(options: argparse.Namespace, config: LlamaConfig) -> list[Batch]:
    """A task's micro-batches."""
    draw = torch.Generator().manual_seed(1)
    rows = options.tokens // TASKS // options.length
    ids = torch.randint(config.vocab_size, (rows, options.length), generator=draw)
    return [Batch({"input_ids": part}, torch.arange(len(part))) for part in ids.split(options.micro_batch)]


def loss(outputs, batch):
    return entropy(outputs.logits).mean()


def chunks(outputs, batch, size):
    return in_chunks(Entropy(), 1.0, outputs, batch, None, size)


def measure(folder: Path, count: int, kind: str, options: argparse.Namespace, answers: Connection) -> None:
    """Take steps in this process; sends seconds of each, the gradient's norm, F and M, and the estimate."""
    torch.set_num_threads(options.threads)
    experts = load(folder, count)
    own = batches(options, next(iter(experts.tasks.values())).module.config)
    if kind == "naive":
        answers.send(_naive(experts, own, options))
        return
    expert = experts.tasks["0"]
    saved = saved_bytes(
        expert,
        find_blocks(expert.module),
        own[0].inputs,
        TASKS * len(own),
        torch.float32,
        by_position=not options.whole_logits,
    )
    give_back(0)
    around = Around(anonymous_memory(), heap=True)
    vectors = task_vectors(experts, experts.shared, resident=False)
    grouping = tensor_wise(experts.shared)
    model = MergedModel(experts, vectors, grouping, blocks=() if kind == "streamed" else None)
    coefficients = torch.full((len(grouping), count), 0.3 / count)
    execution, seconds = execution_of(model), list[float]()
    for _ in range(options.steps + 1):  # the first one warms the page cache up
        began = time.perf_counter()
        by_position = None if options.whole_logits else chunks
        work = {task: [Work(batch, loss, by_position) for batch in own] for task in model.tasks[:TASKS]}
        step = execution.losses_and_gradient(coefficients, work)
        seconds.append(time.perf_counter() - began)
    need = choose(Memory(kind), experts, experts.shared, count, torch.float32, 10**12, saved, around).need.total
    parts = _parts(model, coefficients, own) if kind == "mapped" and options.parts else None
    answers.send((seconds[1:], step.gradient.norm().item(), parts, need))


def _parts(model: MergedModel, coefficients: torch.Tensor, own: list[Batch]) -> tuple[float, float]:
    """Seconds of F, a forward pass of all rows, and M, the mean of combine and inner."""
    began = time.perf_counter()
    merged = model.vectors.combine(coefficients, model.grouping)
    model.vectors.inner(merged, model.grouping)
    end = time.perf_counter()
    with torch.no_grad():
        for task in model.tasks[:TASKS]:
            for batch in own:
                model.forward(task, merged, batch.inputs)
    return time.perf_counter() - end, (end - began) / 2


def _naive(experts: Experts, own: list[Batch], options: argparse.Namespace) -> tuple[list[float], float, None, int]:
    naive, seconds = Naive(experts), list[float]()
    for _ in range(options.steps):
        began = time.perf_counter()
        free = torch.full((len(experts.shared), len(experts.tasks)), 0.3 / len(experts.tasks), requires_grad=True)
        merged = {}
        for group, (name, base) in enumerate(naive.base.items()):
            total = base.float()
            for k, vectors in enumerate(naive.vectors):
                total = total + free[group, k] * vectors[name].float()
            merged[name] = total
        for expert in list(experts.tasks.values())[:TASKS]:
            for batch in own:
                logits = functional_call(expert.module, merged, (), dict(batch.inputs)).logits
                entropy(logits).mean().backward(retain_graph=True)
        seconds.append(time.perf_counter() - began)
        assert free.grad is not None
    return seconds, free.grad.norm().item(), None, 0


def peak(folder: Path, count: int, kind: str, options: argparse.Namespace) -> tuple[float, tuple]:
    """Peak RssAnon in MB of a process, sampled from outside, and what it sends."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=measure, args=(folder, count, kind, options, there))
    process.start()
    highest, found = 0, None
    while process.is_alive():
        highest = max(highest, anonymous(process.pid))
        if found is None and here.poll(0.005):
            found = here.recv()
    process.join()
    assert process.exitcode == 0
    return highest / 1024, found or here.recv()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, nargs="+", default=[2, 8, 20])
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--tokens", type=int, default=2048, help="Tokens per step, of both tasks together.")
    parser.add_argument("--length", type=int, default=256, help="Tokens per row.")
    parser.add_argument("--micro-batch", type=int, default=2, help="Rows per forward pass.")
    parser.add_argument("--steps", type=int, default=3, help="Timed steps per process.")
    parser.add_argument("--repeats", type=int, default=3, help="Processes per measurement; medians are printed.")
    parser.add_argument("--whole-logits", action="store_true", help="Stream with the logits of all positions at once.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="Where the files are, or are written and stay.")
    parser.add_argument("--no-parts", dest="parts", action="store_false", help="Do not measure F and M.")
    options = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    floors: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = options.folder or Path(place)
        if not (folder / str(max(options.experts) - 1)).exists():
            make(folder, max(options.experts), options)
        for count in options.experts:
            for kind in ("mapped", "streamed", *(["naive"] if count == min(options.experts) else [])):
                runs = [peak(folder, count, kind, options) for _ in range(options.repeats)]
                rows[f"{kind} {count}"] = {
                    "MB": statistics.median(memory for memory, _ in runs),
                    "seconds": statistics.median(second for _, found in runs for second in found[0]),
                    "norm": runs[0][1][1],
                    "estimate": runs[0][1][3] / 2**20,
                }
                if kind == "mapped" and options.parts:
                    forward, pass_over_files = (statistics.median(found[2][i] for _, found in runs) for i in (0, 1))
                    floors[count] = (4 * forward + 3 * pass_over_files) / (3 * forward + 2 * pass_over_files)
                    print(f"K = {count}: F {forward:.2f} s, M {pass_over_files:.2f} s, floor × {floors[count]:.3f}")
                print(
                    f"K = {count} {kind:9s}",
                    {key: round(value, 4) for key, value in rows[f"{kind} {count}"].items()},
                    flush=True,
                )
    first, most = min(options.experts), {name: row["MB"] for name, row in rows.items()}
    streamed = [most[f"streamed {count}"] for count in options.experts]
    print(f"streamed, most over fewest K: {max(streamed) / min(streamed):.3f} (at most 1.03)")
    for other, bound in (("mapped", 0.6), ("naive", 0.25)):
        ratio = most[f"streamed {first}"] / most[f"{other} {first}"]
        print(f"streamed over {other}, memory: {ratio:.3f} (below {bound})")
    for name, row in rows.items():
        if row["estimate"]:
            print(f"{name}: estimate over measured memory {row['estimate'] / row['MB']:.3f} (0.85 to 1.15)")
    for count in options.experts:
        ratio = rows[f"streamed {count}"]["seconds"] / rows[f"mapped {count}"]["seconds"]
        print(f"K = {count}: streamed over mapped, seconds: {ratio:.3f}, floor {floors.get(count, float('nan')):.3f}")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
