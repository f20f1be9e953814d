"""Experts with heads of every shape, exported as adapters: what PEFT and transformers compute with them."""

import json
import warnings
from types import SimpleNamespace

import pytest
import torch
import transformers
from peft import PeftModel
from support.adapter_pool import merged_state
from support.adapters import experts_of, inputs_of, trained
from support.families import CONFIGS, VISION
from torch.func import functional_call

from adamerge.merging.grouping import task_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.results import adapter_export
from adamerge.results.adapter_export import export_adapter
from adamerge.results.adapter_targets import SAVED_BY_TASK, saved_apart, saved_modules
from adamerge.runs.adapter_limits import placeless

TEXT = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 40,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
QUERY = {"target_modules": ["query", "value"]}
LABELS = {"task_type": "SEQ_CLS"}

HEADS = {
    "RobertaForSequenceClassification": (TEXT, {**QUERY, **LABELS}, ["classifier"]),
    "XLMRobertaForSequenceClassification": (TEXT, {**QUERY, **LABELS}, ["classifier"]),
    "ElectraForSequenceClassification": ({**TEXT, "embedding_size": 16}, {**QUERY, **LABELS}, ["classifier"]),
    "EsmForSequenceClassification": ({**TEXT, "mask_token_id": 3}, {**QUERY, **LABELS}, ["classifier"]),
    "DistilBertForSequenceClassification": (
        "distilbert",
        {"target_modules": ["q_lin", "v_lin"], **LABELS},
        ["classifier", "pre_classifier"],
    ),
    "DebertaV2ForSequenceClassification": (
        TEXT,
        {"target_modules": ["query_proj", "value_proj"], "modules_to_save": ["pooler", "classifier"], **LABELS},
        ["classifier", "pooler"],
    ),
    "ModernBertForSequenceClassification": (
        {**TEXT, "cls_token_id": 3, "sep_token_id": 4},
        {"target_modules": ["Wqkv"], "modules_to_save": ["head", "classifier"], **LABELS},
        ["classifier", "head"],
    ),
    "BartForSequenceClassification": (
        "bart",
        {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["classification_head"], **LABELS},
        ["classification_head"],
    ),
    "LlamaForSequenceClassification": (TEXT, {"target_modules": ["q_proj", "v_proj"], **LABELS}, ["score"]),
    "GPT2ForSequenceClassification": (
        {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "vocab_size": 40, "pad_token_id": 2},
        {"target_modules": ["c_attn"], "fan_in_fan_out": True, **LABELS},
        ["score"],
    ),
    "ViTForImageClassification": (
        VISION,
        {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["classifier"]},
        ["classifier"],
    ),
    "BertForQuestionAnswering": (TEXT, {**QUERY, "task_type": "QUESTION_ANS"}, ["qa_outputs"]),
    "BigBirdForQuestionAnswering": (
        {**TEXT, "attention_type": "original_full"},
        {**QUERY, "modules_to_save": ["qa_classifier"]},
        ["qa_classifier"],
    ),
}
"""Configuration or family, options of PEFT, and the modules that PEFT saves; one within another it cannot load."""


def made(name, **more):
    """A tiny model of a class."""
    settings, cls = HEADS[name][0], getattr(transformers, name)
    config = CONFIGS[settings](**more) if isinstance(settings, str) else cls.config_class(**settings, **more)
    return cls(config).eval()


def base_of(name, **more):
    """The base; with another number of labels, its head has other values."""
    found = made(name, **more)
    for number, parameter in enumerate(found.parameters()):  # the head need not be last
        drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        parameter.data = 0.2 * drawn
    return found


def pool(folder, name):
    """A base, and a trained adapter with a head of its own for each of two tasks, with other labels if it has any."""
    base_of(name).save_pretrained(folder / "base")
    adapters = {}
    for seed, task in enumerate(("first", "second")):
        more = {} if "QuestionAnswering" in name else {"num_labels": 2 + seed}
        adapters[task] = folder / task
        trained(base_of(name, **more), HEADS[name][1], seed).save_pretrained(adapters[task])
    experts = experts_of(folder / "base", **adapters)
    vectors = task_vectors(experts, experts.shared)
    return MergedModel(experts, vectors, task_wise(vectors.shapes))


