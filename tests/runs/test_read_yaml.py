"""What YAML lets one write and a configuration cannot hold is named with its line."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.complaints import HEAD, LINE, complaint

from adamerge.runs.layers import nested
from adamerge.runs.read_config import merge_layers
from adamerge.runs.read_yaml import read_yaml
from adamerge.runs.yaml_size import DEEPEST, MOST
from adamerge.types import ConfigError

LENGTH = 11  # keys and values in HEAD, and itself


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1: 2", "merge.yaml:5: expected a text as key, found '1', which YAML reads as int"),
        ("data: {1: 2}", "merge.yaml:5: expected a text as key, found '1'"),
        ("data: {null: 2, true: 1}", "merge.yaml:5: expected a text as key, found 'null', which YAML reads as null"),
        ("2001-01-01: 1", "merge.yaml:5: expected a text as key, found '2001-01-01', which YAML reads as timestamp"),
        ("? [a, b]\n: 3", "merge.yaml:5: expected a text as key, found a seq"),
        ("? {a: 1}\n: 3", "merge.yaml:5: expected a text as key, found a map"),
    ],
)
def test_keys_that_are_no_words(text, words):
    assert complaint(HEAD + text).startswith(words)


def test_aliases_that_multiply_are_refused():
    lines = ["a0: &a0 [1, 1]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60)]
    assert complaint("\n".join(lines)).startswith("merge.yaml:12: expected at most 10000 keys and values")


LIMITS = [  # a document just within a limit, one just beyond, and the error for it
    (lambda n: "b: [" + "1, " * n + "]", MOST - LENGTH - 2, "10000 keys and values"),
    (lambda n: "b: " + "[" * n + "]" * n, DEEPEST - 1, "64 levels"),
    (lambda n: "b: " + "{a: " * n + "1" + "}" * n, DEEPEST - 1, "64 levels"),
    (lambda n: "b: &x " + "[" * 9 + "]" * 9 + "\nc: " + "[" * (n - 9) + "*x" + "]" * (n - 9), DEEPEST - 1, "64 levels"),
]


@pytest.mark.parametrize(("make", "most", "words"), LIMITS, ids=["values", "lists", "mappings", "aliases"])
def test_sizes_and_levels_have_a_limit(make, most, words):
    assert words not in complaint(HEAD + make(most))
    last = LINE + make(most).count("\n")
    assert complaint(HEAD + make(most + 1)).startswith(f"merge.yaml:{last}: expected at most {words}, found more")


def test_an_alias_within_its_own_value_is_named():
    assert complaint(HEAD + "a: &a\n  - [*a]").startswith("merge.yaml:6: the alias *a refers to a value that contains")


@pytest.mark.parametrize("value", ["2001-99-99", "!!int abc", "!!binary é", "0x_", "9" * 5000, "!!set [a]", "!x y"])
def test_a_value_that_yaml_cannot_build_is_named_with_its_line(value):
    said = complaint(HEAD + f"seed_everything: {value}")
    assert "line 5" in said or said.startswith("merge.yaml:5: ")
    assert len(said) < 300


def test_a_number_that_yaml_reads_as_another_one_stays_a_text():
    for text, other in {"010": 8, "007": 7, "1:30": 90, "-1:30": -90, "1:30.5": 90.5, "00": 0}.items():
        assert yaml.safe_load(text) == other
        assert read_yaml(f"a: {text}", "merge.yaml").content == {"a": text}
    for text in "0 -3 +4 1_000 0x1F 0b11 1.5 -1.5 1. .5 1.5e+3 .inf -.inf 12 yes ~ 2001-01-01".split():
        assert read_yaml(f"a: {text}", "merge.yaml").content == {"a": yaml.safe_load(text)}, text
    for text in ("1e3", "1E5", "1.0e5", "-.5", ".5e3", "12e+3"):
        assert read_yaml(f"a: {text}", "merge.yaml").content == {"a": float(text)}


def test_a_long_value_is_cut_in_the_answer():
    said = complaint(HEAD + f"init: {'x' * 100_000}\n{'k' * 900}: 1")
    assert max(map(len, said.splitlines())) < 1200
    assert "(100000 characters)" in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"base_model: [1,\nmodels: 2", "bad.yaml:2: invalid YAML: "),
        (b"init: 0\nbase_model: b\xe4se", "bad.yaml:2: expected text in UTF-8: "),
        (b"---\ninit: 0\n---\ninit: 1", "bad.yaml:3: expected one document, found another one. Remove the line"),
        (b"a: &a [*a]", "bad.yaml:1: the alias *a "),
        (b"- 1\n- 2", "bad.yaml: expected keys and values"),
        (b"", "bad.yaml: expected keys and values"),
        (b"data: {rows: 1}\ninit: 0\ndata: {rows: 2}", "bad.yaml:3: the key data is written twice in one mapping"),
        (b"data: {rows: 1, rows: 2}", "bad.yaml:1: the key rows is written twice"),
    ],
)  # fmt: skip
def test_files_that_are_no_configuration(text, words):
    with pytest.raises(ConfigError, match="bad") as error:
        merge_layers([read_yaml(text, "bad.yaml")])
    assert any(line.startswith(words) for line in str(error.value).splitlines())


def test_places_follow_dotted_keys():
    document = nested(read_yaml("data.rows: 4", "merge.yaml"))
    assert document.places["data", "rows"].source == "merge.yaml:1"


SIGNS = list(" \n\t\r:-,[]{}#'\"%@`!|>?<=\\ab1.~é\ufeff\x85\x07😀")
WORDS = [*SIGNS, "\n  ", "\n- ", "\na: ", "b: [", "'c': {", "1e-3", "---\n"]


@given(st.lists(st.sampled_from(WORDS), max_size=12).map("".join))
def test_what_libyaml_reads_is_what_pyyaml_reads(text):
    """libyaml takes tabs after values and comments that touch | and >; texts with such characters are none of its."""
    try:
        expected = yaml.load("a: " + text, yaml.SafeLoader)
    except (yaml.YAMLError, ValueError):
        with pytest.raises(ConfigError):
            read_yaml("a: " + text, "merge.yaml")
    else:
        found = read_yaml("a: " + text, "merge.yaml")
        assert found.repeated or repr(found.content).replace("0.001", "'1e-3'") == repr(expected)
