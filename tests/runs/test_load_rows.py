"""Rows that cannot be used are refused when they are loaded, with their file, column or row."""

import pytest
from support.families import configuration, listing, save_rows, save_tokenizer
from support.mistakes import assert_answers, table

from adamerge.runs.build_model import open_experts
from adamerge.runs.load_rows import load_data
from adamerge.runs.read_config import merge_config
from adamerge.types import ConfigError

MISTAKES, mistake = table()


@mistake("mood: nowhere.jsonl: expected a file", "no file or folder has this path")
def rows_are_missing(folder, config):
    config["models"][0]["calibration"] = "nowhere.jsonl"


@mistake("mood: expected calibration rows")
def no_calibration(folder, config):
    for model in config["models"]:
        del model["calibration"]


@mistake("mood: mood.jsonl: the objective learns from labels", "a column 'label'", "the columns are text", "Entropy")
def no_labels_to_learn_from(folder, config):
    config["objective"] = "CrossEntropy"


@mistake("topic: topic.jsonl: expected a column 'sentence', but the columns are text")
def missing_column(folder, config):
    config["models"][1]["calibration"] = {"path": "topic.jsonl", "text": "sentence"}


@mistake("mood_test.jsonl: expected a column 'label'")
def missing_label_column(folder, config):
    save_rows(folder / "mood_test.jsonl", 4, 0)


@mistake("mood: mood.jsonl: expected at least 1 row, found none")
def no_rows(folder, config):
    (folder / "mood.jsonl").write_text("")


@mistake("mood: mood.jsonl: row 3 (line 3) is not JSON")
def broken_row(folder, config):
    lines = (folder / "mood.jsonl").read_text().splitlines()
    (folder / "mood.jsonl").write_text("\n".join([*lines[:2], '{"text": "the', *lines[2:]]))


@mistake("mood: mood.jsonl: row 2 (line 2): expected a text in the column 'text', found null")
def row_without_text(folder, config):
    lines = (folder / "mood.jsonl").read_text().splitlines()
    (folder / "mood.jsonl").write_text("\n".join([lines[0], '{"text": null}', *lines[1:]]))


@mistake("mood: mood.jsonl", "UTF-8")
def rows_in_another_encoding(folder, config):
    (folder / "mood.jsonl").write_bytes('{"text": "schön"}\n'.encode("latin-1"))


@mistake("topic: topic_test.jsonl: row 1 (line 1) has the label 7", "2 labels")
def label_out_of_range(folder, config):
    (folder / "topic_test.jsonl").write_text('{"text": "good", "label": 7}\n')


@mistake("topic: topic_test.jsonl: row 1 (line 1) has the label 'sunny'")
def unknown_label(folder, config):
    (folder / "topic_test.jsonl").write_text('{"text": "good", "label": "sunny"}\n')


@mistake("expected a tokenizer with a pad token", "tokenizer_config.json")
def no_pad_token(folder, config):
    save_tokenizer(folder / "base", pad=False)


@mistake("base: expected the tokenizer of BertForSequenceClassification beside the weights")
def no_tokenizer(folder, config):
    for file in (folder / "base").glob("tokenizer*"):
        file.unlink()


@mistake("topic: expected calibration rows (key calibration) of every task")
def fisher_as_centre_without_rows(folder, config):
    config["centre"] = "Fisher"
    del config["models"][1]["calibration"]


@pytest.mark.parametrize("name", MISTAKES)
def test_rows_that_cannot_be_used_are_refused(family, name):
    make, words = MISTAKES[name]
    config = configuration()
    make(family, config)
    before = listing(family)
    config = merge_config(config)
    experts = open_experts(config)
    with pytest.raises(ConfigError) as refused:
        load_data(config, experts)
    assert_answers(str(refused.value), words)
    assert listing(family) == before
