"""A step over the adapters of the language zoo in the ways that adapters.py compares."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.func import functional_call
from transformers import AutoModelForCausalLM

from adamerge.batch import Batch
from adamerge.experts.adapter import open_expert
from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.experts import Experts
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.experts.low_rank import Adapted
from adamerge.merging.execution import Work, execution_of
from adamerge.merging.grouping import tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors

TASKS = ("topics", "intents", "sums", "family", "sentiment")
ROWS, LENGTH = 4, 56

Step = Callable[[], Tensor | None]


def open_pool(folder: Path, kind: str) -> Experts:
    """The base and its five experts, as adapters or as dense checkpoints."""
    base = open_checkpoint(str(folder / "base"))
    places = {task: folder / task if kind == "adapters" else folder / "bf16" / task for task in TASKS}
    return from_checkpoints(base, {task: open_expert(str(place), base) for task, place in places.items()})


def read_rows(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Token ids and expected probabilities of every task, mapped."""
    found = {}
    for task in TASKS:
        file = safe_open(folder / "rows" / f"{task}_{ROWS}x{LENGTH}.safetensors", framework="pt")
        found[task] = (file.get_tensor("input_ids"), file.get_tensor("expected"))
    return found


def loss_of(logits: Tensor, expected: Tensor) -> Tensor:
    """Cross-entropy with expected probabilities, mean over tokens: KL divergence up to a constant."""
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), expected.flatten(0, 1).float())


def plain_step(folder: Path) -> Step:
    rows = read_rows(folder)
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32).eval()

    def step() -> None:
        model.zero_grad(set_to_none=True)
        for ids, expected in rows.values():
            loss_of(model(input_ids=ids, use_cache=False).logits, expected).backward()

    return step


def our_step(folder: Path, kind: str, parts: dict[str, float]) -> Step:
    experts = open_pool(folder, kind)
    adapters = [weights for weights in open_pool(folder, "adapters").weights.values() if isinstance(weights, Adapted)]
    changed = {name for weights in adapters for name in weights.changed}
    names = tuple(name for name in experts.shared if name in changed)
    vectors = task_vectors(experts, names, resident=False)
    model, rows = MergedModel(experts, vectors, tensor_wise(names)), read_rows(folder)
    for part in ("combine", "inner"):
        setattr(vectors, part, timed(getattr(vectors, part), part, parts))
    coefficients = torch.full((len(names), len(TASKS)), 0.3)
    work = {
        task: [Work(Batch({"input_ids": ids}, torch.zeros(len(ids))), partial(_loss, expected))]
        for task, (ids, expected) in rows.items()
    }
    return lambda: execution_of(model).losses_and_gradient(coefficients, work).gradient


def _loss(expected: Tensor, outputs, batch: Batch) -> Tensor:
    return loss_of(outputs.logits, expected)


def timed(function: Callable, part: str, parts: dict[str, float]) -> Callable:
    """The same function; its seconds are added up."""

    def call(*arguments: object) -> object:
        began = time.perf_counter()
        found = function(*arguments)
        parts[part] = parts.get(part, 0.0) + time.perf_counter() - began
        return found

    return call


def naive_step(folder: Path) -> Step:
    experts, rows = open_pool(folder, "adapters"), read_rows(folder)
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32).eval()
    base = {name: value.detach() for name, value in model.named_parameters()}
    factors = {name: factors_of(experts, name) for name in base}
    names = [name for name, own in factors.items() if own]

    def step() -> Tensor:
        free = torch.full((len(names), len(TASKS)), 0.3, requires_grad=True)
        merged = dict(base)
        for group, name in enumerate(names):
            for k, (left, right) in factors[name].items():
                merged[name] = merged[name] + free[group, k] * (left @ right)
        for ids, expected in rows.values():
            output = functional_call(model, merged, (), {"input_ids": ids, "use_cache": False})
            loss_of(output.logits, expected).backward(retain_graph=True)
        assert free.grad is not None
        return free.grad

    return step


def factors_of(experts: Experts, name: str) -> dict[int, tuple[Tensor, Tensor]]:
    """Factors (s·B, A) in fp32 by column."""
    found = {}
    for k, weights in enumerate(experts.weights.values()):
        change = weights.change(name) if isinstance(weights, Adapted) else None
        if change is not None and change.low_rank is not None:
            left, right, scale = change.low_rank()
            found[k] = (scale * left.float(), right.float())
    return found


def step_of(variant: str, folder: Path, parts: dict[str, float]) -> Step:
    match variant:
        case "plain":
            return plain_step(folder)
        case "naive":
            return naive_step(folder)
        case _:
            return our_step(folder, variant, parts)
