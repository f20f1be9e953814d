"""Labels of a column are read by one rule, and refused by their row where it does not hold."""

import datasets
import pytest
from support.families import build

from adamerge.data.labels import label_indices
from adamerge.data.records import Arrow, Listed
from adamerge.data.settings import DataSource
from adamerge.data.tables import Table
from adamerge.experts.model_kind import kind_of
from adamerge.types import ConfigError

ANIMALS = {0: "zebra", 1: "ant"}
UNNAMED = {i: f"LABEL_{i}" for i in range(11)}
STARS = {0: "1", 1: "2", 2: "3"}
DIGITS = {i: str(i) for i in range(4)}
SPACED = {0: "Sci/Tech", 1: "World  news"}
CASES = {0: "Positive", 1: "positive"}
TWICE = {0: "other", 1: "good", 2: "other"}
FOLDERS = "folders"
"""Where class names stand that are a folder's sub-folders: the values are names."""


def labelled(labels, own=None, kind="classes"):
    if own is None or kind == FOLDERS:
        records = Listed({"label": labels}, None, {"label": own} if own else {})
    else:
        data = datasets.Dataset.from_dict({"label": labels}).cast_column("label", datasets.ClassLabel(names=own))
        records = Arrow(data)
    return Table(records, DataSource("rows"), "mood")


@pytest.mark.parametrize(
    ("labels", "classes", "expected", "rule"),
    [
        (["zebra", "ant"], ANIMALS, [0, 1], "class names: zebra = 0, ant = 1"),
        ([" Zebra", "ANT"], ANIMALS, [0, 1], "class names, without regard to case and spaces"),
        (["world news", "sci/tech"], SPACED, [1, 0], "class names, without regard to case and spaces"),
        (["positive", "Positive"], CASES, [1, 0], "class names:"),
        (["LABEL_10", "LABEL_2"], UNNAMED, [10, 2], "class names"),
        (["10", "2"], UNNAMED, [10, 2], "indices of classes: 2 = LABEL_2, 10 = LABEL_10"),
        (["1", 0], ANIMALS, [1, 0], "indices of classes"),
        ([1, 0], ANIMALS, [1, 0], "indices of classes: 0 = zebra, 1 = ant"),
        (["1", "2", 1], STARS, [0, 1, 0], "class names"),
        (["2", "3"], STARS, [1, 2], "class names"),
        ([1, 3], STARS, [0, 2], "class names"),  # 3 is no index
        ([0, 2], STARS, [0, 2], "indices of classes"),  # 0 is no name
        ([3, 0], DIGITS, [3, 0], "class names"),  # the same either way
        (["good"], TWICE, [1], "class names"),
        ([2, 0], TWICE, [2, 0], "indices of classes"),
        ([0, 1], {}, [0, 1], "indices of classes: 0 = ?, 1 = ?"),
    ],
)
def test_one_rule_reads_the_whole_column(labels, classes, expected, rule):
    found, note = label_indices(labelled(labels), classes, len(classes) or 2)
    assert found == expected
    assert note.startswith(f"labels in 'label' are read as {rule}")


@pytest.mark.parametrize(
    ("labels", "classes", "words"),
    [
        (
            ["zebra", "cat"],
            ANIMALS,
            r"row 2 has the label 'cat', which is none of the expert's 2 labels \(zebra, ant\)",
        ),
        (["0", "2"], ANIMALS, "row 2 has the label '2'"),
        (["0", "1"], STARS, "row 1 has the label '0'"),
        (["zebra", 1], ANIMALS, "row 2 has the label 1, an index, but other rows have class names"),
        ([1, 2], STARS, "integers that are both names and indices of classes, which differ"),
        ([0.0, 1.0], ANIMALS, "row 1 has the label 0.0"),
        (["1.0"], ANIMALS, "row 1 has the label '1.0'"),
        (["01"], ANIMALS, "row 1 has the label '01'"),
        ([True, False], ANIMALS, "row 1 has the label True"),
        ([0, None, None], ANIMALS, "row 2 has the label None.* 2 of 3 rows have no label"),
        (["ant", ""], ANIMALS, "row 2 has the label ''.* 1 of 2 rows have no label"),
        ([0, -1], ANIMALS, "row 2 has the label -1"),
        ([[0]], ANIMALS, r"row 1 has the label \[0\]"),
        (["good", "other"], TWICE, r"row 2 has the label 'other', but several classes \(\[0, 2\]\) have this name"),
        (["POSITIVE"], CASES, "row 1 has the label 'POSITIVE', but several classes"),
        ([2**63], ANIMALS, "row 1 has the label 9223372036854775808"),
    ],
)
def test_a_column_that_breaks_the_rule_is_refused_by_row(labels, classes, words):
    with pytest.raises(ConfigError, match=f"mood: rows: .*{words}"):
        label_indices(labelled(labels), classes, len(classes))


