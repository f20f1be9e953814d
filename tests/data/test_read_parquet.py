"""Saved datasets and Parquet files, which are read through `datasets`."""

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets.table import InMemoryTable
from PIL import Image

from adamerge.data.settings import DataSource
from adamerge.data.tables import load_table
from adamerge.types import ConfigError


def load(path):
    return load_table(DataSource(str(path)), "mood", 0, None)


def test_saved_datasets_and_parquet_under_any_name(tmp_path):
    for number, name in enumerate(("a[1]", "a1", "*")):
        data = datasets.Dataset.from_dict({"text": [name], "label": [number]})
        data.save_to_disk(str(tmp_path / name))
        data.to_parquet(str(tmp_path / f"{name}.parquet"))
    for name in ("a[1]", "a1", "*", "a[1].parquet", "*.parquet"):
        assert load(tmp_path / name).texts("text") == [name.removesuffix(".parquet")]


def test_parquet_as_pandas_writes_categories(tmp_path):
    column = pa.chunked_array([pa.array(["good", "bad", "good"]).dictionary_encode()])
    pq.write_table(pa.table({"text": column, "label": [0, 1, 0]}), tmp_path / "a.parquet")
    table = load(tmp_path / "a.parquet")
    assert table.texts("text") == ["good", "bad", "good"]
    assert table.values("label") == [0, 1, 0]


def save_images(path):
    images = [Image.new("RGB", (2, 2), (number, 0, 0)) for number in range(3)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["b", "a"])})
    datasets.Dataset.from_dict({"image": images, "label": [0, 1, 1]}, features).to_parquet(path)


def test_images_are_taken_from_one_view_of_the_rows(tmp_path, monkeypatch):
    save_images(tmp_path / "a.parquet")
    table, made = load(tmp_path / "a.parquet"), []
    view = datasets.Dataset.with_format
    monkeypatch.setattr(datasets.Dataset, "with_format", lambda *rows, **how: made.append(1) or view(*rows, **how))
    for row in range(3):
        table.image("image", row)
    assert len(made) == 1


def test_parquet_keeps_images_and_class_names(tmp_path):
    save_images(tmp_path / "a.parquet")
    table = load(tmp_path / "a.parquet")
    assert table.class_names("label") == ["b", "a"]
    pixels = [table.image("image", row).getpixel((0, 0)) for row in range(3)]
    assert pixels == [(number, 0, 0) for number in range(3)]


