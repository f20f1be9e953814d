"""Merges of what Python users hold: modules, state dicts, lists, data sets and tensors."""

import copy
from functools import partial
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file
from support import networks
from support.families import TASKS, Tiny
from torch import nn
from torch.utils.data import Dataset, TensorDataset
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from adamerge import ConfigError, Expert, IncompatibleExpertsError, Merge, load_coefficients
from adamerge.data.rows import TensorRows
from adamerge.data.settings import DataSource

QUICK = {"method": "adamerging", "trainer": {"max_steps": 3}, "data": {"batch_size": 4}}


def texts(task):
    return datasets.load_dataset("json", data_files=f"{task}.jsonl", split="train")["text"]


@pytest.fixture
def expected(family):
    """Coefficients of the merge of the paths."""
    return Merge("base", [Expert(task, calibration=f"{task}.jsonl") for task in TASKS], **QUICK).learn().coefficients


@pytest.fixture
def loaded(family):
    return {task: AutoModelForSequenceClassification.from_pretrained(task) for task in TASKS}


class Pairs(Dataset):
    """Rows of a tensor and a label."""

    def __init__(self, inputs):
        self.inputs = inputs

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        return self.inputs[index], index % 3


network = partial(networks.network, step=0.2)


# Rows


def test_texts_in_every_form_are_the_rows_of_the_file(family, expected):
    forms = [
        texts,
        lambda task: datasets.Dataset.from_dict({"text": texts(task)}),
        lambda task: {"text": texts(task)},
        lambda task: [{"text": text} for text in texts(task)],
        lambda task: {"path": datasets.Dataset.from_dict({"words": texts(task)}), "text": "words"},
        lambda task: DataSource(f"{task}.jsonl"),
    ]
    for form in forms:
        result = Merge("base", [Expert(task, calibration=form(task)) for task in TASKS], **QUICK).learn()
        assert torch.equal(result.coefficients, expected)


def test_tensors_in_every_form_are_the_same_rows():
    base, inputs = network(), torch.randn(24, 4, generator=torch.Generator().manual_seed(1))
    expert = network(1, near=base)
    labels = torch.arange(24) % 3
    forms = [inputs, TensorDataset(inputs, labels), Pairs(inputs), {"input": inputs}, TensorRows({"input": inputs})]
    listed = datasets.Dataset.from_dict({"input": inputs.tolist()})
    forms += [listed, listed.with_format("torch"), {"input": inputs.numpy()}, inputs.tolist(), inputs.numpy()]
    found = [Merge(base, {"one": Expert(expert, calibration=rows)}, **QUICK).learn().coefficients for rows in forms]
    for other in found[1:]:
        assert torch.equal(other, found[0])
    measured = Merge(base, {"one": Expert(expert, evaluation=TensorDataset(inputs, labels))}, method="average").learn()
    assert measured.scores()["one"] == pytest.approx(
        100 * (measured.module("one")(inputs).argmax(-1) == labels).float().mean().item(), abs=1e-4
    )


def test_tokenised_rows_are_the_rows_of_their_texts(expected, loaded):
    """Of several lengths, and of no processor."""
    tokenizer = AutoTokenizer.from_pretrained("base")
    rows = {task: tokenizer(list(texts(task))) for task in TASKS}
    assert len({len(ids) for ids in rows["mood"]["input_ids"]}) > 1
    given = {"mood": rows["mood"], "topic": datasets.Dataset.from_dict(dict(rows["topic"]))}
    experts = {task: Expert(model, calibration=given[task]) for task, model in loaded.items()}
    found = Merge(AutoModel.from_pretrained("base"), experts, **QUICK).learn().coefficients
    torch.testing.assert_close(found, expected)


def test_rows_of_a_wrong_type_are_refused(family):
    with pytest.raises(ConfigError, match=r"mood: expected rows as a path, a list .* found list of int"):
        Merge("base", [Expert("mood", calibration=[1, 2])], **QUICK).learn()


# Models


@pytest.mark.parametrize("base", ["base", "module"])
@pytest.mark.parametrize("form", ["module", "state", "mixed"])
def test_models_in_memory_merge_as_those_on_disk(family, expected, loaded, base, form):
    """A bare backbone is the base of classifiers."""
    forms = {
        "module": loaded,
        "state": {task: module.state_dict() for task, module in loaded.items()},
        "mixed": {"mood": "mood", "topic": loaded["topic"]},
    }
    experts = [Expert(forms[form][task], task=task, calibration=texts(task)) for task in TASKS]
    start = AutoModel.from_pretrained("base") if base == "module" else "base"
    result = Merge(start, experts, processor=AutoTokenizer.from_pretrained("base"), **QUICK).learn()
    assert torch.allclose(result.coefficients, expected)
    place = result.export("merged").checkpoints["topic"]
    again = AutoModelForSequenceClassification.from_pretrained(place)
    inputs = {"input_ids": torch.arange(12).view(2, 6)}
    assert torch.equal(again(**inputs).logits, result.module("topic")(**inputs).logits)


