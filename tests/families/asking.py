"""Put the families of the table before the probe."""

import copy
import random
from functools import partial

import torch
from support.families import save_tokenizer
from transformers import AutoTokenizer

from adamerge.calibration.probe import Model, settle
from adamerge.data.rows import TensorRows
from adamerge.data.text_rows import Prompts, TextRows
from adamerge.experts.from_modules import from_modules
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.merging.grouping import task_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.runs.settle_rows import asked

LENGTHS = (6, 24, 11, 24, 6, 11)
"""Tokens of the rows, with the first and last token that the tokenizer of the tests adds."""


def tokenizer(folder):
    save_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def token_rows(tokenizer, kind, draw):
    """Rows of random words of several lengths."""
    whole = [[0, *(draw.randrange(4, 40) for _ in range(n - 2)), 1] for n in LENGTHS]
    if kind.encoder_decoder and kind.language_model:
        targets = [[kind.decoder_start, *(draw.randrange(4, 40) for _ in range(n // 2))] for n in LENGTHS]
        return TextRows(whole, tokenizer, per_token=True, targets=targets)
    return whole


def rows_of(family, expert, tokenizer):
    """Rows for a family's model."""
    draw = random.Random(7)
    if family.images:
        return TensorRows({"pixel_values": torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(7))})
    found = token_rows(tokenizer, expert.kind, draw)
    if isinstance(found, TextRows):
        return found
    per_token = "ForTokenClassification" in family.architecture or expert.kind.language_model
    return TextRows(found, tokenizer, per_token=per_token)


def model_of(family):
    """The family's expert over a base near it."""
    base, expert = family.build(0), family.build(0)
    with torch.no_grad():
        for parameter in expert.parameters():
            parameter.mul_(1.01)
    experts = from_modules(base, {"a": expert})
    vectors = task_vectors(experts, inspect_weights(experts).changed)
    return MergedModel(experts, vectors, task_wise(tuple(vectors.shapes))), expert


def word(padding):
    """A padding in a word of the table."""
    if padding.share != "any":
        return padding.share
    return str(padding.length) if padding.length else padding.side


def found(family, tokenizer):
    """The verdict on a family: batches, prompts, state."""
    model, _ = model_of(family)
    expert = model.experts.tasks["a"]
    question = asked(model, expert)
    rows = rows_of(family, expert, tokenizer)
    verdict = settle(question, rows, 64)
    prompts = ""
    if family.prompts:
        start = expert.kind.decoder_start if expert.kind.encoder_decoder else None
        given = Prompts(rows._encodings, rows._encodings, tokenizer, start=start, completion_only=False)
        prompts = word(settle(question, given, 64).rows.padding)
    state = "changes itself" if question.changed() else "random" if question.random() else ""
    return word(verdict.rows.padding), prompts, state, verdict.notes if "could not" in str(verdict.notes) else ""
