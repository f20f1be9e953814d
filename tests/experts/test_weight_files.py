"""Folders with several weights: what transformers opens is opened, two different checkpoints are refused."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.families import build
from support.mistakes import edit_json, edit_tensors, table

from adamerge.experts.checkpoint import open_checkpoint
from adamerge.results.write_beside import write_config
from adamerge.types import ConfigError, IncompatibleExpertsError

WEIGHT = "encoder.layer.0.attention.self.query.weight"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path):
    """A checkpoint in one file."""
    build("BertModel", "bert", 1).save_pretrained(tmp_path)
    return tmp_path


def shard(folder, change=0.0, inside=""):
    """Write the same tensors, or others, as two shards with an index."""
    tensors = {name: tensor + change for name, tensor in load_file(folder / "model.safetensors").items()}
    files = {name: f"{inside}model-{1 + i % 2:05d}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for file in set(files.values()):
        (folder / file).parent.mkdir(exist_ok=True)
        save_file({n: t for n, t in tensors.items() if files[n] == file}, folder / file, {"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))


def pickle(folder, change=0.0):
    state = {n: t + change for n, t in load_file(folder / "model.safetensors").items()}
    torch.save({**state, "again": state[WEIGHT]}, folder / "pytorch_model.bin")


def assert_opens_what_transformers_opens(folder, **options):
    opened = open_checkpoint(str(folder), **options)
    theirs = transformers.BertModel.from_pretrained(folder).state_dict()
    assert torch.equal(opened.tensors[WEIGHT], theirs[WEIGHT])
    return opened.notes


def test_a_single_file_beside_equal_shards_is_opened_and_said(folder):
    shard(folder)
    (note,) = assert_opens_what_transformers_opens(folder)
    assert (
        "model-00001-of-00002.safetensors, model-00002-of-00002.safetensors hold the same tensors as model.saf" in note
    )


def test_a_single_file_beside_other_shards_is_refused(folder):
    shard(folder, change=1.0)
    with pytest.raises(
        IncompatibleExpertsError, match=r"found two that differ .* model.safetensors, which transformers"
    ):
        open_checkpoint(str(folder))


def test_an_index_of_the_single_file_is_no_second_checkpoint(folder):
    (folder / INDEX).write_text(json.dumps({"weight_map": {WEIGHT: "model.safetensors"}}))
    assert assert_opens_what_transformers_opens(folder) == ()


def test_shards_may_be_in_a_folder_below(folder):
    shard(folder, inside="parts/")
    (folder / "model.safetensors").unlink()
    assert assert_opens_what_transformers_opens(folder) == ()


@pytest.mark.parametrize("name", ["tf_model.h5", "flax_model.msgpack", "rust_model.ot", "model.ckpt.index"])
def test_weights_of_other_libraries_are_named(folder, name):
    (folder / name).write_bytes(b"other weights")
    (note,) = assert_opens_what_transformers_opens(folder)
    assert note.endswith(f"{name} in the folder not read; transformers too opens model.safetensors.")


def test_a_pickle_beside_safetensors_is_named_and_with_permission_compared(folder):
    pickle(folder, change=1.0)
    (note,) = assert_opens_what_transformers_opens(folder)
    assert note.endswith("pytorch_model.bin in the folder not read; transformers too opens model.safetensors.")
    with pytest.raises(IncompatibleExpertsError, match=r"found two that differ .* and pytorch_model.bin"):
        open_checkpoint(str(folder), allow_pickle=True)
    pickle(folder)
    (note,) = assert_opens_what_transformers_opens(folder, allow_pickle=True)
    assert "pytorch_model.bin hold the same tensors" in note


@pytest.mark.parametrize(
    "name", ["model.fp16.safetensors", "consolidated.safetensors", "model-00003-of-00003.safetensors", "model.gguf"]
)
def test_weights_that_transformers_does_not_open_are_named(folder, name):
    shutil.copy(folder / "model.safetensors", folder / name)
    (note,) = assert_opens_what_transformers_opens(folder)
    assert f"{name} in the folder not read" in note
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="no file named"):
        transformers.BertModel.from_pretrained(folder)
    with pytest.raises(ConfigError, match=f"found neither. It has {name}"):
        open_checkpoint(str(folder))


def test_a_file_named_in_the_configuration_is_opened(folder):
    edit_json(folder / "config.json", transformers_weights="other.safetensors")
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    edit_tensors(folder / "other.safetensors", lambda t: t[WEIGHT].add_(1))
    (note,) = assert_opens_what_transformers_opens(folder)
    assert "model.safetensors in the folder not read" in note


def test_a_tensor_in_two_shards_is_refused_unless_equal(folder):
    shard(folder)
    (folder / "model.safetensors").unlink()
    first, second = sorted(folder.glob("model-*.safetensors"))
    name = next(iter(load_file(first)))
    edit_tensors(second, lambda t: t.update({name: load_file(first)[name]}))
    opened = open_checkpoint(str(folder))
    assert name in opened.tensors
    edit_tensors(second, lambda t: t[name].add_(1))
    with pytest.raises(IncompatibleExpertsError, match=f"expected each tensor once, but {name} is in {first.name} too"):
        open_checkpoint(str(folder))


INDEXES, index = table()


@index("expected JSON with a weight_map", "found []")
def a_list():
    return {"weight_map": []}


@index("expected JSON with a weight_map", "found 'model.safetensors'")
def a_name():
    return {"weight_map": "model.safetensors"}


@index("expected JSON with a weight_map", "found {}")
def an_empty_map():
    return {"weight_map": {}}


@index("expected JSON with a weight_map", "found {'metadata': {}}")
def no_map():
    return {"metadata": {}}


@index("expected JSON with a weight_map", "found {'a': 1}")
def a_number():
    return {"weight_map": {"a": 1}}


@index("expected the names of files in its own folder, found '../other.safetensors'")
def a_file_above():
    return {"weight_map": {"a": "../other.safetensors"}}


@index("expected the names of files in its own folder, found '/other.safetensors'")
def an_absolute_path():
    return {"weight_map": {"a": "/other.safetensors"}}


@index("nowhere.safetensors: missing, but model.safetensors.index.json lists it")
def a_missing_file():
    return {"weight_map": {"a": "nowhere.safetensors"}}


@index("expected a file, found a folder, but model.safetensors.index.json lists it")
def a_folder():
    return {"weight_map": {"a": "."}}


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_is_refused(folder, name):
    make, words = INDEXES[name]
    (folder / "model.safetensors").unlink()
    (folder / INDEX).write_text(json.dumps(make()))
    with pytest.raises(IncompatibleExpertsError) as refused:
        open_checkpoint(str(folder))
    assert str(folder) in str(refused.value)
    assert all(word in str(refused.value) for word in words), refused.value


@pytest.mark.parametrize("content", [{"model": {"a": torch.ones(2)}, "epoch": 3}, [torch.ones(2)], torch.ones(2)])
def test_a_pickle_of_something_else_is_refused(folder, content):
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(IncompatibleExpertsError, match=r"pytorch_model.bin: "):
        open_checkpoint(str(folder), allow_pickle=True)


@pytest.mark.parametrize("weights", [True, False])
def test_an_adapter_beside_a_configuration_is_refused(folder, weights):
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    if not weights:
        (folder / "model.safetensors").unlink()
    beside = r"an adapter \(adapter_config.json\) is beside config.json.* remove adapter_c"
    with pytest.raises(ConfigError, match=beside if weights else "an adapter, expected a complete checkpoint"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("key", ["quantization_config", "compression_config", "quantization"])
def test_a_quantisation_of_which_the_files_know_nothing_is_ignored_and_said(folder, tmp_path, key):
    """vLLM and SGLang read compression_config where there is no quantization_config, and MLX quantization."""
    edit_json(folder / "config.json", **{key: {"quant_method": "fp8", "load_in_4bit": True}})
    opened = open_checkpoint(str(folder))
    assert f"{key}, but all tensors are floating-point numbers; it is ignored" in opened.notes[0]
    assert not hasattr(opened.config, key)
    write_config(opened, {}, tmp_path, "float32")
    assert key not in json.loads((tmp_path / "config.json").read_text())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float8_e4m3fn])
def test_a_quantisation_that_the_files_have_is_refused(folder, dtype):
    edit_json(folder / "config.json", quantization_config={"quant_method": "fp8"})
    edit_tensors(folder / "model.safetensors", lambda t: t.update({WEIGHT: t[WEIGHT].to(dtype)}))
    with pytest.raises(IncompatibleExpertsError, match=rf"quantised \(.*{WEIGHT} are {dtype}\)"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("inside", ["", "part/"])
@pytest.mark.parametrize("linked", ["a file", "its folder"])
def test_an_index_may_not_name_a_link_to_the_outside(folder, tmp_path_factory, inside, linked):
    shard(folder, inside=inside)
    (folder / "model.safetensors").unlink()
    outside = tmp_path_factory.mktemp("outside")
    file = folder / f"{inside}model-00001-of-00002.safetensors"
    moved = file if linked == "a file" or not inside else file.parent
    shutil.move(moved, outside / moved.name)
    moved.symlink_to(outside / moved.name)
    with pytest.raises(IncompatibleExpertsError) as refused:
        open_checkpoint(str(folder))
    message = str(refused.value)
    assert f"{folder / INDEX}: expected the names of files in its own folder" in message
    assert str(outside) in message


def test_links_within_a_folder_and_of_a_whole_folder_are_followed(folder, tmp_path_factory):
    shard(folder)
    (folder / "model.safetensors").unlink()
    file = folder / "model-00001-of-00002.safetensors"
    (folder / "real").mkdir()
    file.rename(folder / "real" / file.name)
    file.symlink_to(folder / "real" / file.name)
    link = tmp_path_factory.mktemp("elsewhere") / "link"
    link.symlink_to(folder)
    assert WEIGHT in open_checkpoint(str(link)).tensors


def test_snapshots_of_the_hub_link_to_their_blobs(folder, tmp_path_factory):
    shard(folder)
    (folder / "model.safetensors").unlink()
    hub = tmp_path_factory.mktemp("models--a--b")
    snapshot = hub / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    for file in folder.iterdir():
        (hub / "blobs").mkdir(exist_ok=True)
        shutil.copy(file, hub / "blobs" / f"blob_of_{file.name}")
        (snapshot / file.name).symlink_to(f"../../blobs/blob_of_{file.name}")
    assert WEIGHT in open_checkpoint(str(snapshot)).tensors
    other = tmp_path_factory.mktemp("models--c--d") / "secret"
    shutil.copy(folder / "model-00001-of-00002.safetensors", other)
    (snapshot / "model-00001-of-00002.safetensors").unlink()
    (snapshot / "model-00001-of-00002.safetensors").symlink_to(other)
    with pytest.raises(IncompatibleExpertsError, match="its own folder"):
        open_checkpoint(str(snapshot))


@pytest.mark.parametrize("name", ["../other.safetensors", "/other.safetensors"])
def test_config_may_not_name_weights_elsewhere(folder, name):
    edit_json(folder / "config.json", transformers_weights=name)
    with pytest.raises(IncompatibleExpertsError, match=r"config\.json: expected the names of files in its own folder"):
        open_checkpoint(str(folder))
