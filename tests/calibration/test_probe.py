"""The probe on models whose treatment of rows is known, and what it says of each."""

import pytest
import torch
from support.families import save_tokenizer
from transformers import AutoTokenizer

from adamerge.calibration.probe import Model, ladder, settle
from adamerge.data.padding import Padding
from adamerge.data.rows import Subset, TensorRows
from adamerge.data.text_rows import Prompts, TextRows


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    texts = [[0, *range(first, first + n), 1] for first, n in ((4, 2), (5, 7), (6, 4), (12, 7), (4, 2))]
    return TextRows(texts, AutoTokenizer.from_pretrained(folder), per_token=False)


def refuses_batches(x):
    if len(x["input_ids"]) > 1:
        raise ValueError("one row at a time")
    return x["input_ids"].sum(1, keepdim=True)


def refuses_short_rows(x):
    if x["input_ids"].shape[1] < 8:
        raise ValueError("at least 8 tokens")
    return total(x)


def total(x):
    return (x["input_ids"] * x["attention_mask"]).sum(1, keepdim=True).float()


KINDS = {
    "reads the mask": (total, True, Padding(), ""),
    "reads its last position": (lambda x: x["input_ids"][:, -1:].float(), True, Padding("left"), "on the left"),
    "reads padding, takes no mask": (
        lambda x: x["input_ids"].cumsum(1),
        False,
        Padding(length=16),
        "padded to 16 tokens",
    ),
    "reads padding, takes a mask": (
        lambda x: x["input_ids"].float().std(1, keepdim=True),
        True,
        Padding(share="equal"),
        "rows of one length share",
    ),
    "reads padding in one row of five": (
        lambda x: (
            total(x) + ((1 - x["attention_mask"]) * (x["input_ids"] == 6).any(1, keepdim=True)).sum(1, keepdim=True)
        ),
        True,
        Padding(share="equal"),
        "rows of one length share",
    ),
    "reads other rows": (
        lambda x: total(x) - total(x).mean(),
        True,
        Padding(share="none"),
        "a forward pass of its own",
    ),
    "reads short rows not": (refuses_short_rows, True, Padding(length=16), "cannot be run on short rows: every row is"),
    "reads other rows, and suppresses a class": (
        lambda x: torch.cat([total(x) - total(x).mean(), torch.full_like(total(x), -1e9)], 1),
        True,
        Padding(share="none"),
        "a forward pass of its own",
    ),
    "refuses batches": (refuses_batches, True, Padding(share="none"), "a forward pass of its own"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_padding_under_which_rows_are_answered_as_alone(kind, rows):
    logits, reads_mask, padding, note = KINDS[kind]
    model = Model("Odd", logits, lambda inputs, how: None, lambda: [], reads_mask=reads_mask)
    verdict = settle(model, rows, 16)
    assert verdict.rows.padding == padding
    assert note in " ".join(verdict.notes)
    assert bool(note) == bool(verdict.notes)
    seen = []
    for batch in verdict.rows.batches(2):
        seen += batch.rows.tolist()
        for answer, row in zip(logits(batch.inputs), batch.rows.tolist(), strict=True):
            alone = logits(verdict.rows.batch([row]).inputs)[0]
            torch.testing.assert_close(answer[: len(alone)], alone)
    assert sorted(seen) == list(range(len(rows)))


def test_where_no_rows_share_a_pass_short_and_long_ones_are_asked_still(rows):
    model = Model("Odd", refuses_short_rows, lambda inputs, how: None, lambda: [])
    assert settle(model, rows, 16, size=1).rows.padding == Padding(length=16)


def test_a_class_that_cannot_be_asked_gets_one_row_at_a_time_and_a_sentence(rows):
    def broken(inputs):
        raise RuntimeError("wants something else\nof more lines")

    verdict = settle(Model("Odd", broken, broken, lambda: []), rows, 16)
    assert verdict.rows.padding.share == "none"
    assert verdict.notes == (
        "Odd could not be asked whether its answer to a row depends on the rows beside it (wants something else): "
        "every row has a forward pass of its own.",
    )


def test_what_changes_and_random_numbers_are_said(rows):
    model = Model("Odd", total, lambda inputs, how: None, lambda: ["a.x", "b.y", "c.z"], lambda: True)
    assert settle(model, rows, 16).notes == (
        "Odd changes itself in a forward pass (a.x, b.y and 1 more): every pass starts from the model as it was "
        "loaded.",
        "Odd draws random numbers in a forward pass: every pass draws the same ones.",
    )


def test_rows_that_are_not_padded_share_a_pass_or_none():
    rows = TensorRows({"x": torch.randn(4, 3)})
    assert ladder(rows, reads_mask=True, limit=None) == [Padding(), Padding(share="none")]
    model = Model("Odd", lambda x: x["x"] - x["x"].mean(), lambda inputs, how: None, lambda: [])
    assert settle(model, rows).rows.padding.share == "none"


@pytest.mark.parametrize(("lengths", "padding"), [((9, 4, 5, 6), "equal"), ((4, 4, 4, 9), "none"), ((4, 4), "any")])
def test_what_shows_beside_two_other_rows_alone_counts_where_so_many_share_a_pass(lengths, padding, rows):
    def crowded(x):
        return total(x) + (len(x["input_ids"]) > 2) * 0.1

    model = Model("Odd", crowded, lambda inputs, how: None, lambda: [])
    own = TextRows([[0, *range(4, 2 + n), 1] for n in lengths], rows.tokenizer, per_token=False)
    assert settle(model, own, 16).rows.padding.share == padding
    assert settle(model, own, 16, size=2).rows.padding == Padding()


def test_a_step_uses_its_rows_whatever_the_padding(rows):
    own = Subset(rows, [4, 2, 1, 3])
    for padding in (Padding(), Padding("left"), Padding(share="equal"), Padding(share="none"), Padding(length=20)):
        found = [i for batch in own.under(padding).batches(2, [3, 0, 1]) for i in batch.rows.tolist()]
        assert sorted(found) == [0, 1, 3]
    together = [batch.inputs["input_ids"] for batch in own.under(Padding(share="equal")).batches(8)]
    assert all(bool((ids != 2).all()) for ids in together)  # 2 is the padding


def test_a_model_that_answers_and_cannot_generate_is_refused(rows):
    """Such as a Llama whose sliding_window is a list: only passes with a cache read it."""

    def generate(inputs, how):
        raise TypeError("not a number")

    prompts = Prompts([[0, 4, 5], [0, 4]], ["a", "b"], rows.tokenizer, start=None, completion_only=False)
    odd = Model("Odd", lambda inputs: inputs["input_ids"].float()[..., None], generate, list, reads_mask=True)
    problem = settle(odd, prompts).problem
    assert problem.startswith("Odd cannot generate an answer to a row alone (TypeError: not a number). Correct what")