def test_nothing_that_was_given_is_altered(loaded):
    before = {task: copy.deepcopy(module.state_dict()) for task, module in loaded.items()}
    base = AutoModel.from_pretrained("base")
    before["base"] = copy.deepcopy(base.state_dict())
    result = Merge(base, loaded, method="task_arithmetic", init=1.0).learn()
    merged = result.module("topic")
    with torch.no_grad():
        for parameter in merged.parameters():
            parameter.zero_()
    for task, module in {"base": base, **loaded}.items():
        assert all(torch.equal(tensor, before[task][name]) for name, tensor in module.state_dict().items())


def test_a_coefficient_of_one_gives_the_expert_back():
    base = Tiny(0)
    expert = Tiny(1)
    with torch.no_grad():
        for own, start in zip(expert.parameters(), base.parameters(), strict=True):
            own.mul_(0.1).add_(start)
    result = Merge(base, {"one": expert}, method="task_arithmetic", init=1.0).learn()
    merged = result.module("one")
    assert merged.again.weight is merged.second.weight
    assert all(torch.equal(tensor, merged.state_dict()[name]) for name, tensor in expert.state_dict().items())


def test_plain_modules_are_exported_as_state_dicts(tmp_path):
    base = network()
    experts = {"one": network(1, near=base), "two": network(2, near=base)}
    result = Merge(base, experts, method="average").learn()
    exported = result.export(tmp_path / "shared")
    assert set(exported.checkpoints.values()) == {tmp_path / "shared"}
    again = network()
    again.load_state_dict(load_file(tmp_path / "shared" / "model.safetensors"))
    assert torch.equal(again(torch.ones(1, 4)), result.module("two")(torch.ones(1, 4)))
    with_heads = Merge(base, experts, method="average", parameters={"head": ["2.*"]}).learn()
    places = with_heads.export(tmp_path / "heads", dtype=torch.bfloat16).checkpoints
    assert sorted(path.name for path in (tmp_path / "heads").iterdir()) == ["one", "two"]
    state = load_file(places["two"] / "model.safetensors")
    assert state["2.weight"].dtype == torch.bfloat16
    assert torch.equal(state["2.weight"], experts["two"][2].weight.bfloat16())


def test_export_of_modules_is_whole_or_absent(tmp_path, monkeypatch):
    base = network()
    experts = {"one": network(1, near=base), "two": network(2, near=base)}
    result = Merge(base, experts, method="average", parameters={"head": ["2.*"]}).learn()
    calls = []

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("adamerge.results.merged_modules.write_safetensors", fail)
    with pytest.raises(OSError, match="No space"):
        result.export(tmp_path / "merged")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="exists already"):
        result.export(tmp_path)


def test_unknown_task_is_refused_by_name():
    base = network()
    result = Merge(base, {"one": network(1, near=base)}, method="average").learn()
    with pytest.raises(ConfigError, match=r"expected the name of a task \(one\), found 'news'"):
        result.module("news")


@pytest.mark.parametrize("form", ["module", "state dict"])
def test_a_state_dict_as_base_takes_the_class_of_an_expert(form):
    base, expert = network(), network(1, near=network())
    given = base if form == "module" else base.state_dict()
    merged = Merge(given, {"one": expert}, method="average").learn().module("one")
    torch.testing.assert_close(merged.state_dict(), expert.state_dict())


def test_without_steps_the_start_is_the_result_of_every_method(family):
    experts = [Expert(task, calibration=f"{task}.jsonl") for task in TASKS]
    result = Merge("base", experts, method="expert_merging++", init=0.25, trainer={"max_steps": 0}).learn()
    assert (result.coefficients == 0.25).all()


def test_saved_coefficients_name_their_centre(tmp_path):
    base = network()
    result = Merge(base, {"one": network(1, near=base)}, method="average").learn()
    result.save_coefficients(tmp_path / "c.safetensors")
    assert load_coefficients(tmp_path / "c.safetensors").centre == "base"


def test_other_shapes_are_refused_by_name():
    with pytest.raises(IncompatibleExpertsError, match=r"wide.*weight"):
        Merge(nn.Linear(2, 2), {"wide": nn.Linear(3, 2)}, method="average").learn()


# Processors of modules


def test_texts_are_encoded_with_the_tokenizer_in_the_folder_that_a_module_was_loaded_from(expected, loaded):
    experts = [Expert(model, task, calibration=texts(task)) for task, model in loaded.items()]
    found = Merge(AutoModel.from_pretrained("base"), experts, **QUICK).learn()
    torch.testing.assert_close(found.coefficients, expected)


@pytest.mark.parametrize(("place", "problem"), [("someone/model", "is no folder"), ("empty", "has neither of them")])
def test_a_module_without_a_processor_is_refused_with_the_place_that_it_is_from(loaded, place, problem):
    Path("empty").mkdir()
    for model in loaded.values():
        model.config._name_or_path = place
    experts = [Expert(model, task, calibration=texts(task)) for task, model in loaded.items()]
    base = AutoModel.from_pretrained("base")
    base.config._name_or_path = ""
    with pytest.raises(ConfigError, match=rf"{place}, which the expert was loaded from, {problem}.*Pass processor="):
        Merge(base, experts, **QUICK).learn()


@pytest.mark.parametrize(("name", "near"), [("modd", "mood"), ("topicc", "topic")])
def test_processors_of_tasks_that_there_are_not_are_refused(name, near):
    with pytest.raises(
        ConfigError, match=rf"processor: expected names of tasks as keys .*found '{name}'. Did you mean '{near}'"
    ):
        Merge("base", list(TASKS), processor={name: len})
