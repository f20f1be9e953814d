"""Rows of folders of images: every image is a row, whatever its folders and files are called."""

import json
import os

import pytest
from PIL import Image

from adamerge.data.settings import DataSource
from adamerge.data.tables import load_table
from adamerge.types import ConfigError


def draw(folder, *names):
    for number, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2), (number, 0, 0)).save(file)


def load(folder, **source):
    return load_table(DataSource(str(folder), **source), "mood", 0)


def found(table, folder):
    """Labels by image."""
    images = [os.path.relpath(path, folder) for path in table.values("image")]
    return dict(zip(images, table.values("label") if "label" in table.columns else [None] * len(images), strict=True))


@pytest.mark.parametrize(
    "odd", ["train", "test", "val", "Train", "validation", "dev", "eval", "train[1]", "*", "a test"]
)
def test_a_class_named_like_a_split_is_a_class(tmp_path, odd):
    names = [f"{name}/{i}.png" for name in ("bus", "car", odd) for i in range(2)]
    draw(tmp_path, *names)
    assert found(load(tmp_path), tmp_path) == {name: name.split("/")[0] for name in names}


@pytest.mark.parametrize(
    "name", ["lab test tubes.png", "ILSVRC2012_val_00000001.JPEG", "train-1.png", "a[1].webp", "b.TIFF", "c.ppm"]
)
def test_no_name_of_a_file_leaves_an_image_out(tmp_path, name):
    draw(tmp_path, "photo_1.png", "photo_2.png", name)
    table = load(tmp_path)
    assert found(table, tmp_path) == {"photo_1.png": None, "photo_2.png": None, name: None}
    assert table.image("image", 0).size == (2, 2)


def test_folder_of_splits(tmp_path):
    draw(tmp_path, *(f"{split}/{name}/0.png" for split in ("Train", "val") for name in ("ant", "zebra")))
    table = load(tmp_path)
    assert found(table, tmp_path) == {"Train/ant/0.png": "ant", "Train/zebra/0.png": "zebra"}
    assert "named after the splits train, validation: train is read, 2 of 4 files" in table.notes[0]
    assert set(found(load(tmp_path, split="validation"), tmp_path)) == {"val/ant/0.png", "val/zebra/0.png"}
    with pytest.raises(ConfigError, match="there is no split 'test'"):
        load(tmp_path, split="test")


def test_what_is_left_out_is_noted(tmp_path):
    draw(tmp_path, "ant/0.png", "zebra/0.png", "ant/.hidden.png")
    (tmp_path / "labels.txt").write_text("ant")
    assert load(tmp_path).notes == (
        "1 file that is hidden or left by a tool is passed over, such as ant/.hidden.png. Rename what should be read.",
        "1 files that are no images are ignored, such as labels.txt.",
    )
    draw(tmp_path, "1.png")
    table = load(tmp_path)
    assert len(table) == 3
    with pytest.raises(ConfigError, match=r"expected a column 'label'.*images are at several depths"):
        table.require(["label"])


def test_linked_folders_are_read_and_circles_end(tmp_path):
    draw(tmp_path / "elsewhere", "0.png")
    draw(tmp_path / "images", "ant/0.png")
    (tmp_path / "images/zebra").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images/ant/again").symlink_to(tmp_path / "images")
    assert set(found(load(tmp_path / "images"), tmp_path / "images")) == {"ant/0.png", "zebra/0.png"}


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "deep/metadata.jsonl"])
def test_metadata_name_images_and_their_columns(tmp_path, name):
    draw(tmp_path, "deep/007.png", "deep/1.png", "deep/2.png")
    at = "" if "/" in name else "deep/"
    rows = [{"file_name": f"{at}1.png", "label": "null"}, {"file_name": f"{at}007.png", "label": "007"}]
    lines = ["file_name,label", *(",".join(row.values()) for row in rows)]
    if name.endswith("jsonl"):
        lines = [json.dumps(row) for row in rows]
    (tmp_path / name).write_text("\n".join(lines))
    table = load(tmp_path)
    assert found(table, tmp_path) == {"deep/1.png": "null", "deep/007.png": "007"}
    assert table.notes == ("1 images are left out, because no metadata name them, such as 2.png.",)
    (tmp_path / "deep/1.png").unlink()
    with pytest.raises(ConfigError, match=r"metadata\..*: row 1 \(line .\) names an image that does not exist"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"null", b"{", b"\xcd\xcd", b"a\0b", b"[1]", b'{"a": 1, "a": 2}'])
