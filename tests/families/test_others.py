"""A sample of what `python tests/families/sweep.py` prints for all classes: check, learn, export, old names."""

import pytest
import torch
from families.namings import FORMER, OWN
from families.others import OTHERS
from families.sweep import checks, learns, merged, merges, renamed, save_pool
from families.table import TABLE

SAMPLE = (
    "GptOssForCausalLM", "Wav2Vec2ForCTC", "MarianMTModel", "BertForQuestionAnswering", "RobertaForMultipleChoice",
    "LlamaForSequenceClassification (reward model)", "BertModel (sentence encoder)",
    "RobertaForSequenceClassification (multi-label)", "BertForSequenceClassification (regression)",
)  # fmt: skip
SPECIAL = ("WavLMForCTC", "RobertaForMultipleChoice", "SegformerForSemanticSegmentation")
MEMBERS = {member.title: member for member in OTHERS}


@pytest.mark.parametrize("title", SAMPLE)
def test_a_class_learns_or_is_refused_in_words_and_merges_like_plain_transformers(title, tmp_path):
    member = MEMBERS[title]
    save_pool(member, tmp_path)
    found = learns(member, tmp_path)
    if member.says:
        assert member.says in found
        assert "data-free method" in found
    else:
        assert found == "learns"
    merges(member, tmp_path)


@pytest.mark.parametrize("title", SPECIAL)
def test_check_says_what_still_works_and_it_does(title, tmp_path):
    member = MEMBERS[title]
    save_pool(member, tmp_path)
    printed = checks(member, tmp_path)
    assert member.says in printed
    assert "data-free method" in printed
    assert "no problem found" in checks(member, tmp_path, rows=False)


def test_classifiers_of_sound_learn_from_tensors(tmp_path):
    member = MEMBERS["Wav2Vec2ForSequenceClassification"]
    save_pool(member, tmp_path)
    rows = {"input_values": torch.randn(6, 64, generator=torch.Generator().manual_seed(0))}
    result, _ = merged(tmp_path, rows, method="adamerging", data={"held_out": 0.34, "batch_size": 2})
    assert result.moved


@pytest.mark.parametrize(
    ("title", "kind"), [("BertForQuestionAnswering", FORMER), ("LlavaForConditionalGeneration", OWN)]
)
def test_files_in_another_naming_merge_alike(title, kind, tmp_path):
    member = MEMBERS[title]
    renamed(member, tmp_path, save_pool(member, tmp_path), kind)
    merges(member, tmp_path)


def test_no_class_is_in_the_tables_twice():
    titles = [*MEMBERS, *(family.architecture for family in TABLE)]
    twice = {title for title in titles if titles.count(title) > 1}
    assert twice <= {"MarianMTModel"}  # in the first table for its prompts
