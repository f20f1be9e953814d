"""Saved datasets and Parquet files, which are read through `datasets`."""

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from adamerge.data.settings import DataSource
from adamerge.data.tables import load_table


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
    assert [table.image("image", row).getpixel((0, 0))[0] for row in range(3)] == [0, 1, 2]
