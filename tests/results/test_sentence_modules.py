"""Modules of sentence-transformers of other versions, formats and shapes: merged where equal, else reported."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from support.sentence_encoders import TASKS, TEXTS, as_sentence_encoder, cosines, save_encoders

from adamerge import Expert, Merge
from adamerge.results.module_settings import meaning
from adamerge.results.sentence_modules import read_modules
from adamerge.results.whose_files import plan_of
from adamerge.runs.build_model import open_experts
from adamerge.runs.read_config import merge_config

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # random experts are far from their base

NAMES = ("base", *TASKS)
DENSE = "2_Dense/model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A base and two experts, all sentence encoders with CLS pooling, Dense and Normalize."""
    folder = save_encoders(tmp_path_factory.mktemp("encoders"))
    for seed, name in enumerate(NAMES):
        as_sentence_encoder(folder / name, seed)
    return folder


@pytest.fixture
def encoders(saved, tmp_path, monkeypatch):
    """These encoders in the current directory."""
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def merged(**settings):
    """Export a merge whose coefficients are all 0.3; return what was written, and the notes."""
    result = Merge("base", [Expert(task) for task in TASKS], method="task_arithmetic", **settings).learn()
    return result.export("out"), "\n".join(plan_of(result.model.experts).notes)


def dense_layers():
    return {name: load_file(f"{name}/{DENSE}") for name in NAMES}


def sum_of(dense):
    """base + Σ 0.3·(expert − base)."""
    return {n: b + 0.3 * sum(dense[task][n] - b for task in TASKS) for n, b in dense["base"].items()}


def mean_of(dense):
    return {name: sum(dense[task][name] for task in TASKS) / len(TASKS) for name in dense["mood"]}


