"""A step of a model that two processes divide (fsdp2) against one process: gradient, seconds, memory, and its formula.

    python tests/benchmarks/divided.py                     # a Llama of 57 M parameters; about five minutes on two cores
    python tests/benchmarks/divided.py --layers 24 --width 768 --vocabulary 32000

Base and experts with random weights are written in bf16 to a temporary folder. Every measurement is in processes of its
own, of which anonymous memory (RssAnon) is sampled from outside; what Python and its libraries take before the model is
opened is printed beside it, and is not part of the estimate. glibc gives back what is freed.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from streamed import batches, load, loss, make

os.environ["MALLOC_MMAP_THRESHOLD_"] = "262144"  # else glibc keeps what is freed: holes of the size of gathered blocks
sys.path.insert(0, str(Path(__file__).parents[1]))

from support.processes import free_ports, launched
from torch import distributed
from watched import anonymous

from adamerge.merging.blocks import find_blocks
from adamerge.merging.choose_execution import Memory, choose
from adamerge.merging.divided_need import divided_need
from adamerge.merging.execution import Work, execution_of
from adamerge.merging.grouping import tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.merging.saved_bytes import saved_bytes
from adamerge.merging.sharded import ShardedExecution
from adamerge.merging.shards import Shards


def measure(folder: Path, rank: int, count: int, port: int, options: argparse.Namespace, answers: Connection) -> None:
    """Take steps in this process; sends memory before, seconds, the gradient and the estimate."""
    torch.set_num_threads(1)
    experts = load(folder, options.experts)
    own = batches(options, next(iter(experts.tasks.values())).module.config)  # pyright: ignore[reportArgumentType]
    model = MergedModel(experts, task_vectors(experts, experts.shared, resident=False), tensor_wise(experts.shared))
    if count > 1:
        os.environ.update(launched(rank, count, port))
        distributed.init_process_group("gloo")
    before = anonymous(os.getpid())
    if count > 1:
        model = model.executed_by(partial(ShardedExecution, Shards(model, resident=False)))
    coefficients = torch.full((len(model.grouping), options.experts), 0.3 / options.experts)
    execution, seconds, gradient = execution_of(model), list[float](), torch.empty(0)
    for _ in range(options.steps + 1):
        began = time.perf_counter()
        work = {task: [Work(batch, loss) for batch in own[rank::count]] for task in model.tasks[:2]}
        gradient = execution.losses_and_gradient(coefficients, work).gradient.clone()
        if count > 1:
            distributed.all_reduce(gradient)
        seconds.append(time.perf_counter() - began)
    expert = experts.tasks["0"]
    saved = saved_bytes(expert, find_blocks(expert.module), own[0].inputs, len(own), torch.float32)
    need = choose(Memory("mapped"), experts, experts.shared, options.experts, torch.float32, 10**12, saved).need
    if count > 1:
        need = divided_need(experts, experts.shared, Memory(), count, torch.float32, torch.float32, saved)
    answers.send((before, statistics.median(seconds[1:]), gradient.tolist(), need.total))


def run(folder: Path, count: int, options: argparse.Namespace) -> torch.Tensor:
    """Run processes, print what each one took, and return the gradient."""
    context, (port,) = multiprocessing.get_context("spawn"), free_ports(1)
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    started = [
        context.Process(target=measure, args=(folder, rank, count, port, options, pipes[rank][1]))
        for rank in range(count)
    ]
    for process in started:
        process.start()
    peaks = [0] * count
    while any(process.is_alive() for process in started):
        for rank, process in enumerate(started):
            peaks[rank] = max(peaks[rank], anonymous(process.pid))
        time.sleep(0.005)
    found = [here.recv() for here, _ in pipes]
    for rank, (before, seconds, _, need) in enumerate(found):
        taken = (peaks[rank] - before) / 1024
        print(
            f"process {rank} of {count}: {seconds:.2f} s a step, peak {peaks[rank] / 1024:.0f} MB, of which "
            f"{before / 1024:.0f} MB before; {taken:.0f} MB taken, estimate {need / 2**20:.0f} MB "
            f"({need / 2**20 / taken:.2f})",
            flush=True,
        )
    return torch.tensor(found[0][2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=2)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=16000)
    parser.add_argument("--tokens", type=int, default=512, help="Tokens per step, of both tasks together.")
    parser.add_argument("--length", type=int, default=64, help="Tokens per row.")
    parser.add_argument("--micro-batch", type=int, default=1, help="Rows per forward pass.")
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        make(Path(place), options.experts, options)
        alone, together = (run(Path(place), count, options) for count in (1, 2))
    print(f"relative difference of the gradients: {(together - alone).norm() / alone.norm():.1e}")


if __name__ == "__main__":
    main()
