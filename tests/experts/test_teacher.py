"""The base as a teacher predicts what transformers' own class of the base predicts."""

import pytest
import torch
from support.families import build, save_family, save_tokenizer
from torch import nn

from adamerge.batch import Batch
from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.experts import KEEP
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.experts.from_modules import from_modules
from adamerge.experts.summary import describe
from adamerge.experts.teacher import with_teacher
from adamerge.experts.zero_shot import ZeroShot
from adamerge.merging.execution import execution_of, expert_of
from adamerge.merging.grouping import task_wise
from adamerge.merging.merged_model import MergedModel, task_vectors
from adamerge.types import ConfigError

MASK = torch.tensor([[1] * 6] * 3 + [[1, 1, 1, 0, 0, 0]])
IDS = {"input_ids": torch.arange(4, 28).view(4, 6), "attention_mask": MASK}
PIXELS = {"pixel_values": torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
LABELS = {"num_labels": 5}


def logits(base):
    return lambda inputs: base(**inputs).logits


def pooled(base):
    """The mean of the last hidden states of what is no padding, of length 1."""

    def run(inputs):
        states = base.base_model(**inputs).last_hidden_state
        mask = inputs.get("attention_mask", torch.ones(states.shape[:2]))[:, :, None].to(states)
        return nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)

    return run


def features(base):
    return lambda inputs: nn.functional.normalize(base.get_image_features(**inputs).pooler_output, dim=-1)


BASES = {  # class and family of base and experts, what is compared, rows
    "head of the experts' shape": ("ViTForImageClassification", "ViTForImageClassification", "vit", {}, logits, PIXELS),
    "head of other labels": ("ViTForImageClassification", "ViTForImageClassification", "vit", LABELS, logits, PIXELS),
    "head of texts": ("RobertaForSequenceClassification", "RobertaForMultipleChoice", "roberta", LABELS, logits, IDS),
    "masked language model": ("BertForMaskedLM", "BertForSequenceClassification", "bert", {}, logits, IDS),
    "language model": ("LlamaForCausalLM", "LlamaForCausalLM", "llama", {}, logits, IDS),
    "language model of classifiers": ("GPT2LMHeadModel", "GPT2ForSequenceClassification", "gpt2", {}, logits, IDS),
    "several heads": ("BertForPreTraining", "BertForSequenceClassification", "bert", {}, pooled, IDS),
    "no head": ("BertModel", "BertForSequenceClassification", "bert", {}, pooled, IDS),
    "no head nor pooler": ("DistilBertModel", "DistilBertForSequenceClassification", "distilbert", {}, pooled, IDS),
    "no head, pixels": ("ViTModel", "ViTForImageClassification", "vit", {}, pooled, PIXELS),
    "sentence encoder": ("BertModel", "BertModel", "bert", {}, pooled, IDS),
    "zero shot": ("CLIPModel", "CLIPModel", "clip", {}, features, PIXELS),
}


STREAMED = ("head of other labels", "masked language model", "no head")


@pytest.mark.parametrize(("name", "blocks"), [*((name, None) for name in BASES), *((name, ()) for name in STREAMED)])
def test_the_base_teaches_what_its_own_class_predicts(name, blocks, tmp_path):
    base_class, class_, family, more, predicts, inputs = BASES[name]
    base = build(base_class, family, 0, **more)
    paths = save_family(tmp_path, base, {task: build(class_, family, seed) for seed, task in enumerate("ab", 1)})
    save_tokenizer(tmp_path / "base")
    opened = {task: open_checkpoint(path) for task, path in paths.items()}
    words = {task: ZeroShot(["red", "blue"]) for task in "ab"} if name == "zero shot" else None
    experts = with_teacher(from_checkpoints(opened.pop(""), opened, None, words))
    model = MergedModel(experts, task_vectors(experts, experts.shared), task_wise(experts.shared), blocks=blocks)
    with torch.no_grad():
        expected = predicts(base)(inputs)
    batch = Batch(inputs, torch.arange(4))
    (alone,) = expert_of(model, KEEP).outputs([batch])
    with execution_of(model).at(torch.zeros(1, 2)) as merged:
        (at_base,) = merged.outputs({KEEP: [batch]})
    with execution_of(model).at(torch.ones(1, 2)) as merged:
        (elsewhere,) = merged.outputs({KEEP: [batch]})
    present = inputs["attention_mask"].bool() if expected.ndim == 3 else torch.ones(4, dtype=torch.bool)
    for found in (alone, at_base):
        torch.testing.assert_close(found.outputs.logits[present], expected[present], rtol=1e-4, atol=1e-5)
    assert (elsewhere.outputs.logits - expected)[present].abs().max() > 1e-3
    assert model.tasks == ("a", "b")
    (line,) = (line for line in describe(experts) if line.startswith("keep: "))
    assert ("by its own predictions" in line) == (predicts is logits or class_ == base_class == "BertModel")


def test_a_plain_base_without_the_experts_head_is_refused():
    def net(labels):
        return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, labels))

    from adamerge.experts.name_patterns import Split

    experts = from_modules(net(2), {"a": net(5), "b": net(3)}, Split(["1.*"]))
    with pytest.raises(ConfigError, match=r"keep: expected a base with a head .* found Sequential without 1\.weight"):
        with_teacher(experts)