def as_version_2(folder):
    """Bring a folder's settings to the form of sentence-transformers 2."""
    entries = json.loads((folder / "modules.json").read_text())
    for entry in entries:
        entry["type"] = f"sentence_transformers.models.{entry['type'].rpartition('.')[2]}"
    (folder / "modules.json").write_text(json.dumps(entries))
    flags = {"word_embedding_dimension": 16, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling/config.json").write_text(json.dumps(flags))
    dense = json.loads((folder / "2_Dense/config.json").read_text())
    former = {key: value for key, value in dense.items() if not key.startswith("module_")}
    (folder / "2_Dense/config.json").write_text(json.dumps(former))
    shutil.rmtree(folder / "3_Normalize")


def as_pickle(folder):
    """Save the dense layer as versions before safetensors did."""
    torch.save(load_file(folder / DENSE), folder / "2_Dense/pytorch_model.bin")
    (folder / DENSE).unlink()


def assert_written(folder, expected):
    """Compare the one file of weights in a module's folder with what it should hold."""
    (file,) = (file for file in folder.iterdir() if file.suffix in (".bin", ".safetensors"))
    found = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
    torch.testing.assert_close(found, dict(expected))


@pytest.mark.parametrize("who", [("base",), ("mood",), TASKS], ids=["base", "one expert", "experts"])
def test_modules_of_a_former_version_are_the_same_modules(encoders, who):
    expected = sum_of(dense_layers())
    for name in who:
        as_version_2(encoders / name)
    done, notes = merged()
    assert_written(done.folder / "2_Dense", expected)
    assert who != TASKS or cosines(done.folder, expected).min() > 0.99999
    assert "merged with the mean coefficient" in notes


@pytest.mark.parametrize("who", [("base",), TASKS, NAMES], ids=["base", "experts", "all"])
@pytest.mark.parametrize("allowed", [True, False], ids=["opened", "not opened"])
def test_weights_in_pickles(encoders, who, allowed):
    dense = dense_layers()
    for name in who:
        as_pickle(encoders / name)
    done, notes = merged(allow_pickle=allowed)
    mean = who == ("base",)  # experts that can be read beside a base that cannot
    expected = sum_of(dense) if allowed else mean_of(dense) if mean else dense["base"]
    assert ("pickles are not opened" in notes) is not allowed
    for place, own in {done.folder: expected, done.checkpoints["mood"]: expected if allowed else dense["mood"]}.items():
        assert_written(place / "2_Dense", own)


def test_a_pickle_beside_safetensors_is_not_read(encoders):
    expected = sum_of(dense_layers())
    (encoders / "mood/2_Dense/pytorch_model.bin").write_bytes(b"damaged")
    done, _ = merged(allow_pickle=True)
    assert_written(done.folder / "2_Dense", expected)


def test_another_dense_layer_than_the_bases_is_the_experts(encoders):
    save_encoders(encoders / "new")
    for seed, task in enumerate(TASKS):
        shutil.rmtree(task)
        shutil.move(f"new/{task}", task)
        as_sentence_encoder(task, seed, size=6)
    done, notes = merged()
    assert cosines(done.folder, mean_of(dense_layers())).min() > 0.99999
    assert "2_Dense: the base's has other settings, so the merged checkpoint gets the mean" in notes


def test_experts_that_pool_differently_over_a_plain_base_give_a_plain_merge(tmp_path, monkeypatch):
    monkeypatch.chdir(save_encoders(tmp_path))
    for seed, (task, mode) in enumerate(zip(TASKS, ("cls", "max"), strict=True)):
        as_sentence_encoder(task, seed, mode=mode)
    done, notes = merged()
    assert "mood, topic: pool differently and the base has no modules, so the merged checkpoint has no modules" in notes
    assert not (done.folder / "modules.json").exists()
    assert SentenceTransformer(str(done.folder), device="cpu").encode(TEXTS).shape == (3, 16)
    for task, mode in zip(TASKS, ("cls", "max"), strict=True):
        assert SentenceTransformer(str(done.checkpoints[task]), device="cpu")[1].pooling_mode == mode


def in_16_bits(step):
    """A dense layer of the base in bf16, and the experts' at `step` of the distance between two numbers from it."""
    base = {"linear.weight": torch.full((8, 16), 1.0), "linear.bias": torch.full((8,), 1.0)}
    moved = {name: value + step * 2**-7 for name, value in base.items()}
    return {"base": base, **dict.fromkeys(TASKS, moved)}


def test_rounding_of_a_dense_layer_is_said_and_can_be_stochastic(encoders):
    for name, dense in in_16_bits(1).items():
        save_file({key: value.bfloat16() for key, value in dense.items()}, f"{name}/{DENSE}", {"format": "pt"})
    result = Merge("base", [Expert(task) for task in TASKS], method="task_arithmetic", init=0.2).learn()
    lost = result.export("nearest")
    assert torch.equal(load_file(lost.folder / DENSE)["linear.weight"], torch.ones(8, 16).bfloat16())
    said = "\n".join(lost.surviving.lines("nearest"))
    assert f"{DENSE}: rounded to 16 bits (nearest): 0.000 of what was merged in is left" in said
    assert f"{DENSE}: 0.000" in said.splitlines()[-1]
    assert said.splitlines()[-1].startswith("warning: rounding to ")
    assert lost.surviving.as_json()["modules"][DENSE] == pytest.approx(0, abs=1e-3)
    drawn, again = (result.export(out, rounding="stochastic").folder / DENSE for out in ("one", "two"))
    assert drawn.read_bytes() == again.read_bytes()
    found = load_file(drawn)["linear.weight"].double()
    assert set(found.flatten().tolist()) == {1.0, 1 + 2**-7}
    assert 0.2 < (found - 1).mean().item() * 2**7 < 0.6  # 0.4 of 128 numbers go up, within five deviations


def test_a_dense_layer_keeps_the_dtype_that_holds_all(encoders):
    dense = in_16_bits(0.3)
    for name, own in dense.items():
        dtype = torch.bfloat16 if name == "base" else torch.float32
        save_file({key: value.to(dtype) for key, value in own.items()}, f"{name}/{DENSE}", {"format": "pt"})
    done, _ = merged()
    torch.testing.assert_close(load_file(done.folder / DENSE), sum_of(dense))


ENTRIES = [{"path": "."}, {"path": None}, {"path": 5}, {}, {"path": "no/such/folder"}, {"path": "../mood"}]


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_odd_entries_of_modules_take_no_files(tmp_path, entry):
    (tmp_path / "secret.json").write_text("{}")
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "a.B", **entry}, "text", 3]))
    found = read_modules(tmp_path)
    assert found is not None
    assert found.files == {}
    assert found.names <= {"no"}
    assert found.outside == (("../mood",) if entry == {"path": "../mood"} else ())


def test_a_module_elsewhere_is_left_out_aloud(encoders):
    entries = json.loads(Path("mood/modules.json").read_text())
    entries[1]["path"] = "../base/1_Pooling"
    Path("mood/modules.json").write_text(json.dumps(entries))
    config = {"base_model": "base", "models": [{"model": task} for task in TASKS]}
    notes = "\n".join(plan_of(open_experts(merge_config(config))).notes)
    assert "mood: modules.json: expected folders inside this one, found ../base/1_Pooling; these are left out" in notes


def test_a_transformer_in_a_folder_of_its_own_leaves_its_modules_aloud(encoders):
    for place in (encoders / "base", encoders / "mood"):
        (place / "0_Transformer").mkdir()
        for file in [file for file in place.iterdir() if file.is_file() and file.name != "modules.json"]:
            file.rename(place / "0_Transformer" / file.name)
        first, *rest = json.loads((place / "modules.json").read_text())
        (place / "modules.json").write_text(json.dumps([{**first, "path": "0_Transformer"}, *rest]))
    assert len(SentenceTransformer("mood", device="cpu")) == 4
    config = {"base_model": "base/0_Transformer", "models": [{"model": "mood/0_Transformer"}, {"model": "topic"}]}
    notes = [n for n in plan_of(open_experts(merge_config(config))).notes if "a part of a sentence encoder" in n]
    assert [note.partition(":")[0] for note in notes] == ["base/0_Transformer", "mood/0_Transformer"]
    assert "(1_Pooling, 2_Dense, 3_Normalize) are not merged and not copied" in notes[1]