@pytest.mark.parametrize("name", ["metadata.jsonl", "rows.jsonl"])
def test_what_a_damaged_file_of_a_folder_is_called_is_said(tmp_path, content, name):
    if name == "metadata.jsonl":
        draw(tmp_path, "1.png")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=rf"mood: .*: {name}: "):
        load(tmp_path)


def test_images_that_cannot_be_read_are_named(tmp_path):
    draw(tmp_path, "ant/0.png")
    (tmp_path / "ant/1.png").write_bytes(b"no image")
    table = load(tmp_path)
    with pytest.raises(ConfigError, match=r"row 2 \(ant/1.png\) is not an image that can be read"):
        table.image("image", 1)


@pytest.mark.parametrize(
    ("value", "words"),
    [(7, "expected images or paths of images"), (None, "has no image"), ("gone.png", r"\(gone.png\) is not an image")],
)
def test_columns_without_images_are_named(tmp_path, value, words):
    (tmp_path / "a.jsonl").write_text(json.dumps({"image": value}))
    with pytest.raises(ConfigError, match=rf"row 1 \(line 1\).*{words}"):
        load(tmp_path / "a.jsonl").image("image", 0)


@pytest.mark.parametrize("odd", ["__background__", "__none", "_other", "__pycache", "~old"])
def test_underscores_hide_no_class_and_no_image(tmp_path, odd):
    names = [f"{name}/{i}.png" for name in ("cat", odd) for i in ("0", "__1")]
    draw(tmp_path, *names)
    table = load(tmp_path)
    assert found(table, tmp_path) == {name: name.split("/")[0] for name in names}
    assert table.notes == ()


@pytest.mark.parametrize(
    ("left", "first"),
    [
        (["cat/.DS_Store"], "cat/.DS_Store"),
        (["cat/._0.png", "Thumbs.db"], "Thumbs.db"),
        (["__MACOSX/cat/._0.png", "__MACOSX/cat/1.png"], "__MACOSX"),
        ([".ipynb_checkpoints/0-checkpoint.png"], ".ipynb_checkpoints"),
        (["cat/@eaDir/0.png/THUMB.png"], "cat/@eaDir"),
    ],
)
def test_what_tools_leave_is_passed_over_and_counted(tmp_path, left, first):
    draw(tmp_path, "cat/0.png", "dog/0.png")
    for name in left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    table = load(tmp_path)
    assert set(found(table, tmp_path)) == {"cat/0.png", "dog/0.png"}
    (note,) = table.notes
    assert note.startswith(f"{len(left)} file")
    assert f"passed over, such as {first}." in note


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_rows_of_links_count_again_and_this_is_said(tmp_path, link):
    draw(tmp_path, "cat/0.png", "dog/0.png")
    getattr(tmp_path / "cat/1.png", link)(tmp_path / "cat/0.png")
    table = load(tmp_path)
    assert len(table) == 3
    assert table.notes == (
        "1 file is a further name (a link) of what is read already, such as cat/1.png of cat/0.png: its rows count "
        "again. Remove what is not meant.",
    )


def tree(folder, *classes):
    return [f"{folder}/{name}/0.png" if folder else f"{name}/0.png" for name in classes]


SEVERAL = [*tree("train", "cat", "dog"), *tree("test", "cat", "dog")]


