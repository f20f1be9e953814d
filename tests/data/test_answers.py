"""What makes no difference between two answers, in any script."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamerge.data.answers import named, normalised, words

SCRIPTS = {
    "Latin": ("Das Café, gestern!", ["das", "café", "gestern"]),
    "decomposed": ("cafe\u0301", ["café"]),
    "Cyrillic": ("Привет, мир", ["привет", "мир"]),
    "Greek": ("Καλημέρα κόσμε", ["καλημέρα", "κόσμε"]),
    "Arabic": ("مرحبا بالعالم", ["مرحبا", "بالعالم"]),
    "Hebrew": ("שלום עולם", ["שלום", "עולם"]),
    "Devanagari": ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
    "Tamil": ("வணக்கம் உலகம்", ["வணக்கம்", "உலகம்"]),
    "Hangul": ("안녕 세계", ["안녕", "세계"]),
    "Chinese": ("今天,好", ["今", "天", "好"]),
    "Japanese": ("すし を", ["す", "し", "を"]),
    "Thai": ("ไทย", ["ไ", "ท", "ย"]),
    "symbols": ("1 + 2 = €3", ["1", "+", "2", "=", "€3"]),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_has_words(script):
    text, expected = SCRIPTS[script]
    assert words(text) == expected


@given(st.text(st.characters(categories=["L", "N"]), min_size=1))
def test_a_text_of_letters_is_never_without_words(text):
    assert words(text)


@given(st.text(max_size=30), st.sets(st.sampled_from(["strip", "case", "punctuation"])))
def test_normalised_answers_stay_as_they_are(text, how):
    once = normalised(text, sorted(how))
    assert normalised(once, sorted(how)).strip() == once.strip()


@pytest.mark.parametrize(
    ("one", "other", "how"),
    [
        (" yes\n", "yes", ["strip"]),
        ("YES", "yes", ["case"]),
        ("STRASSE", "straße", ["case"]),
        ("yes.", "yes", ["punctuation"]),
        ("card  payment", "card-payment!", ["punctuation"]),
        ("(-5).", "-5", ["punctuation"]),
    ],
)
def test_only_what_is_named_makes_no_difference(one, other, how):
    assert normalised(one, how) == normalised(other, how)
    assert normalised(one, []) != normalised(other, [])


@pytest.mark.parametrize(("one", "other"), [("-5", "5"), ("3.5", "35"), ("1.5", "1 5")])
def test_numbers_keep_their_sign_and_point(one, other):
    assert normalised(one, ["strip", "case", "punctuation"]) != normalised(other, ["strip", "case", "punctuation"])


WORD = st.text(string.ascii_lowercase, min_size=1, max_size=4)


@given(st.lists(WORD, min_size=2, max_size=4, unique=True), WORD, st.data())
def test_an_answer_names_the_choice_that_stands_first_as_a_word(choices, other, data):
    said = data.draw(st.lists(st.sampled_from([*choices, other]), max_size=5))
    first = next((one for one in said if one in choices), None)
    assert named(" ".join(said), choices, []) == (None if first is None else choices.index(first))
