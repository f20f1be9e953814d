"""Does agreement on unlabeled rows pick an iterate near the best one? A learning curve on the zoo.

    python ../shared/zoo/unpack.py zoo
    python tests/benchmarks/agreement.py              # about 12 minutes on two cores

Learns as configs/zoo_adamerging.yaml says, from unlabeled training rows, in a plain PyTorch loop. At every look it
notes the agreement with the experts on held-out training rows, and the accuracy on the whole test files, which decides
nothing.
"""

import argparse
from functools import partial
from pathlib import Path

import torch

from adamerge.batch import Batch, Outputs
from adamerge.calibration.agreement import hold_out
from adamerge.cli import parse_file
from adamerge.data.schedule import Schedule
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.learning.learn import divide
from adamerge.merging.execution import Work, execution_of
from adamerge.merging.merged_model import uniform
from adamerge.objectives import Objective
from adamerge.optim import build_optimizer
from adamerge.results.evaluate import Evaluation, mean
from adamerge.runs.build_model import build_model, open_experts
from adamerge.runs.load_rows import load_data


def share_of_loss(objective: Objective, count: int, outputs: Outputs, batch: Batch) -> torch.Tensor:
    return objective(outputs, batch, None) * len(batch.rows) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/zoo_adamerging.yaml"))
    parser.add_argument("--steps", type=int, default=45)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    config = parse_file(options.config)
    config.seed_everything = options.seed
    experts = open_experts(config)
    model = build_model(config, experts, inspect_weights(experts).changed, Path("none"))
    data = load_data(config, experts)
    calibration = divide(data.calibration, config.data, options.seed)
    held_out = hold_out(model, calibration.watch, config.data.micro_batch)
    schedule = Schedule(options.seed, config.data.batch_size)
    coefficients = torch.nn.Parameter(uniform(model, config.start))
    assert config.optimizer is not None
    optimizer = build_optimizer(config.optimizer, coefficients, config.feasible)
    evaluation = Evaluation(model, data.evaluation)

    seen: list[tuple[int, float, float, float]] = []
    for step in range(options.steps + 1):
        if step % config.watch.every == 0:
            measured = held_out.measure(model, coefficients.detach(), config.objective)
            agreement, entropy = mean(measured.agreement), mean(measured.objective)
            accuracy = evaluation.merged(coefficients.detach())["mean"] or 0.0
            seen.append((step, agreement, entropy, accuracy))
            print(
                f"step {step:3d}  agreement {100 * agreement:.2f}  entropy {entropy:.3f}  test accuracy {accuracy:.2f}",
                flush=True,
            )
        work: dict[str, list[Work]] = {}
        for number, task in enumerate(model.tasks):
            rows = calibration.learn[task]
            chosen = schedule.rows(step, number, len(rows))
            loss = partial(share_of_loss, config.objective, len(chosen))
            work[task] = [Work(batch, loss) for batch in rows.batches(config.data.micro_batch, chosen)]
        coefficients.grad = execution_of(model).losses_and_gradient(coefficients, work).gradient
        optimizer.step()

    best = max(seen, key=lambda entry: entry[3])
    picked = max(seen, key=lambda entry: (entry[1], -entry[2]))
    lowest = min(seen, key=lambda entry: entry[2])
    ours, theirs = torch.tensor([e[1] for e in seen]), torch.tensor([e[3] for e in seen])
    correlation = torch.corrcoef(torch.stack([ours, theirs]))[0, 1].item()
    print(f"best iterate: step {best[0]}, {best[3]:.2f}")
    print(f"picked by agreement: step {picked[0]}, {picked[3]:.2f} ({best[3] - picked[3]:.2f} below the best)")
    print(f"picked by entropy: step {lowest[0]}, {lowest[3]:.2f} ({best[3] - lowest[3]:.2f} below the best)")
    print(f"correlation of agreement and accuracy over the curve: {correlation:.2f}")


if __name__ == "__main__":
    main()
