"""Streamed and in-memory execution of one model on the same rows, and how far apart they are."""

from typing import NamedTuple

import torch

from adamerge.batch import Batch
from adamerge.experts.from_modules import from_modules
from adamerge.merging.execution import Work, execution_of
from adamerge.merging.grouping import tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.types import ConfigError


class Compared(NamedTuple):
    """Largest relative differences, and the words of a refusal."""

    loss: float
    gradient: float
    outputs: float
    refused: str = ""

    @property
    def worst(self):
        return max(self.loss, self.gradient, self.outputs)

    def __str__(self):
        return f"refused: {self.refused}" if self.refused else f"{self.loss:.1e} {self.gradient:.1e} {self.outputs:.1e}"


def near(base, build, seed):
    """An expert near a base."""
    expert = build(seed)
    with torch.no_grad():
        for own, start in zip(expert.parameters(), base.parameters(), strict=True):
            own.mul_(0.3).add_(start)
    return expert


def both(build, tasks=2, blocks=()):
    """In memory and streamed, over experts near a base."""
    base = build(0)
    experts = from_modules(base, {f"t{k}": near(base, build, k) for k in range(1, tasks + 1)})
    vectors = task_vectors(experts, experts.shared, resident=False)
    grouping = tensor_wise(experts.shared)
    return MergedModel(experts, vectors, grouping), MergedModel(experts, vectors, grouping, blocks=blocks)


def inputs_of(architecture, config, rows=2, seed=0):
    """Inputs that a class of transformers takes."""
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 38, (rows, 12), generator=draw)
    pixels = torch.randn(rows, 3, 16, 16, generator=draw)
    if architecture.startswith("Llava"):
        places = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
        tokens[:, 1 : 1 + places] = config.image_token_id
        return {"input_ids": tokens, "pixel_values": pixels, "attention_mask": torch.ones_like(tokens)}
    if architecture.startswith("Whisper"):
        return {"input_features": torch.randn(rows, 8, 24, generator=draw), "decoder_input_ids": tokens}
    if architecture.endswith("ImageClassification"):
        return {"pixel_values": pixels}
    tokens[:, 8] = 1  # an end, which some classifiers look for
    mask = torch.ones_like(tokens)
    mask[0, -3:] = 0  # padding
    given = {"input_ids": tokens, "attention_mask": mask}
    generates = architecture.endswith(("ForConditionalGeneration", "MTModel"))
    return given | ({"decoder_input_ids": tokens[:, :7]} if generates else {})


def logits_of_rows(output, batch):
    return output.logits.sin().mean() + sum(state.square().mean() for state in output.hidden)


def compared(family, layers=(1, -1)):
    """Both executions on two tasks, the second with two micro-batches; a family without logits gets some."""
    config = family.build(0).config
    plain, streamed = both(family.build)
    batches = [Batch(inputs_of(family.architecture, config, rows, rows), torch.arange(rows)) for rows in (3, 2, 1)]
    work = {"t1": [Work(batches[0], logits_of_rows)], "t2": [Work(one, logits_of_rows) for one in batches[1:]]}
    coefficients = torch.linspace(0.1, 0.6, len(plain.grouping) * 2).view(-1, 2)
    try:
        return _compared(plain, streamed, coefficients, work, layers)
    except (ConfigError, AssertionError) as error:  # the latter by Reformer, which has no gradient in eval mode
        return Compared(0.0, 0.0, 0.0, str(error))


def _compared(plain, streamed, coefficients, work, layers):
    expected = execution_of(plain).losses_and_gradient(coefficients, work, layers)
    execution = execution_of(streamed)
    for _ in range(2):  # the second step knows which block is the last
        found = execution.losses_and_gradient(coefficients, work, layers)
    loss = max(apart(found.losses[task], value) for task, value in expected.losses.items())
    batches = {task: [one.batch for one in own] for task, own in work.items()}
    with execution_of(plain).at(coefficients) as one, execution.at(coefficients) as two:
        pairs = list(zip(one.outputs(batches, layers), two.outputs(batches, layers), strict=True))
    assert all(left.task == right.task for left, right in pairs)
    outputs = max(apart(right.outputs.logits, left.outputs.logits) for left, right in pairs)
    return Compared(loss, apart(found.gradient, expected.gradient), outputs)


def apart(found, expected):
    return ((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12)).item()