by_peft = PeftModel.from_pretrained


def by_transformers(base, folder):
    base.load_adapter(str(folder))
    return base


@torch.no_grad()
def outputs(call, module):
    """Logits, or the scores of where an answer starts, for a row that ends as sequences of BART do."""
    inputs = inputs_of(module)
    if "input_ids" in inputs and module.config.model_type == "bart":
        inputs["input_ids"][0, -1] = module.config.eos_token_id
    found = call(inputs)
    return found["logits" if "logits" in found else "start_logits"]


def with_adapter(name, module, load, folder):
    """The base with what was exported; whatever the base has in place of the head is replaced."""
    more = {} if "QuestionAnswering" in name else {"num_labels": module.config.num_labels}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load(base_of(name, **more), folder).eval()


@pytest.mark.parametrize("name", HEADS)
def test_each_task_has_the_logits_of_the_dense_merge(tmp_path, monkeypatch, name):
    """PEFT loads the one, transformers the other; the modules are those that PEFT saves for the class."""
    monkeypatch.setattr(adapter_export, "peft_version", lambda: None)  # they are loaded here
    model, coefficients = pool(tmp_path, name), torch.tensor([[7.0, -4.0]])
    exported = export_adapter(model, coefficients, tmp_path / "out")
    merged = {key: value.float() for key, value in merged_state(model, coefficients).items()}
    for (task, place), load in zip(exported.checkpoints.items(), (by_peft, by_transformers), strict=True):
        expert = model.experts.tasks[task]
        state = {key: expert.weights[key] for key in expert.weights.headers}
        expected, alone = (
            outputs(lambda given, own=own, expert=expert: functional_call(expert.module, own, (), given), expert.module)
            for own in (state | merged, state)
        )
        assert json.loads((place / "adapter_config.json").read_text())["modules_to_save"] == HEADS[name][2]
        adapted = with_adapter(name, expert.module, load, place)
        found = outputs(lambda given, adapted=adapted: adapted(**given), expert.module)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert (expected - alone).abs().max() > 1e-4


def test_parts_that_peft_saves_too_are_seen():
    module = made("BigBirdForQuestionAnswering")
    head = [name for name, _ in module.named_parameters() if name.startswith("qa_classifier")]
    assert saved_modules(module, head) == ["qa_classifier"]
    assert saved_apart(module, "QUESTION_ANS", ["qa_classifier"])
    assert not saved_apart(module, "SEQ_CLS", ["qa_classifier"])
    roberta = made("RobertaForSequenceClassification")
    assert saved_apart(roberta, "SEQ_CLS", ["classifier.out_proj"])
    assert not saved_apart(roberta, "SEQ_CLS", ["classifier"])


@pytest.mark.parametrize("task", SAVED_BY_TASK)
def test_the_modules_that_peft_saves_for_a_task(task):
    """By PEFT itself, over a model that has all of them."""
    from peft import LoraConfig, get_peft_model

    names = {name for own in SAVED_BY_TASK.values() for name in own}
    model = made("RobertaForSequenceClassification")
    for name in names - {"classifier"}:
        setattr(model, name, torch.nn.Linear(16, 2))
    found = get_peft_model(model, LoraConfig(task_type=task, target_modules=["query"])).base_model.model
    assert {name for name in names if hasattr(getattr(found, name), "modules_to_save")} == {*SAVED_BY_TASK[task]}


def test_a_head_that_is_no_module_is_refused_by_name():
    module = made("RobertaForSequenceClassification")
    whole = SimpleNamespace(
        own_module=module, weights={}, whole_head={"classifier.dense.weight", "classifier.dense.bias"}
    )
    assert not [*placeless(whole, [])]
    part = SimpleNamespace(own_module=module, weights={}, whole_head={"classifier.dense.bias"})
    (line,) = placeless(part, [])
    assert line.startswith("classifier.dense.bias: it is part of a head, but its module is not")
