"""Rows from every kind of source, through the actual command."""

import json
import os
import shutil

import datasets
import numpy as np
import pytest
import transformers
import yaml
from PIL import Image
from support.families import build, save_family, save_tokenizer

from adamerge import cli
from adamerge.runs.build_model import open_experts
from adamerge.runs.load_rows import load_data
from adamerge.runs.read_config import merge_config

TRAINER = {"max_steps": 1, "accelerator": "cpu"}


def fit(folder, models, monkeypatch, capsys, base="base"):
    """Runs a short fit; returns the exit code and all output."""
    monkeypatch.chdir(folder)
    shutil.rmtree("run", ignore_errors=True)
    config = {"base_model": base, "models": models, "trainer": TRAINER, "data": {"batch_size": 4}, "run_dir": "run"}
    (folder / "m.yaml").write_text(yaml.safe_dump(config))
    capsys.readouterr()
    code = cli.main(["fit", "--config", "m.yaml"])
    said = capsys.readouterr()
    return code, said.out + said.err


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A ViT base whose experts know zebras and ants, in this order, and folders of pictures of both."""
    folder = tmp_path_factory.mktemp("pictures")
    names = {"id2label": {0: "zebra", 1: "ant"}, "label2id": {"zebra": 0, "ant": 1}}
    experts = {task: build("ViTForImageClassification", "vit", seed, **names) for seed, task in enumerate("ab", 1)}
    save_family(folder, build("ViTModel", "vit", 0), experts)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder / "base")
    for seed, place in enumerate(("learn", "test")):
        for name in ("zebra", "ant"):
            draw_pictures(folder / place / name, 8 if name == "zebra" else 4, 10 * seed + len(name))
    return folder


def draw_pictures(folder, count, seed):
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    for number in range(count):
        Image.fromarray(draw.integers(0, 255, (16, 16, 3), dtype="uint8")).save(folder / f"{number}.png")


@pytest.fixture
def spoilt(pictures, tmp_path):
    return shutil.copytree(pictures, tmp_path / "pictures")


def test_folders_of_images_are_measured_by_name(pictures, monkeypatch, capsys):
    models = [{"model": t, "calibration": "learn", "evaluation": "test"} for t in "ab"]
    code, said = fit(pictures, models, monkeypatch, capsys)
    assert code == 0
    assert "are evaluation rows too" not in said
    measured = json.loads((pictures / "run/metrics.json").read_text())["expert"]
    processor = transformers.ViTImageProcessor.from_pretrained(pictures / "base")
    for task in "ab":
        model = transformers.ViTForImageClassification.from_pretrained(pictures / task)
        files = sorted((pictures / "test").rglob("*.png"))
        pixels = processor([Image.open(file) for file in files], return_tensors="pt")["pixel_values"]
        found = [model.config.id2label[index] for index in model(pixels).logits.argmax(-1).tolist()]
        right = sum(name == file.parent.name for name, file in zip(found, files, strict=True))
        assert measured[task] == pytest.approx(100 * right / len(files))


def test_the_same_folder_twice_is_warned_about(pictures, monkeypatch, capsys):
    shutil.copytree(pictures / "learn", pictures / "copy", dirs_exist_ok=True)
    models = [
        {"model": "a", "calibration": "learn", "evaluation": "learn"},
        {"model": "b", "calibration": "learn", "evaluation": "copy"},
    ]
    code, said = fit(pictures, models, monkeypatch, capsys)
    assert code == 0
    for task in "ab":
        assert f"warning: {task}: 12 calibration rows are evaluation rows too" in said


def test_a_folder_that_the_model_has_no_class_for(spoilt, monkeypatch, capsys):
    draw_pictures(spoilt / "test/cat", 1, 0)
    models = [{"model": "a", "calibration": "learn", "evaluation": "test"}]
    code, said = fit(spoilt, models, monkeypatch, capsys)
    assert code == cli.BAD_INPUT
    assert "a: test: 'cat': the model has no class of that name; its classes are zebra, ant" in said
    assert not (spoilt / "run").exists()


@pytest.mark.parametrize("how", ["no image", "cut", "in a column", "missing"])
def test_a_broken_image_is_named_before_anything_is_written(spoilt, monkeypatch, capsys, how):
    broken, source = spoilt / "learn/ant/3.png", "learn"
    if how == "cut":
        os.truncate(broken, broken.stat().st_size - 200)
    elif how == "missing":
        broken.unlink()
    else:
        broken.write_bytes(b"not an image")
    if how in ("in a column", "missing"):
        source = "rows.csv"
        (spoilt / source).write_text("image\nlearn/ant/0.png\nlearn/ant/3.png\n")
    code, said = fit(spoilt, [{"model": "a", "calibration": source}], monkeypatch, capsys)
    assert code == cli.BAD_INPUT
    assert f"a: {source}: row {2 if source == 'rows.csv' else 4} (" in said
    assert "ant/3.png) is not an image that can be read" in said
    assert not (spoilt / "run").exists()


def test_a_column_without_images(spoilt, monkeypatch, capsys):
    (spoilt / "rows.jsonl").write_text('{"image": 1}\n')
    code, said = fit(spoilt, [{"model": "a", "calibration": "rows.jsonl"}], monkeypatch, capsys)
    assert code == cli.BAD_INPUT
    assert "a: rows.jsonl: row 1 (line 1): expected images or paths of images in the column 'image'" in said


def test_labels_in_words_with_class_names_for_a_head(pictures, tmp_path, monkeypatch, capsys):
    experts = {"a": build("CLIPModel", "clip", 1)}
    save_family(tmp_path, build("CLIPModel", "clip", 0), experts)
    save_tokenizer(tmp_path / "base")
    transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(
        tmp_path / "base"
    )
    rows = [f"{pictures}/learn/ant/{i}.png,{word}" for i, word in enumerate(("red", "blue", "red"))]
    (tmp_path / "rows.csv").write_text("\n".join(["image,label", *rows]))
    models = [{"model": "a", "calibration": "rows.csv", "evaluation": "rows.csv", "zero_shot": {}}]
    for classes, code in ((["red", "blue"], 0), (["red", "loud"], cli.BAD_INPUT)):
        models[0]["zero_shot"] = {"classes": classes}
        found, said = fit(tmp_path, models, monkeypatch, capsys)
        assert found == code, said
    assert "row 2 (line 3) has the label 'blue', which is none of the expert's 2 labels (red, loud)" in said


@pytest.fixture(scope="module")
def sources(text_family, tmp_path_factory):
    """The text family, with one task's rows in every format."""
    folder = shutil.copytree(text_family, tmp_path_factory.mktemp("sources") / "family")
    lines = [json.loads(line) for line in (folder / "mood.jsonl").read_text().splitlines()]
    data = datasets.Dataset.from_list(lines)
    data.to_csv(str(folder / "mood.csv"))
    data.to_parquet(str(folder / "mood.parquet"))
    (folder / "mood.tsv").write_text("text\n" + "\n".join(line["text"] for line in lines))
    (folder / "mood.txt").write_text("\n".join(line["text"] for line in lines))
    data.save_to_disk(str(folder / "saved"))
    datasets.DatasetDict({"validation": data}).save_to_disk(str(folder / "splits"))
    return folder