@pytest.mark.parametrize(
    "names",
    [
        [*SEVERAL, *tree("extra", "cat", "dog")],
        [*SEVERAL, "preview.png"],
        [f"images/{name}" for name in SEVERAL],
        [*(f"images/{name}" for name in SEVERAL), "masks/0.png"],
        [*tree("train2017", "cat", "dog"), *tree("val2017", "cat", "dog")],
    ],
)
def test_splits_with_classes_inside_are_not_mixed(tmp_path, names):
    draw(tmp_path, *names)
    with pytest.raises(
        ConfigError, match=r"expected images of one split, found folders named after splits, .*(train|test)"
    ):
        load(tmp_path)


ANIMALS = {0: "bus", 1: "car", 2: "Train"}


@pytest.mark.parametrize(
    ("names", "classes", "count", "fine"),
    [
        (tree("", "bus", "car", "train"), ANIMALS, 3, True),
        (tree("", "bus", "car", "train"), {i: f"LABEL_{i}" for i in range(3)}, 3, True),
        (tree("", "bus", "car", "train"), {i: f"LABEL_{i}" for i in range(4)}, 4, False),
        (tree("", "extra", "train"), {0: "cat", 1: "dog"}, 2, False),
        (tree("", "extra", "train", "test"), ANIMALS, 3, False),
        ([*tree("cats", "train", "val"), *tree("dogs", "train", "val")], {0: "LABEL_0", 1: "LABEL_1"}, 2, False),
        ([*tree("cats", "train", "val"), *tree("dogs", "train", "val")], {0: "train", 1: "val"}, 2, True),
        (tree("images", "train", "test"), {0: "cat", 1: "dog"}, 2, False),
        (tree("", "train_images", "test_images"), {0: "cat", 1: "dog"}, 2, False),
        ([*tree("train", "steam"), *tree("bus", "red")], {0: "steam", 1: "red"}, 2, False),
    ],
)
def test_classes_of_the_model_tell_splits_from_classes(tmp_path, names, classes, count, fine):
    draw(tmp_path, *names)
    doubt = load(tmp_path).doubt
    assert doubt is not None
    assert (doubt.problem(classes, count) is None) == fine


def test_no_split_is_in_doubt_where_no_folder_is_named_after_one(tmp_path):
    draw(tmp_path, *tree("a", "cat", "dog"), *tree("b", "cat", "crash test"))
    assert load(tmp_path).doubt is None


def metadata(folder, name, rows):
    (folder / name).write_text("\n".join(["file_name,label", *rows]) + "\n")


@pytest.mark.parametrize(
    ("split", "kept"), [("train", {"train/1.png": "x", "train/2.png": "y"}), ("test", {"test/3.png": "x"})]
)
def test_metadata_of_several_splits_give_the_rows_of_one(tmp_path, split, kept):
    draw(tmp_path, "train/1.png", "train/2.png", "test/3.png")
    metadata(tmp_path, "metadata.csv", ["train/1.png,x", "./train/2.png,y", "train/../test/3.png,x"])
    table = load(tmp_path, split=split)
    assert found(table, tmp_path) == kept
    assert f"{3 - len(kept)} rows of metadata are left out, because their images are of other splits." in table.notes
    assert [place for place, _ in table.whole("label")] == [table.place(row) for row in range(len(kept))]


def test_two_files_of_metadata_about_the_same_images_are_refused(tmp_path):
    draw(tmp_path, "1.png")
    metadata(tmp_path, "metadata.csv", ["1.png,x"])
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "1.png", "label": "y"}\n')
    with pytest.raises(ConfigError, match=r"expected one file of metadata in .*, found several"):
        load(tmp_path)


def test_a_column_of_metadata_does_not_take_the_place_of_the_images(tmp_path):
    draw(tmp_path, "1.png", "2.png")
    (tmp_path / "metadata.csv").write_text("file_name,image\n1.png,2.png\n2.png,1.png\n")
    table = load(tmp_path)
    assert list(found(table, tmp_path)) == ["1.png", "2.png"]
    assert any("the column 'image' is not read" in note for note in table.notes)