@pytest.mark.parametrize(
    ("labels", "own", "classes", "expected"),
    [
        ([0, 1, 0], ["ant", "zebra"], ANIMALS, [1, 0, 1]),
        ([0, 2], ["ant", "cat", "zebra"], ANIMALS, [1, 0]),  # no row is a cat
        ([0, 1, 2, 3], ["0", "1", "10", "2"], UNNAMED, [0, 1, 10, 2]),  # as folders are sorted
        ([0, 1], ["1", "2"], STARS, [0, 1]),
        ([1, 0], ["ANT", "Zebra"], ANIMALS, [0, 1]),
    ],
)
@pytest.mark.parametrize("kind", ["classes", FOLDERS])
def test_own_class_names_are_looked_up_by_name(labels, own, classes, expected, kind):
    values = [own[label] for label in labels] if kind == FOLDERS else labels
    assert label_indices(labelled(values, own, kind), classes, len(classes))[0] == expected


def test_order_of_own_names_is_used_where_the_model_has_none_and_noted():
    for labels, kind in (([1, 0], "classes"), (["good", "bad"], FOLDERS)):
        found, note = label_indices(labelled(labels, ["bad", "good"], kind), {0: "LABEL_0", 1: "LABEL_1"}, 2)
        assert found == [1, 0]
        assert note.startswith("warning: none of the classes of 'label' is a class name of the model")
        assert "bad = 0, good = 1" in note


@pytest.mark.parametrize(
    ("labels", "own", "classes", "kind", "words"),
    [
        ([0, 1, 2], ["ant", "cat", "zebra"], ANIMALS, "classes", "'cat': the model has no class of that name"),
        ([0, 2], ["a", "b", "c"], ANIMALS, "classes", "row 2 has the label 'c'"),
        ([0, None], ["ant", "zebra"], ANIMALS, "classes", "row 2 has the label None"),
        ([0, -1], ["ant", "zebra"], ANIMALS, "classes", "row 2 has the label -1"),
        (["a", "b"], ["a", "b"], ANIMALS, FOLDERS, "'a', 'b': the model has no class of that name"),
        (["a", "b"], ["a", "b"], UNNAMED, FOLDERS, "'a', 'b': the model has no class"),  # which 2 of its 11?
    ],
)
def test_own_class_names_that_the_model_lacks_are_refused(labels, own, classes, kind, words):
    with pytest.raises(ConfigError, match=f"mood: rows: .*{words}"):
        label_indices(labelled(labels, own, kind), classes, len(classes))


@pytest.mark.parametrize(
    "label2id", [None, {}, {"neg": "0", "pos": "1"}, {"LABEL_0": 0, "LABEL_1": 1}, {"pos": 0, "neg": 1}]
)
def test_class_names_are_those_of_pipelines_whatever_label2id_says(label2id):
    module = build("BertForSequenceClassification", "bert", 0)
    module.config.id2label, module.config.label2id = {"0": "neg", 1: "pos"}, label2id
    assert kind_of(module).class_names == {0: "neg", 1: "pos"}


def test_a_rule_that_saw_drawn_rows_alone_says_so():
    whole = labelled([0, 1])
    assert "drawn" not in label_indices(whole, ANIMALS, 2)[1]
    drawn = Table(whole.data, whole.source, "mood", count=50)
    assert label_indices(drawn, ANIMALS, 2)[1].endswith("(seen in the 2 drawn rows of 50).")