def test_every_format_gives_the_same_rows(sources, monkeypatch):
    monkeypatch.chdir(sources)
    names = ["mood.jsonl", "mood.csv", "mood.tsv", "mood.parquet", "mood.txt", "saved"]
    found = [rows_of(calibration) for calibration in [*names, {"path": "splits", "split": "validation"}]]
    for rows, fingerprint in found:
        assert len(rows) == 32
        assert fingerprint == found[0][1]
        assert rows == found[0][0]


def rows_of(calibration):
    """The encoded rows of one source, as lists, and their fingerprint."""
    config = merge_config({"base_model": "base", "models": [{"model": "mood", "calibration": calibration}]})
    data = load_data(config, open_experts(config))
    rows = data.calibration["mood"]
    batches = (rows.batch([row]).inputs for row in range(len(rows)))
    encoded = [{name: tensor.tolist() for name, tensor in inputs.items()} for inputs in batches]
    return encoded, data.fingerprints["mood"]["calibration"]


def test_a_missing_split_is_named_with_those_that_are_there(sources, monkeypatch, capsys):
    code, said = fit(sources, [{"model": "mood", "calibration": "splits"}], monkeypatch, capsys)
    assert code == cli.BAD_INPUT
    assert "mood: splits: there is no split 'train'; the splits are validation. Set the key split to one of" in said
