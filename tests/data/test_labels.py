"""Labels of a column are read by one rule, and refused by their row where it does not hold."""

import json

import datasets
import pytest
from PIL import Image
from support.families import build

from adamerge.data.in_memory import as_table
from adamerge.data.labels import label_indices, labels_of
from adamerge.data.number_labels import labels_by_form
from adamerge.data.records import Arrow, Listed
from adamerge.data.settings import DataSource, Encoding
from adamerge.data.tables import Table, load_table
from adamerge.experts.model_kind import ModelKind, kind_of
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


def saved(folder, kind, labels):
    """A source of these labels, whose first rows alone a small sample may miss."""
    rows = [{"text": f"row {i}", "label": label} for i, label in enumerate(labels)]
    file = folder / f"rows{kind}"
    if kind == "":
        datasets.Dataset.from_list(rows).save_to_disk(str(file))
    elif kind == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(str(file))
    elif kind == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        mark = "," if kind == ".csv" else "\t"
        lines = [f"text{mark}label", *(f"{row['text']}{mark}{row['label']}" for row in rows)]
        file.write_text("\n".join(lines))
    return load_table(DataSource(str(file), rows=4), "mood", seed=0)


KINDS = [".jsonl", ".csv", ".tsv", ".parquet", ""]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_not_drawn_decide_how_a_column_is_read(tmp_path, kind):
    labels = ["1"] * 39 + ["0"]  # by name class 0, by index class 1; only the last row tells
    table = saved(tmp_path, kind, labels)
    assert table.values("label") == ["1"] * 4
    with pytest.raises(ConfigError, match=r"row 40.* has the label '0'"):
        label_indices(table, STARS, 3)
    (tmp_path / "other").mkdir()
    found, note = label_indices(saved(tmp_path / "other", kind, ["2"] * 39 + ["3"]), STARS, 3)
    assert found == [1, 1, 1, 1]
    assert note == "labels in 'label' are read as class names: 2 = 1, 3 = 2 (of all 40 rows, of which 4 are drawn)."


@pytest.mark.parametrize("kind", KINDS)
def test_an_odd_label_of_a_row_that_is_not_drawn_is_refused(tmp_path, kind):
    table = saved(tmp_path, kind, ["ant"] * 20 + ["cat"] + ["zebra"] * 19)
    assert "cat" not in table.values("label")
    with pytest.raises(ConfigError, match=r"row 21.* has the label 'cat'"):
        label_indices(table, ANIMALS, 2)


def test_rows_in_memory_and_images_are_looked_at_as_a_whole_too(tmp_path):
    rows = as_table([{"text": str(i), "label": "ant"} for i in range(30)] + [{"text": "a"}], "mood", rows=3)
    with pytest.raises(ConfigError, match=r"row 31 has the label None.* 1 of 31 rows have no label"):
        label_indices(rows, ANIMALS, 2)
    for name in ("ant", "zebra", "cat"):
        (tmp_path / name).mkdir()
        Image.new("L", (1, 1)).save(tmp_path / name / "1.png")
    images = load_table(DataSource(str(tmp_path), rows=1), "mood", seed=0)
    with pytest.raises(ConfigError, match="'cat': the model has no class of that name"):
        label_indices(images, ANIMALS, 2)


@pytest.mark.parametrize(
    ("names", "outputs"),
    [
        ({1: "a", 2: "b", 3: "c"}, 3),
        ({0: "a", 1: "b", 3: "c"}, 3),
        ({-1: "a", 0: "b", 1: "c"}, 3),
        ({0: "a", 1: "b"}, 3),
        ({0: "a", 1: "b", 2: "c", 3: "d"}, 3),
        ({1: "a"}, 0),
    ],
)
@pytest.mark.parametrize("form", ["classes", "labels"])
def test_names_that_are_not_numbered_as_the_outputs_are_refused(names, outputs, form):
    kind = ModelKind("BertForSequenceClassification", class_names=names, num_classes=len(names))
    table = labelled(["a", "b"] if form == "classes" else [["a"], ["b"]])
    with pytest.raises(ConfigError, match=f"mood: rows: .*a name for each .*found {len(names)}: .*Number the names"):
        labels_by_form(table, kind, Encoding(labeled=True), form, outputs)


def test_names_of_all_outputs_in_any_order_are_read():
    kind = ModelKind("BertForSequenceClassification", class_names={2: "c", 0: "a", 1: "b"}, num_classes=3)
    assert labels_of(labelled(["c", "a"]), kind, Encoding(labeled=True), 3)[0] == [2, 0]
    assert labels_of(labelled(["c"]), kind, Encoding(), 4) == (None, ())


def test_zeros_and_ones_as_numbers_with_a_point_are_integers():
    kind = ModelKind("BertForSequenceClassification", num_classes=3)
    found, _ = labels_by_form(labelled([[1.0, 0.0, 1.0], [0, 1, 0]]), kind, Encoding(labeled=True), "labels", 3)
    assert found == [[1, 0, 1], [0, 1, 0]]
    assert {type(one) for row in found for one in row} == {int}
