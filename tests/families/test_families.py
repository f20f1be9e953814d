"""Every family of the table: the probe's verdict, every row of a batch answered as alone, and the exported merge."""

import copy
import random

import pytest
import torch
import transformers
from families.document import FILE, text
from families.table import TABLE
from support.families import save_tokenizer
from transformers import AutoTokenizer

from adamerge.calibration.probe import settle
from adamerge.calibration.pseudo_answers import answer
from adamerge.data.rows import TensorRows
from adamerge.data.settings import PseudoAnswers
from adamerge.data.text_rows import Prompts, TextRows
from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.experts.from_modules import from_modules
from adamerge.experts.inspect_weights import inspect_weights
from adamerge.merging.execution import execution_of
from adamerge.merging.grouping import task_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.results.export import export
from adamerge.runs.settle_rows import asked, asked_of_copy

LENGTHS = (6, 24, 11, 24, 6, 11)
"""Tokens of the rows; no two neighbours are of one length."""
LIMIT = 64
BOTH = [pytest.param(family, id=family.architecture) for family in TABLE]
UNUSUAL = [  # and every eighth of the others, as each takes half a second
    pytest.param(family, id=family.architecture)
    for place, family in enumerate(TABLE)
    if family.batches != "right" or family.state or place % 8 == 0
]
SPEAKERS = [pytest.param(family, id=family.architecture) for family in TABLE if family.prompts]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def near(family):
    """A base, and an expert near it."""
    base = family.build(0)
    expert = copy.deepcopy(base)
    with torch.no_grad():
        for parameter in expert.parameters():
            parameter.mul_(1.01)
    return base, expert


def model_of(family):
    """A family's expert, plain and over its base."""
    base, expert = near(family)
    experts = from_modules(base, {"a": expert})
    vectors = task_vectors(experts, inspect_weights(experts).changed)
    return expert, MergedModel(experts, vectors, task_wise(tuple(vectors.shapes)))


def drawn(count):
    """Token ids of random rows, as the tokenizer of the tests would encode them."""
    draw = random.Random(7)
    return [[0, *(draw.randrange(4, 40) for _ in range(count(n) - 2)), 1] for n in LENGTHS]


