"""A pool of adapters learns and exports what the same pool as complete checkpoints does."""

import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification

from adamerge import Expert, Merge

TASKS = ("mood", "topic", "speed")
OPTIONS = {
    "mood": {"target_modules": ["query", "value"], "task_type": "SEQ_CLS"},
    "topic": {"target_modules": ["query", "dense"], "use_rslora": True, "r": 2, "task_type": "SEQ_CLS"},
    "speed": {"target_modules": ["key"], "use_dora": True, "task_type": "SEQ_CLS"},
}
QUICK = {"data": {"batch_size": 4}}
STEPS = {"trainer": {"max_steps": 3}}


@pytest.fixture
def pool(family):
    """Adapters of three kinds over the base in `base`, and each of them merged by PEFT, in `dense/TASK`."""
    for seed, task in enumerate(TASKS):
        labels = AutoModelForSequenceClassification.from_pretrained(task).num_labels
        torch.manual_seed(seed)
        start = AutoModelForSequenceClassification.from_pretrained("base", num_labels=labels)
        model = get_peft_model(start, LoraConfig(lora_alpha=8, **{"r": 4, **OPTIONS[task]}))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn_like(parameter)
        model.save_pretrained(f"adapters/{task}")
        plain = AutoModelForSequenceClassification.from_pretrained("base", num_labels=labels)
        merged = PeftModel.from_pretrained(plain, f"adapters/{task}").merge_and_unload()
        merged.save_pretrained(f"dense/{task}")
    return family


def learned(kind, **more):
    experts = [Expert(f"{kind}/{task}", calibration=f"{task}.jsonl") for task in TASKS]
    steps = {} if more["method"] == "task_arithmetic" else STEPS
    return Merge("base", experts, **QUICK, **steps, **more).learn()


@pytest.mark.parametrize(
    "options",
    [
        {"method": "adamerging"},
        {"method": "expert_merging"},
        {"method": "expert_merging++", "chunks": {"first_steps": 2}},
    ],
    ids=lambda options: options["method"],
)
def test_adapters_learn_the_coefficients_of_dense_experts(pool, options):
    found, expected = (learned(kind, **options) for kind in ("adapters", "dense"))
    assert found.groups == expected.groups
    torch.testing.assert_close(found.coefficients, expected.coefficients, rtol=1e-3, atol=1e-4)


def test_the_export_of_adapters_is_that_of_dense_experts(pool):
    for kind in ("adapters", "dense"):
        learned(kind, method="task_arithmetic").export(f"merged/{kind}")
    for task in TASKS:
        found, expected = (
            AutoModelForSequenceClassification.from_pretrained(f"merged/{kind}/{task}").state_dict()
            for kind in ("adapters", "dense")
        )
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_a_pool_may_mix_adapters_and_checkpoints(pool):
    shutil.move("dense/topic", "adapters/topic_dense")
    experts = [
        Expert(place, calibration=f"{task}.jsonl", task=task)
        for place, task in (("adapters/mood", "mood"), ("adapters/topic_dense", "topic"), ("adapters/speed", "speed"))
    ]
    mixed = Merge("base", experts, method="adamerging", **QUICK, **STEPS).learn()
    torch.testing.assert_close(
        mixed.coefficients, learned("adapters", method="adamerging").coefficients, rtol=1e-3, atol=1e-4
    )