def test_one_folder_in_two_spellings_is_one(encoders):
    entries = json.loads(Path("mood/modules.json").read_text())
    entries[2]["path"] = "./2_Dense/"
    Path("mood/modules.json").write_text(json.dumps(entries))
    done, notes = merged()
    assert set(done.checkpoints.values()) == {done.folder}
    assert "merged with the mean coefficient" in notes


def test_modules_within_modules_are_merged(encoders):
    """Queries and documents have layers of their own, deeper in the folder."""
    for seed, name in enumerate(NAMES):
        torch.manual_seed(seed)
        router = Router.for_query_document(query_modules=[Dense(16, 8)], document_modules=[Dense(16, 8)])
        shutil.rmtree(f"{name}/2_Dense")
        SentenceTransformer(modules=[Transformer(name), Pooling(16), router], device="cpu").save(name)
    layers = {name: load_file(f"{name}/2_Router/query_0_Dense/model.safetensors") for name in NAMES}
    done, _ = merged()
    assert set(done.checkpoints.values()) == {done.folder}
    torch.testing.assert_close(load_file(done.folder / "2_Router/query_0_Dense/model.safetensors"), sum_of(layers))
    assert SentenceTransformer(str(done.folder), device="cpu").encode_query(TEXTS).shape == (3, 8)


CODE = "from sentence_transformers.sentence_transformer.modules import Pooling\n\n\nclass Mine(Pooling):\n    pass\n"


@pytest.mark.parametrize("trusted", [True, False])
def test_code_of_modules_is_copied_where_it_may_run_and_else_missed_aloud(encoders, trusted):
    for name in NAMES:
        (encoders / name / "mine.py").write_text(CODE)
        (encoders / name / "LICENSE").write_text("one for all" if name == "base" else "another")
        entries = json.loads((encoders / name / "modules.json").read_text())
        entries[1]["type"] = "mine.Mine"
        (encoders / name / "modules.json").write_text(json.dumps(entries))
    (encoders / "base/mine.py").unlink()
    done, notes = merged(**({"trust_remote_code": True, "allow_code": True} if trusted else {}))
    assert (done.folder / "mine.py").exists() is trusted
    assert ("mood: modules.json names classes in mine.py, which is not copied" in notes) is not trusted
    assert (done.folder / "LICENSE").read_text() == "one for all"


def test_prompts_that_differ_leave_no_name_of_one(tmp_path, monkeypatch):
    monkeypatch.chdir(save_encoders(tmp_path))
    for seed, task in enumerate(TASKS):
        as_sentence_encoder(task, seed)
        file = tmp_path / task / "config_sentence_transformers.json"
        prompts = {"prompts": {"query": f"{task}: "}, "default_prompt_name": "query", "similarity_fn_name": "dot"}
        file.write_text(json.dumps({**json.loads(file.read_text()), **prompts}))
    done, _ = merged()
    found = json.loads((done.folder / "config_sentence_transformers.json").read_text())
    assert "default_prompt_name" not in found
    assert found["similarity_fn_name"] == "dot"
    for task in TASKS:
        own = json.loads((done.checkpoints[task] / "config_sentence_transformers.json").read_text())
        assert own["prompts"] == {"query": f"{task}: "}


FLAGS = {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": False}
FORMER = [
    (Pooling, {**FLAGS, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}),
    (Pooling, {**FLAGS, "pooling_mode_lasttoken": True, "include_prompt": False}),
    (Pooling, FLAGS),
    (Pooling, {"embedding_dimension": 8, "pooling_mode": "cls"}),
    (Normalize, {}),
    (
        Dense,
        {"in_features": 2, "out_features": 3, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"},
    ),
]


@pytest.mark.parametrize(("cls", "former"), FORMER)
def test_former_settings_mean_what_the_library_reads(tmp_path, cls, former):
    (tmp_path / "config.json").write_text(json.dumps(former))
    if cls is Dense:
        Dense(2, 3).save_torch_weights(str(tmp_path))
    today = json.loads(json.dumps(cls.load(str(tmp_path)).get_config_dict()))
    assert meaning(cls.__name__, former) == meaning(cls.__name__, today)
    assert today.items() <= meaning(cls.__name__, former).items()


def test_settings_of_other_classes_stay():
    assert meaning("Other", {"a": 1}) == {"a": 1}
