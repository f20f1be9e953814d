"""A key in a wrong place is sent to where it belongs, as the types of the configuration say."""

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.complaints import HEAD, complaint
from torch.optim import Optimizer

from adamerge.objectives import Objective
from adamerge.optim.feasible_sets import FeasibleSet
from adamerge.runs.class_names import known_classes
from adamerge.runs.config import MergeConfig
from adamerge.runs.elsewhere import elsewhere
from adamerge.runs.similar_words import nearest
from adamerge.transforms import Transform


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("lower", "lower of Box under feasible.init_args?"),
        ("radius", "radius of Simplex under feasible.init_args?"),
        ("learning_rate", "lr of "),
        ("wd", "weight_decay of "),
        ("topk", "top_k of SoftFrankWolfe under optimizer.init_args?"),
        ("gamma", "of "),
        ("pseudo_answer", "pseudo_answers under data?"),
        ("metric", "metric under models.evaluation?"),
        ("limit", "limit under memory?"),
        ("patience", "patience under watch, or of ReduceLROnPlateau under lr_scheduler.init_args?"),
    ],
)
def test_a_key_is_sent_to_where_it_belongs(key, words):
    assert f"{key}: there is no such key. Did you mean {'gamma ' if key == 'gamma' else ''}{words}" in complaint(
        f"{HEAD}{key}: 1"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("base: b", "Did you mean base_model?"),
        ("objective: {class_path: Entropy, init_args: {temp: 1}}", "Did you mean temperature?"),
        ("trainer: {steps: 4}", "Did you mean max_steps?"),
        ("data: {steps: 4}", "Write trainer: {max_steps: 60}."),
        ("feasible: {class_path: Box, init_args: {mid: 1}}", ""),
        ("slises: []", ""),
        ("int8_mask: true", "Remove it: it saves memory in mergekit alone"),
        ("slices: []", "Write models: a list of {model: …}; base and experts have the same layers here."),
        ("normalize: true", "Remove it: method: average divides weights by their sum, other methods do not."),
        ("parameters: {normalize: true}", "Remove it: method: average divides weights by their sum"),
    ],
)
def test_a_near_key_is_preferred_to_a_distant_one_and_none_to_a_wrong_one(text, words):
    first = complaint(f"models: [{{model: mood}}]\n{text}").splitlines()[0]
    assert f"there is no such key.{words and f' {words}'}" in first
    assert words or first.endswith("there is no such key.")


@pytest.mark.parametrize(
    ("section", "key", "words"),
    [
        ("trainer", "lr", "Did you mean lr of "),
        ("data", "learning_rate", "Did you mean lr of "),
        ("watch", "max_steps", "Did you mean max_steps under trainer?"),
        ("regulariser", "patience", "Did you mean patience under watch, or of "),
        ("trainer", "batch_size", "Did you mean batch_size under data?"),
        ("parameters", "lower", "Did you mean lower of Box under feasible.init_args?"),
        ("data", "method", "method belongs at the top level, beside models."),
        ("memory", "seed", "Write seed_everything."),
        ("trainer", "max_step", "Did you mean max_steps?"),
        ("models.0", "centre", "centre belongs at the top level, beside models."),
    ],
)
def test_a_key_in_a_wrong_section_is_sent_to_where_it_belongs(section, key, words):
    assert f"{section}.{key}: there is no such key. {words}" in complaint(f"{HEAD}{section}.{key}: 1")


def test_a_model_that_is_a_text_is_refused_by_the_key_it_lacks():
    said = complaint("base_model: base\nmodels: [mood, {model: topic, lr: 1}]").splitlines()
    assert said[0].endswith("found 'mood'. Write {model: 'mood'}.")
    assert "models.1.lr: there is no such key. Did you mean lr of " in said[1]


FAMILIES = [
    (family, key)
    for family, key in (
        (Objective, "objective"),
        (FeasibleSet, "feasible"),
        (Transform, "task_vectors"),
        (Optimizer, "optimizer"),
    )
]
ARGUMENTS = sorted(
    {
        (name, key)
        for family, key in FAMILIES
        for cls in known_classes(family).values()
        if cls.__module__.partition(".")[0] in ("adamerge", "torch")
        for name in list(inspect.signature(cls).parameters)[1 if family is Optimizer else 0 :]
        if name not in inspect.signature(MergeConfig).parameters
    }
)


@given(st.sampled_from(ARGUMENTS))
def test_every_argument_of_a_class_is_sent_to_the_settings_that_hold_it(argument):
    name, key = argument
    said = elsewhere(MergeConfig, name)
    assert said.startswith(f" Did you mean {name} ")
    assert f"{key}.init_args" in said


def test_what_is_similar_to_nothing_is_sent_nowhere():
    assert elsewhere(MergeConfig, "zzzzzz") == ""


@given(st.sampled_from(["head", "base", "density", "grouping"]), st.data())
def test_two_letters_that_changed_places_are_one_mistake(word, data):
    at = data.draw(st.integers(0, len(word) - 2))
    typed = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    others = ["shared", word, "weights", "epoch"]
    assert nearest(typed, others) == f" Did you mean {word}?"


def test_a_swap_in_parameters_is_read_as_the_key_it_is():
    assert "parameters.haed: there is no such key. Did you mean head?" in complaint(HEAD + "parameters: {haed: [a]}")