def rows_of(family, kind, tokenizer):
    """Rows for a family's model."""
    if family.images:
        return TensorRows({"pixel_values": torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(7))})
    texts = drawn(lambda length: length)
    if kind.encoder_decoder and kind.language_model:
        targets = [[kind.decoder_start, *row] for row in drawn(lambda length: length // 2)]
        return TextRows(texts, tokenizer, per_token=True, targets=targets)
    per_token = kind.language_model or "ForTokenClassification" in family.architecture
    return TextRows(texts, tokenizer, per_token=per_token)


def prompts_of(kind, tokenizer):
    texts = [row[:-1] for row in drawn(lambda length: length)]
    start = kind.decoder_start if kind.encoder_decoder else None
    return Prompts(texts, texts, tokenizer, start=start, completion_only=False)


def word(padding):
    """A padding in the table's word."""
    if padding.share != "any":
        return padding.share
    return str(padding.length or padding.side)


@torch.no_grad()
def plain(expert, inputs):
    """Logits of one row, by a fresh module of transformers without our code; FNet is the one without a mask."""
    torch.manual_seed(0)
    return copy.deepcopy(expert)(**inputs).logits[0]


def alone(rows, i):
    """The inputs of one row, without any padding, or padded to the one length of all."""
    inputs = dict(rows.batch([i]).inputs)
    if rows.padding.length is not None:
        del inputs["attention_mask"]
    else:
        assert bool(inputs.get("attention_mask", torch.ones(1)).all())
    return inputs


@pytest.mark.parametrize("family", BOTH)
def test_every_row_of_a_batch_is_answered_as_alone(family, tokenizer):
    expert, model = model_of(family)
    question = asked(model, model.experts.tasks["a"])
    rows = settle(question, rows_of(family, model.experts.tasks["a"].kind, tokenizer), LIMIT).rows
    assert word(rows.padding) == family.batches
    assert ("changes itself" if question.changed() else "random" if question.random() else "") == family.state
    seen = []
    with execution_of(model).at(torch.ones(1, 1)) as merged:  # the merge is the expert, but for rounding
        both = [*merged.outputs({"a": rows.batches(8)})]
    for batch, answers in zip(rows.batches(8), both, strict=True):
        outputs = model.expert("a")(batch.inputs)
        for place, row in enumerate(batch.rows.tolist()):
            expected = plain(expert, alone(rows, row))
            counts = slice(None) if batch.positions is None else batch.positions[place]
            own = slice(None) if batch.positions is None else rows.batch([row]).positions[0]
            scale = expected.abs().max().item()
            torch.testing.assert_close(outputs.logits[place][counts], expected[own], rtol=0, atol=1e-4 * scale)
            torch.testing.assert_close(answers.outputs.logits[place][counts], expected[own], rtol=0, atol=3e-3 * scale)
            seen.append(row)
    assert sorted(seen) == list(range(6))
    if family.batches == "right":
        assert len(both) == 1


@pytest.mark.parametrize("family", UNUSUAL)
def test_check_asks_a_random_copy_and_finds_the_same(family, tokenizer):
    base, _ = near(family)
    expert = from_modules(base, {"a": base}).tasks["a"]
    rows = rows_of(family, expert.kind, tokenizer)
    verdict = settle(asked_of_copy(expert, rows), rows, LIMIT)
    assert word(verdict.rows.padding) == family.batches
    assert ("changes itself" in str(verdict.notes)) == (family.state == "changes itself")
    assert not verdict.notes or family.batches != "right" or family.state


@pytest.mark.parametrize("family", SPEAKERS)
def test_every_prompt_of_a_batch_is_answered_as_alone(family, tokenizer):
    expert, model = model_of(family)
    kind = model.experts.tasks["a"].kind
    prompts = settle(asked(model, model.experts.tasks["a"]), prompts_of(kind, tokenizer), LIMIT).rows
    assert word(prompts.padding) == family.prompts
    answers = answer(model, {"a": prompts}, PseudoAnswers(max_new_tokens=4), size=32)["a"]
    for row in range(len(prompts)):
        ids = prompts.batch([row]).inputs["input_ids"]
        how = transformers.GenerationConfig(
            max_new_tokens=4, pad_token_id=2, eos_token_id=1, decoder_start_token_id=kind.decoder_start
        )
        fresh = copy.deepcopy(expert)
        fresh.generation_config = how
        generated = fresh.generate(input_ids=ids, generation_config=how)[0].tolist()
        found = answers.batch([row]).inputs
        if kind.encoder_decoder:
            # the decoder reads all but the last token of an answer
            assert found["decoder_input_ids"][0].tolist() == until_the_end(generated, 1)[:-1]
        else:
            assert found["input_ids"][0].tolist() == ids[0].tolist() + until_the_end(generated[ids.shape[1] :], 0)


def until_the_end(tokens, start):
    end = next((place + 1 for place in range(start, len(tokens)) if tokens[place] == 1), len(tokens))
    return tokens[:end]


def test_the_document_is_the_table():
    assert FILE.read_text(encoding="utf-8").startswith(text())


def naive(family, places, head):
    """The merge as its formula says, of what transformers loads: θ₀ + 0.3·τₐ + 0.5·τᵦ, with the expert's own head."""
    cls = getattr(transformers, family.architecture)
    base, first, second = (cls.from_pretrained(place).eval() for place in places)
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            one, two = first.get_parameter(name), second.get_parameter(name)
            own = one - parameter if name in head else 0.3 * (one - parameter) + 0.5 * (two - parameter)
            parameter.add_(own)
    return base


@pytest.mark.parametrize("family", UNUSUAL)
def test_the_exported_merge_loads_and_is_the_naive_one(family, tokenizer, tmp_path):
    models = [*near(family), family.build(1)]
    places = [tmp_path / name for name in ("base", "a", "b")]
    for model, place in zip(models, places, strict=True):
        model.save_pretrained(place)
    base, *others = (open_checkpoint(str(place)) for place in places)
    experts = from_checkpoints(base, dict(zip("ab", others, strict=True)))
    vectors = task_vectors(experts, inspect_weights(experts).changed)
    merged = MergedModel(experts, vectors, task_wise(tuple(vectors.shapes)))
    done = export(merged, torch.tensor([[0.3, 0.5]]), tmp_path / "merged")
    expert = experts.tasks["a"]
    loaded = getattr(transformers, family.architecture).from_pretrained(done.checkpoints["a"]).eval()
    inputs = alone(rows_of(family, expert.kind, tokenizer), 0)
    expected = plain(naive(family, places, expert.head), inputs)
    found = plain(loaded, inputs)
    assert not torch.allclose(plain(models[1], inputs), expected, rtol=1e-2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
