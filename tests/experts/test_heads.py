"""The split into shared parameters and heads, on real architectures."""

import pytest
from support.families import build, save_family

from adamerge.experts.checkpoint import open_checkpoint
from adamerge.experts.from_checkpoints import from_checkpoints
from adamerge.experts.heads import head_names
from adamerge.experts.name_patterns import Split
from adamerge.experts.skeleton import skeleton
from adamerge.types import IncompatibleExpertsError

HEADS = {
    ("BertForSequenceClassification", "bert"): {"classifier.weight", "classifier.bias"},
    ("BertForTokenClassification", "bert"): {"classifier.weight", "classifier.bias"},
    ("ViTForImageClassification", "vit"): {"classifier.weight", "classifier.bias"},
    ("CLIPForImageClassification", "clip"): {"classifier.weight", "classifier.bias"},
    ("SiglipForImageClassification", "siglip"): {"classifier.weight", "classifier.bias"},
    ("LlamaForSequenceClassification", "llama"): {"score.weight"},
    ("BertForMultipleChoice", "bert"): {"classifier.weight", "classifier.bias"},
    ("BertForQuestionAnswering", "bert"): {"qa_outputs.weight", "qa_outputs.bias"},
    ("BertForNextSentencePrediction", "bert"): {"cls.seq_relationship.weight", "cls.seq_relationship.bias"},
    ("BertForPreTraining", "bert"): {"cls.seq_relationship.weight", "cls.seq_relationship.bias"},
    ("DistilBertForSequenceClassification", "distilbert"): {
        f"{layer}.{kind}" for layer in ("pre_classifier", "classifier") for kind in ("weight", "bias")
    },
    ("LlamaForCausalLM", "llama"): set(),
    ("BertForMaskedLM", "bert"): set(),
    ("DistilBertForMaskedLM", "distilbert"): set(),
    ("RobertaForMaskedLM", "roberta"): set(),
    ("GPT2LMHeadModel", "gpt2"): set(),
    ("BartForConditionalGeneration", "bart"): set(),
    ("CLIPModel", "clip"): set(),
    ("T5ForConditionalGeneration", "t5"): set(),
    ("T5ForSequenceClassification", "t5"): {
        f"classification_head.{layer}.{kind}" for layer in ("dense", "out_proj") for kind in ("weight", "bias")
    },
}


@pytest.mark.parametrize(("architecture", "family"), HEADS)
def test_head_of(architecture, family):
    module = build(architecture, family, 0)
    assert head_names(module) == HEADS[architecture, family]
    assert head_names(skeleton(module.config, architecture)) == HEADS[architecture, family]


@pytest.mark.parametrize(
    ("backbone", "architecture", "family"),
    [
        ("BertModel", "BertForSequenceClassification", "bert"),
        ("ViTModel", "ViTForImageClassification", "vit"),
        ("CLIPForImageClassification", "CLIPForImageClassification", "clip"),
        ("BertForMultipleChoice", "BertForMultipleChoice", "bert"),  # one output, however many choices
    ],
)
def test_heads_of_equal_shape_are_not_merged(tmp_path, backbone, architecture, family):
    base = build(backbone, family, 0)
    paths = save_family(tmp_path, base, {name: build(architecture, family, seed) for seed, name in enumerate("ab", 1)})
    experts = from_checkpoints(open_checkpoint(paths.pop("")), {n: open_checkpoint(p) for n, p in paths.items()})
    assert set(experts.tasks["a"].head) == {"classifier.weight", "classifier.bias"}
    assert not any("classifier" in name for name in experts.shared)
    assert len(experts.shared) > 20


@pytest.mark.parametrize("tied", [True, False])
def test_output_embeddings_of_a_language_model_are_shared(tmp_path, tied):
    models = [build("LlamaForCausalLM", "llama", seed, tie_word_embeddings=tied) for seed in range(3)]
    paths = save_family(tmp_path, models[0], {"a": models[1], "b": models[2]})
    experts = from_checkpoints(open_checkpoint(paths.pop("")), {n: open_checkpoint(p) for n, p in paths.items()})
    assert ("lm_head.weight" in experts.shared) is not tied
    assert "model.embed_tokens.weight" in experts.shared
    assert experts.tasks["a"].head == ()


def test_patterns_override_the_split(tmp_path):
    models = [build("BertForSequenceClassification", "bert", seed) for seed in range(3)]
    paths = save_family(tmp_path, models[0], {"a": models[1], "b": models[2]})
    split = Split(head=["*.pooler.*"], base=["*.embeddings.*"], shared=["classifier.bias"])
    experts = from_checkpoints(open_checkpoint(paths.pop("")), {n: open_checkpoint(p) for n, p in paths.items()}, split)
    assert set(experts.tasks["a"].head) == {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight"}
    assert "classifier.bias" in experts.shared
    assert "bert.embeddings.word_embeddings.weight" in experts.kept
    assert not any("embeddings" in name for name in experts.shared)


def test_every_problem_is_listed_by_name(tmp_path):
    models = {
        "": build("BertForSequenceClassification", "bert", 0),
        "wide": build("BertForSequenceClassification", "bert", 1, max_position_embeddings=99),
        "words": build("BertForSequenceClassification", "bert", 2),
        "llama": build("LlamaForCausalLM", "llama", 3),
    }
    models["words"].resize_token_embeddings(44)
    paths = save_family(tmp_path, models.pop(""), models)
    with pytest.raises(IncompatibleExpertsError) as error:
        from_checkpoints(open_checkpoint(paths.pop("")), {n: open_checkpoint(p) for n, p in paths.items()})
    text = str(error.value)
    assert "words: vocabularies differ: vocab_size is 44 here and 40 in the base" in text
    assert "the expert is a llama, but the base" in text
    del paths["words"], paths["llama"]
    with pytest.raises(
        IncompatibleExpertsError, match=r"position_embeddings.weight has the shape \(99, 16\), but \(512, 16\)"
    ):
        from_checkpoints(open_checkpoint(str(tmp_path / "base")), {n: open_checkpoint(p) for n, p in paths.items()})
