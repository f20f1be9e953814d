"""Padding changes nothing: losses, gradients and stored targets equal those of the same rows without it."""

import pytest
import torch
from support.families import build

from adamerge.calibration.target_settings import target_settings
from adamerge.calibration.targets import compute_targets
from adamerge.data.rows import TensorRows
from adamerge.experts.from_modules import from_modules
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.merging.execution import Work, execution_of
from adamerge.merging.grouping import tensor_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.objectives import Entropy, HiddenAlignment, LogitAlignment, Sum

MODELS = {
    "llama, tied": ("LlamaForCausalLM", "llama", {"tie_word_embeddings": True}),
    "llama, untied": ("LlamaForCausalLM", "llama", {"tie_word_embeddings": False}),
    "gpt2": ("GPT2LMHeadModel", "gpt2", {}),
    "t5": ("T5ForConditionalGeneration", "t5", {}),
    "bart": ("BartForConditionalGeneration", "bart", {}),
}
OBJECTIVES = {
    "entropy": Entropy(),
    "logits": LogitAlignment(),
    "logits, mse": LogitAlignment("mse"),
    "states": HiddenAlignment(),
    "first and last state, cosine": HiddenAlignment([0, -1], "cosine"),
    "both": Sum([LogitAlignment(temperature=2.0), HiddenAlignment(form="mse")], [1.0, 0.5]),
}


def model_of(name):
    architecture, family, options = MODELS[name]
    base, *experts = (build(architecture, family, seed, **options) for seed in range(3))
    with torch.no_grad():
        for expert in experts:
            for parameter, start in zip(expert.parameters(), base.parameters(), strict=True):
                parameter.mul_(0.3).add_(start)
    together = from_modules(base, dict(zip("ab", experts, strict=True)))
    vectors = task_vectors(together, inspect_weights(together).changed)
    return MergedModel(together, vectors, tensor_wise(tuple(vectors.shapes)))


def widened(ids, more, side):
    """Add `more` columns of some token to token ids; return them and the mask of the original columns."""
    padding, there = torch.full((len(ids), more), 7), torch.ones_like(ids)
    both = (ids, padding) if side == "right" else (padding, ids)
    masks = (there, torch.zeros_like(padding)) if side == "right" else (torch.zeros_like(padding), there)
    return torch.cat(both, 1), torch.cat(masks, 1)


def rows_of(name, more=0, side="right"):
    """Make five padded rows; the last four tokens count, or all of the decoder's if there is an encoder."""
    torch.manual_seed(5)
    ids, spoken = (
        torch.randint(8, 40, (5, 7)),
        torch.randint(8, 40, (5, 7)),
    )  # equal lengths, so that a mix-up is detected
    ids, mask = widened(ids, more, side)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if name in ("t5", "bart"):
        inputs["decoder_input_ids"], counts = widened(spoken, more and more - 2, side)
        if side == "left":
            inputs["decoder_attention_mask"] = counts
        return TensorRows(inputs, positions=counts.bool())
    if name == "gpt2" and side == "left":
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0)  # they are learned, so they must begin at the row
    return TensorRows(inputs, positions=mask.bool() & (mask.cumsum(1) > 3))


def measured(model, rows, objective):
    """Compute the objective on all rows with stored targets, and its gradient in the coefficients."""
    kept = {}
    if objective.uses_targets:
        kept = compute_targets(model, {"a": rows}, target_settings(objective), 32, None)

    def loss_of(outputs, batch):
        return objective(outputs, batch, kept["a"](batch, outputs) if kept else None)

    coefficients, work = torch.full((len(model.grouping), 2), 0.3), {"a": [Work(rows.batch([4, 0, 2]), loss_of)]}
    step = execution_of(model).losses_and_gradient(coefficients, work, objective.layers)
    return step.losses["a"], step.gradient


# Positions of BART are learned, count from the left independently of the mask, and cannot be passed in.
@pytest.mark.parametrize(
    ("name", "side"), [*((name, "right") for name in MODELS), *((name, "left") for name in MODELS)][:-1]
)
def test_padding_changes_neither_loss_nor_gradient(name, side):
    model = model_of(name)
    for objective in OBJECTIVES.values():
        loss, gradient = measured(model, rows_of(name), objective)
        padded_loss, padded_gradient = measured(model, rows_of(name, 5, side), objective)
        assert loss > 0
        torch.testing.assert_close(padded_loss, loss, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(padded_gradient, gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max().item())


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_the_encoders_padding_is_not_the_decoders(name):
    model = model_of(name)
    rows = rows_of(name).batch([0, 1, 2])
    mask = torch.ones(3, 7, dtype=torch.int64)
    mask[:, 4:] = 0
    batch = rows._replace(inputs={**rows.inputs, "attention_mask": mask})
    objective = HiddenAlignment("auto", "mse")
    with execution_of(model).at(torch.full((len(model.grouping), 2), 0.3)) as merged:
        ((_, _, outputs),) = merged.outputs({"a": [batch]}, objective.layers)
    targets = model.expert("a")(batch.inputs, objective.layers)
    assert outputs.encoded == (True, False)
    encoder, decoder = (
        (one - two).square().mean(-1) for one, two in zip(outputs.hidden, targets.hidden, strict=True)
    )  # (3, 7)
    expected = (encoder[:, :4].mean() + decoder.mean()) / 2
    torch.testing.assert_close(objective(outputs, batch, targets), expected)