def named(names, labels):
    """A table as `datasets` writes it: indices, and the names of the classes in the schema."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    return pa.table({"text": [""] * len(labels), "label": labels}, schema=features.arrow_schema)


def lists(names, labels):
    return pa.table(
        {"label": labels},
        schema=datasets.Features({"label": datasets.Sequence(datasets.ClassLabel(names=names))}).arrow_schema,
    )


def load_shards(folder, *shards):
    for number, shard in enumerate(shards):
        pq.write_table(shard, folder / f"{number}.parquet")
    return load(folder)


def test_indices_of_classes_in_another_order_are_joined_by_name(tmp_path):
    table = load_shards(tmp_path, named(["a", "b", "c"], [0, 1, 2, -1]), named(["c", "a", "b"], [0, 1, 2, None]))
    assert table.class_names("label") == ["a", "b", "c"]
    expected = [0, 1, 2, -1, 2, 0, 1, None]
    assert table.values("label") == [value for _, value in table.whole("label")] == expected


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (
            named(["a", "b"], [0]),
            named(["a", "b", "c"], [0]),
            r"'label' the classes of 0.parquet \(a, b\), found a, b, c",
        ),
        (named(["a", "b"], [0]), pa.table({"text": [""], "label": [0]}), "found none, but other values"),
        (pa.table({"text": [""], "label": [0]}), named(["a", "b"], [0]), r"\(none, but other values\), found a, b"),
        (lists(["a", "b"], [[0]]), lists(["b", "a"], [[0]]), r"\(a, b\), found b, a"),
        (pa.table({"a": [1], "b": [1]}), pa.table({"a": [1]}), r"the columns of 0.parquet \(a, b\), found a"),
        (pa.table({"a": [1]}), pa.table({"a": [1.0]}), r"'a' the type of 0.parquet \(int64\), found double"),
        (pa.table({"a": ["1"]}), pa.table({"a": [1]}), r"\(string\), found int64"),
        (pa.table({"a": [True]}), pa.table({"a": [1]}), r"\(bool\), found int64"),
        (pa.table({"a": [[1]]}), pa.table({"a": [["1"]]}), "found list<"),
        (pa.table({"a": [{"b": 1}]}), pa.table({"a": [{"c": 1}]}), "found struct<c"),
        (pa.table({"a": [-1]}), pa.table({"a": pa.array([2**63], pa.uint64())}), "do not fit the types of all files"),
    ],
)
def test_shards_of_other_columns_types_or_classes_are_refused(tmp_path, first, second, words):
    with pytest.raises(ConfigError, match=f"1.parquet: .*{words}"):
        load_shards(tmp_path, first, second)


def test_a_column_of_a_type_that_datasets_lacks_is_named(tmp_path):
    kind = pa.map_(pa.string(), pa.int8())
    table = pa.table({"text": ["a"], "scores": pa.array([[("b", 1)]], kind)})
    with pytest.raises(ConfigError, match=r"0.parquet: the column 'scores' has the type map<.*without this column"):
        load_shards(tmp_path, table)


def writes_views():
    """Whether this pyarrow writes views into Parquet; 17 does not."""
    try:
        pq.write_table(pa.table({"a": pa.array(["a"], pa.string_view())}), pa.BufferOutputStream())
    except pa.ArrowNotImplementedError:
        return False
    return True


VIEWS = pytest.mark.skipif(not writes_views(), reason=f"pyarrow {pa.__version__} writes no views into Parquet")
WIDTHS = [(pa.int8(), pa.int64(), 7), (pa.int32(), pa.uint8(), 7), (pa.float32(), pa.float64(), 0.5)]
WIDTHS += [
    (pa.string(), pa.large_string(), "x"),
    (pa.string(), pa.dictionary(pa.int8(), pa.string()), "x"),
    pytest.param(pa.string(), pa.string_view(), "x", marks=VIEWS),
]
WIDTHS += [(pa.null(), pa.string(), None), (pa.list_(pa.int32()), pa.list_(pa.int64()), [1])]
WIDTHS += [pytest.param(pa.list_(pa.string_view()), pa.list_(pa.string()), ["x"], marks=VIEWS)]


@pytest.mark.parametrize(("one", "two", "value"), WIDTHS)
@pytest.mark.parametrize("turned", [False, True])
def test_columns_are_joined_by_name_in_any_order_and_width(tmp_path, one, two, value, turned):
    kinds = (two, one) if turned else (one, two)
    first, second = (pa.table({"a": pa.array([value], kind), "b": ["first"]}) for kind in kinds)
    table = load_shards(tmp_path, first, second.select(["b", "a"]))
    assert table.columns == ["a", "b"]
    assert table.values("a") == [value, value] == [found for _, found in table.whole("a")]
    assert table.values("b") == ["first", "first"]


@VIEWS
def test_views_are_read_and_drawn(tmp_path):
    pq.write_table(pa.table({"text": pa.array(["a", None, "c"], pa.string_view())}), tmp_path / "a.parquet")
    table = load_table(DataSource(str(tmp_path / "a.parquet"), rows=2), "mood", 0)
    assert len(table) == 2
    assert load(tmp_path / "a.parquet").values("text") == ["a", None, "c"]


def spelled(content):
    return pa.Array.from_buffers(pa.string(), 1, pa.array([content], pa.binary()).buffers())


UNREADABLE = {
    "after the year 9999": (pa.array([2**60], pa.timestamp("us")), r"timestamp\[us\]", None),
    "long": (pa.array([2**62], pa.duration("s")), r"duration\[s\]", None),
    "after all years": (pa.array([2**30], pa.date32()), r"date32\[day\]", None),
    "of no zone": (pa.array([1], pa.timestamp("us", tz="Nowhere/Bad")), "tz=Nowhere/Bad", None),
    "in Latin-1": (spelled(b"caf\xe9 noir"), "is not text in UTF-8", "caf\ufffd noir"),
}


@pytest.mark.parametrize("said", ["{{{", "3", '{"info": {"features": {"text": {"_type": "Nonsense"}}}}'])
def test_metadata_that_cannot_be_read_is_refused_with_a_way_on(tmp_path, said):
    pq.write_table(pa.table({"text": ["good"]}).replace_schema_metadata({"huggingface": said}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"a\.parquet: what its metadata \(huggingface\).*replace_schema_metadata"):
        load(tmp_path / "a.parquet")


@pytest.mark.parametrize("saved", [False, True])
def test_a_column_that_cannot_be_read_is_refused_by_name_and_hinders_no_other(tmp_path, saved):
    rows = pa.table({"text": ["good"], **{name: values for name, (values, _, _) in UNREADABLE.items()}})
    if saved:
        datasets.Dataset(InMemoryTable(rows)).save_to_disk(str(tmp_path / "rows"))
    else:
        pq.write_table(rows, tmp_path / "rows.parquet")
    table = load(tmp_path / ("rows" if saved else "rows.parquet"))
    assert table.value("text", 0) == "good"
    for name, (_, words, seen) in UNREADABLE.items():
        for read in (table.values, lambda column: table.value(column, 0), lambda column: [*table.whole(column)]):
            with pytest.raises(ConfigError, match=f"rows.*the column '{name}'.*{words}.*([Ss]ave|copy)"):
                read(name)
        assert table.data.glance(name, 0) == seen
